"""Every task, described in one place: its names, its model, the outputs, and what answers requests.

A new task begins with a `TaskDescription` here. This file needs no Paddle: it only names the classes of other
files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLASSIFICATION = "classification"
TAGGING = "tagging"
QUESTION_ANSWERING = "question_answering"
ENCODING = "encoding"
RETRIEVAL = "retrieval"
MASKED_LM = "fill"

# What a head reads: the pooled first token of a sequence, [B, H], or every token, [B, T, H]. A classifier may
# read the mean over all tokens instead of the first, [B, H]. The first two are also names of poolings.
POOLED = "pooled"
MEAN_OF_TOKENS = "specials"  # the special tokens count, too
TOKENS = "tokens"


@dataclass(frozen=True)
class Prediction:
    """A kind of request: something that a model can be asked for.

    Attributes:
        word: ernie-m predict --task, and the address of the server, /api/<word>.
        answerer: the file and the class in `ernie_m.inference.tasks` that answer requests.
    """

    word: str
    answerer: str


@dataclass(frozen=True)
class TaskDescription:
    """What a model is for.

    Attributes:
        name: "task" in config.json, and ernie-m export --task.
        other_names: the official name, which is also "head" in config.json; names that "task" had earlier.
        model_class: a class of `ernie_m.model.heads`, or that of `ernie_m.model.lm_head`; None: the encoder.
        head_reads: what the layer named "classifier" reads, `POOLED` or `TOKENS`; None: it has no such layer.
        has_labels: whether the outputs of that layer have names, which are "labels" in config.json.
        outputs: what `export` writes a graph for: the name of each output -> its axes. With two outputs, the
            last axis of the classifier is split. Empty: the task cannot be exported.
        predictions: what a model for this task can be asked for; the first one is the task itself.
        pipeline: the name that model hubs have for the task.
    """

    name: str
    pipeline: str
    other_names: tuple[str, ...] = ()
    model_class: str | None = None
    head_reads: str | None = None
    has_labels: bool = False
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()

    @property
    def names(self) -> list[str]:
        """All names: also the word of its first prediction, and the class of its model."""
        names = [self.name, *self.other_names]
        if self.predictions:
            names.append(self.predictions[0].word)
        if self.model_class:
            names.append(self.model_class)
        return names


_ALL_TASKS = (
    TaskDescription(
        CLASSIFICATION,
        pipeline="text-classification",
        other_names=("cls",),
        model_class="SequenceClassifier",
        head_reads=POOLED,
        has_labels=True,
        outputs={"logits": ("batch", "labels")},
        predictions=(
            Prediction("classify", "finetuned.ClassifyTexts"),
            Prediction("zero-shot", "zero_shot.ClassifyByLabels"),
        ),
    ),
    TaskDescription(
        TAGGING,
        pipeline="token-classification",
        other_names=("seq_label", "sequence_labeling"),
        model_class="TokenClassifier",
        head_reads=TOKENS,
        has_labels=True,
        outputs={"logits": ("batch", "length", "labels")},
        predictions=(Prediction("tag", "finetuned.TagWords"),),
    ),
    TaskDescription(
        QUESTION_ANSWERING,
        pipeline="question-answering",
        other_names=("mrc", "question answering"),
        model_class="SpanClassifier",
        head_reads=TOKENS,
        outputs={"start_logits": ("batch", "length"), "end_logits": ("batch", "length")},
        predictions=(Prediction("answer", "finetuned.AnswerQuestions"),),
    ),
    TaskDescription(
        ENCODING,
        pipeline="feature-extraction",
        outputs={"sequence": ("batch", "length", "hidden"), "pooled": ("batch", "hidden")},
        predictions=(
            Prediction("encode", "encode.EncodeTexts"),
            Prediction("search", "search.SearchCorpus"),
        ),
    ),
    TaskDescription(RETRIEVAL, pipeline="sentence-similarity"),  # its model is an encoder
    TaskDescription(
        MASKED_LM,
        pipeline="fill-mask",
        model_class="PreTrainingModel",
        predictions=(Prediction("fill", "masked_words.FillMasks"),),
    ),
)
TASKS = {task.name: task for task in _ALL_TASKS}
PREDICTIONS = {prediction.word: prediction for task in _ALL_TASKS for prediction in task.predictions}
# The tasks that are fine-tuned on labelled files: their models have a layer named "classifier".
SUPERVISED_TASKS = tuple(task.name for task in _ALL_TASKS if task.head_reads)
# The tasks whose models ernie-m export writes.
EXPORTED_TASKS = tuple(task.name for task in _ALL_TASKS if task.outputs)

_NAME_OF = {name: task.name for task in _ALL_TASKS for name in task.names}


def task_named(name: str) -> str:
    """The first name of the task that a name stands for; a name that stands for none is returned as it is."""
    return _NAME_OF.get(name, name)


def outputs_of(task: str, has_pooled: bool) -> tuple[str, ...]:
    """The names of a task's outputs.

    Args:
        has_pooled: whether an encoder has the pooled first token, as it has with a pooler and the top layer.
    """
    return tuple(name for name in TASKS[task].outputs if has_pooled or name != "pooled")


def names_of_ids(count: int) -> list[str]:
    """The labels of a model without a label map: "0", "1", ..."""
    return [str(id_) for id_ in range(count)]
