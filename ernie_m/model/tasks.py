"""The registry of tasks: name, model class and outputs of each.

A new task starts with a `Task` here. Classes are registered by name, so that Paddle is not imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLASSIFICATION = "classification"
MULTI_LABEL = "multi-label"
REGRESSION = "regression"
ZERO_SHOT = "zero-shot"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"
EMBEDDING = "embedding"
SEARCH = "search"
FILL_MASK = "fill-mask"

# Input of a head: the pooled first token of a sequence, [B, H], or every token, [B, T, H]. The first is also
# the name of a pooling. A classifier may use the mean of all tokens instead, [B, H].
POOLED = "pooled"
TOKENS = "tokens"


@dataclass(frozen=True)
class Task:
    """Entry of the task registry.

    Attributes:
        name: value of --task of the commands, and the route of the server, /api/<name>.
        pipeline_tag: pipeline tag of model hubs.
        stored: name of the task in model files, "task" in config.json; "": it uses another task's model.
        model_class: a class of `ernie_m.model.heads` or `ernie_m.model.lm_head`; None: the encoder.
        head_reads: input of the layer named "classifier", `POOLED` or `TOKENS`; None: no such layer.
        has_labels: whether the outputs of that layer have names, "labels" in config.json.
        outputs: outputs of an exported graph: name -> axes. With two outputs, the last axis of the classifier
            is split. Empty: the task cannot be exported.
    """

    name: str
    pipeline_tag: str = ""
    stored: str = ""
    model_class: str | None = None
    head_reads: str | None = None
    has_labels: bool = False
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_ALL_TASKS = (
    Task(
        CLASSIFICATION,
        pipeline_tag="text-classification",
        stored="classification",
        model_class="SequenceClassifier",
        head_reads=POOLED,
        has_labels=True,
        outputs={"logits": ("batch", "labels")},
    ),
    Task(MULTI_LABEL),
    Task(REGRESSION),
    Task(ZERO_SHOT),
    Task(
        TOKEN_CLASSIFICATION,
        pipeline_tag="token-classification",
        stored="tagging",
        model_class="TokenClassifier",
        head_reads=TOKENS,
        has_labels=True,
        outputs={"logits": ("batch", "length", "labels")},
    ),
    Task(
        QUESTION_ANSWERING,
        pipeline_tag="question-answering",
        stored="question_answering",
        model_class="SpanClassifier",
        head_reads=TOKENS,
        outputs={"start_logits": ("batch", "length"), "end_logits": ("batch", "length")},
    ),
    Task(
        EMBEDDING,
        pipeline_tag="feature-extraction",
        stored="encoding",
        outputs={"sequence": ("batch", "length", "hidden"), "pooled": ("batch", "hidden")},
    ),
    # The model of retrieval is an encoder, which may have been trained for it.
    Task(SEARCH, pipeline_tag="sentence-similarity", stored="retrieval"),
    Task(
        FILL_MASK,
        pipeline_tag="fill-mask",
        stored="fill",
        model_class="PreTrainingModel",
    ),
)
TASKS = {task.name: task for task in _ALL_TASKS}
# The supervised tasks, whose models have a layer named "classifier".
SUPERVISED_TASKS = tuple(task.name for task in _ALL_TASKS if task.head_reads)
# The tasks whose models ernie-m export supports.
EXPORTED_TASKS = tuple(task.name for task in _ALL_TASKS if task.outputs)

_NAME_OF = {name: task.name for task in _ALL_TASKS for name in (task.stored, task.model_class) if name}


def find_task(name: str) -> str:
    """Return the task for its name or model class in model files; unknown names are returned unchanged."""
    return _NAME_OF.get(name, name)


def get_stored_name(task: str) -> str:
    """Return the name of a task in model files; names that are not in the registry are returned unchanged."""
    return TASKS[task].stored if task in TASKS else task


def list_graph_outputs(task: str, has_pooled: bool) -> tuple[str, ...]:
    """Return the output names of a task's exported graph.

    Args:
        has_pooled: whether the graph of an encoder has the pooler output.
    """
    return tuple(name for name in TASKS[task].outputs if has_pooled or name != "pooled")


def make_default_label_names(count: int) -> list[str]:
    """Return the default label names of a model without a label map: "0", "1", ..."""
    return [str(id_) for id_ in range(count)]
