"""Load a model for prediction: a checkpoint of any format, or a folder that ernie-m export wrote.

The config.json of an exported folder has "export": its task, its layer and how it was checked.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.inference import engines as openvino_engine
from ernie_m.inference.engines import (
    FILES,
    GraphRunner,
    HeadOnHiddenStates,
    OnnxEngine,
    PaddleEngine,
    encoder_engine,
    finite_outputs,
    onnx_engine,
)
from ernie_m.model.checkpoint.check_weights import check, unread
from ernie_m.model.checkpoint.format import read_labels
from ernie_m.model.checkpoint.key_mapping import CHOICE, encoder_shapes
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.weights import CONFIG, LANGUAGE_MEANS, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.open_model import OpenedModel, open_model
from ernie_m.model.preprocessing import (
    COLUMNS,
    GIVEN,
    MEAN_OF_TOKENS,
    PreprocessingConfig,
    read_preprocessing,
)
from ernie_m.model.tasks import (
    CLASSIFICATION,
    EMBEDDING,
    EXPORTED_TASKS,
    FILL_MASK,
    MULTI_LABEL,
    POOLED,
    REGRESSION,
    SUPERVISED_TASKS,
    TASKS,
    default_label_names,
    graph_outputs,
    task_named,
)
from ernie_m.model.threads import STOP, Workers, core_count
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.checksums import CARD, check_folder
from ernie_m.utils.errors import UserError, install_command, listed
from ernie_m.utils.files import FileVersion, get_file_version, read_object, reject_changed
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, prepare
from ernie_m.vectors.language_centering import LanguageCentering

if TYPE_CHECKING:
    from paddle import nn

    from ernie_m.training.precision import Autocast

_OF_CHECKPOINTS = ("openvino", "paddle-eager")  # the engines that run a checkpoint
EXPORT_FIRST = "ernie-m export --model FOLDER --output EXPORTED"
SHORTEST_LIMIT = 8  # the smallest max_seq_len, in tokens
LM_HEAD = "lm_head.dense.weight"
CLASSIFIER = "classifier.weight"


@dataclass
class LoadedModel:
    """A model that is ready to predict.

    Attributes:
        folder: the folder it was loaded from.
        task: what its head is for, a task of `ernie_m.model.tasks`; None: it is an encoder.
        labels: names in the order of the ids; [] if the head has none.
        given_labels: the same as a user of Python gave them to `fit`.
        engine_name: a key of `FILES`; of a checkpoint "openvino" or "paddle-eager".
        preprocessing: how inputs are read, and how vectors are made.
        preprocessing_errors: what the model's makers did in another way than this project can, in words.
        exported_layer: the layer at which an exported model ends; None for a checkpoint.
        has_pooler: False if the weights lack a pooler; the vectors of a random pooler would say nothing.
        amp: the half precision that it was loaded with, or "none".
        weights: those of a checkpoint, for the engine "openvino".
        model: for "paddle-eager" the model: an encoder, or a model that has an encoder as `.ernie_m`.
        autocast: makes the context for a forward pass of `model`.
        languages: the languages that the masked-LM head can be asked for.
        language_means_path: the file of the mean sentence vectors of languages; None: there is none.
        is_saved: whether the folder has this model; otherwise `fit` made it from the one that is there.
        columns: those of the table that `fit` learned from; see `LabeledTable` of
            `ernie_m.reader.files.labeled_tables`.
        versions: of the files that it was read from.
    """

    folder: Path
    task: str | None
    config: ErnieMConfig
    tokenizer: Tokenizer
    labels: list[str]
    given_labels: list[Any]
    engine_name: str
    preprocessing: PreprocessingConfig
    exported_layer: int | None = None
    has_pooler: bool = True
    amp: str = "none"
    weights: Weights | None = None
    model: "nn.Layer | None" = None
    autocast: "Autocast" = nullcontext
    languages: list[str] = field(default_factory=list)
    language_means_path: Path | None = None
    preprocessing_errors: list[str] = field(default_factory=list)
    columns: Mapping[str, Any] = field(default_factory=dict)
    is_saved: bool = True
    versions: Mapping[Path, FileVersion] = field(default_factory=dict)
    _engines: dict[tuple[str, int], GraphRunner] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last two folders of its path, and not where it is on this machine."""
        return str(Path(*self.folder.parts[-2:]))

    @property
    def longest(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.config.longest_input

    @property
    def longest_in_training(self) -> int:
        """The longest input of the fine-tuning if the files say it, otherwise `longest`."""
        return self.preprocessing.max_seq_len or self.longest

    @property
    def embedding_max_length(self) -> int:
        """The longest input of which vectors are made.

        It is what the model's files say. If the model has a head, they say it of the inputs of that head, and
        vectors are made of any input that the model has room for.
        """
        return self.longest if self.task else self.longest_in_training

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def embedding_layer(self) -> int:
        """The layer of an exported folder, else that of the training, else the last."""
        layers = (self.exported_layer, self.preprocessing.layer, self.num_layers)
        return next(layer for layer in layers if layer is not None)

    @cached_property
    def language_means(self) -> LanguageCentering:
        """The mean sentence vectors of languages, of pooling `MEANS_POOLING`.

        Raises:
            UserError: there are none, they are damaged, of another model, or others than when it was loaded.
        """
        if self.language_means_path is None:
            raise UserError(
                f"{self.name}: no {LANGUAGE_MEANS} is there, which centered vectors need; run_pretrain.py "
                "leaves it beside a finished model"
            )
        shape = (self.num_layers + 1, self.config.hidden_size)
        self.reject_others(versions_of(self.versions))
        return LanguageCentering.read(self.language_means_path, shape)

    def reject_others(self, versions: Mapping[Path, FileVersion]) -> None:
        """Refuse files, by their versions now, that are not those which this model was read from.

        Raises:
            UserError: they are not.
        """
        for path in sorted(versions.keys() | self.versions.keys()):
            reject_changed(path, versions.get(path), self.versions.get(path))

    def reopened(self) -> Checkpoint:
        """The checkpoint that it was loaded from.

        Raises:
            UserError: as `open_checkpoint`, or the files are others now.
        """
        checkpoint = open_checkpoint(self.folder)
        self.reject_others(versions_of(checkpoint.files))
        return checkpoint

    def limit(self, max_seq_len: int | None, default: int) -> int:
        """The longest input or window in tokens: `max_seq_len` if it is given, else the default.

        Raises:
            UserError: it is below 8 or above `longest`.
        """
        limit = default if max_seq_len is None else max_seq_len
        if not SHORTEST_LIMIT <= limit <= self.longest:
            raise UserError(
                f"max_seq_len {limit}: it must be between {SHORTEST_LIMIT} and {self.longest}, the longest "
                "input of this model"
            )
        return limit

    def engine(self, task: str, layer: int | None = None) -> GraphRunner:
        """The engine for a task.

        Args:
            layer: the layer at which encoding ends; None: the layer of an exported folder, else the last one.

        Raises:
            UserError: the model is not for this task.
        """
        self.check_task(task, layer)
        if layer is None:
            layer = self.num_layers if self.exported_layer is None else self.exported_layer
        if (task, layer) not in self._engines:
            run = self._start(task, layer)
            if self.engine_name in FILES:  # of a checkpoint the weights are looked at
                run = finite_outputs(run, self.folder)
            self._engines[task, layer] = run
        return self._engines[task, layer]

    def workers(self) -> Workers:
        """The threads that run it at a time, each on one core; an export's engine divides its work itself."""
        if self.engine_name == "openvino":
            return Workers(1 if STOP.get() else self._cores, most_tokens=openvino_engine.MOST_TOKENS)
        if self.engine_name == "paddle-eager":
            from ernie_m.model.cpu.workers import paddle_workers  # here, because it imports Paddle

            return paddle_workers()
        return Workers()

    @cached_property
    def _cores(self) -> int:
        return core_count()

    def part(self, task: str) -> "nn.Layer":
        """The part of a checkpoint's model that runs for a task."""
        return getattr(self.model, "ernie_m", self.model) if task == EMBEDDING else self.model

    def check_task(self, task: str, layer: int | None = None) -> None:
        """Check that the model is for a task, and that an exported encoder ends at the layer.

        Raises:
            UserError: it is not, or ends elsewhere.
        """
        if self.exported_layer is None:
            if task not in (EMBEDDING, self.task):  # every model has an encoder
                raise UserError(f"{self.folder}: this model is not for {task}: {self.describe_head()}")
            return
        exported_task = self.task or EMBEDDING
        if task != exported_task or layer not in (None, self.exported_layer):
            up_to = "" if layer is None else f" --layer {layer}"
            raise UserError(
                f"{self.folder}: exported for {exported_task} up to layer {self.exported_layer}; export the "
                f"checkpoint for this: {EXPORT_FIRST} --task {task}{up_to}"
            )

    @property
    def predicts_numbers(self) -> bool:
        """Whether the head has one output, as those of a regression and of multiple choice."""
        return self.task == CLASSIFICATION and len(self.labels) == 1 and not self.preprocessing.multi_label

    @property
    def ranks(self) -> bool:
        """Whether it gives pairs of texts a number, as a reranker does."""
        return self.predicts_numbers and self.preprocessing.pairs is not False

    @property
    def own_task(self) -> str | None:
        """What the model is asked for if nobody says it: what its head is for; None: it has none."""
        if self.preprocessing.multi_label and self.task == CLASSIFICATION:
            return MULTI_LABEL
        return REGRESSION if self.predicts_numbers else self.task

    def describe_head(self) -> str:
        """What the model is for, for a message to someone who expects something else."""
        if (self.folder / "model_head.pkl").is_file():
            return "its head is a pickle of SetFit, which is not read; learn the labels again: ernie-m fit"
        if self.task is None:
            return "it has no head, so fine-tune it first"
        if self.task == FILL_MASK:
            return "its head is for masked language modeling, so fine-tune it first"
        return f"its head is for {self.own_task}"

    def _start(self, task: str, layer: int) -> GraphRunner:
        """Make the engine of this model for a task and a layer."""
        if self.engine_name == "paddle-eager":
            from ernie_m.inference.paddle_engine import DygraphEngine

            return DygraphEngine(self.part(task), task, layer, self.autocast, self.has_pooler)
        if self.engine_name in FILES:  # a checkpoint's weights look themselves
            self.reject_others(versions_of(self.versions))
        has_pooled = self.has_pooler and layer == self.num_layers
        if self.engine_name == "paddle-inference":
            return PaddleEngine(self.folder, graph_outputs(task, has_pooled), self.amp)
        if self.engine_name == "onnx":
            return run_onnx(self.folder / FILES[self.engine_name], self.config, task, has_pooled)
        if task == EMBEDDING:
            return encoder_engine(self.weights, self.config, layer, self.amp)
        return HeadOnHiddenStates(
            self.engine(EMBEDDING, layer), self.weights, self.config, task, self.preprocessing.pooling
        )


def versions_of(files: Iterable[Path]) -> dict[Path, FileVersion]:
    """The version of each file or folder that is there."""
    return {path.absolute(): get_file_version(path) for path in files if path.exists()}


def load(
    folder: str | Path,
    *,
    engine: str = "auto",
    task: str | None = None,
    amp: str = "none",
) -> LoadedModel:
    """Load a model.

    Args:
        folder: a checkpoint of any supported format, or an exported folder.
        engine: "auto" is for a checkpoint "openvino" on a CPU, if it is installed and the task is another one
            than fill-mask, otherwise "paddle-eager"; for an exported folder it is the first one that it has
            of "onnx" and "paddle-inference".
        task: what the model is for; that of a checkpoint's classifier, if its files do not name it.
        amp: "bf16": multiply in bfloat16, on a CPU with avx512_bf16 or AMX or on a GPU from A100 on; "fp16":
            in float16, on a GPU. An exported folder computes as it was exported, but in float16 with "fp16"
            and engine "paddle-inference" on a GPU.

    Raises:
        UserError: a missing folder or file, an engine that the folder does not have, or `amp` where it is not
            possible.
    """
    folder = Path(folder)
    config_json = exported_settings(folder)
    if config_json is not None:
        return _load_export(folder, config_json, engine, amp)
    if engine in FILES:
        raise UserError(f"{folder}: engine {engine} needs an exported folder: {EXPORT_FIRST}")
    engine = engine_of(engine, task)
    if engine == "paddle-eager":
        prepare()
    return load_opened(open_model(open_checkpoint(folder)), folder, task, amp, engine=engine)


def engine_of(engine: str, task: str | None = None) -> str:
    """The engine of a checkpoint, "openvino" or "paddle-eager". `engine`, `task`: as `load` takes them.

    Raises:
        UserError: there is no such engine, or the task has no graph.
    """
    engines = ("auto", *_OF_CHECKPOINTS, *FILES)
    if engine not in engines:
        raise UserError(f"engine {engine!r}: it must be one of {', '.join(engines)}")
    if engine == "openvino" and task == FILL_MASK:
        raise UserError(f"engine openvino: {task} is done by Paddle; leave the engine out")
    if engine != "auto":
        return engine
    if openvino_engine.is_best() and task != FILL_MASK:
        return "openvino"
    if not (openvino_engine.is_installed() or has_gpu()):
        _recommend_openvino()
    return "paddle-eager"


@cache  # once in a process
def _say_engine(engine: str) -> None:
    logger.info("engine: %s", engine)


@cache  # once in a process
def _recommend_openvino() -> None:
    logger.warning("on a CPU predictions are faster with OpenVINO: %s", install_command("openvino"))


def run_onnx(path: Path, config: ErnieMConfig, task: str, has_pooled: bool) -> GraphRunner:
    """The engine for an ONNX file: OpenVINO on a CPU, if it is installed, otherwise ONNX Runtime."""
    if openvino_engine.is_installed() and not has_gpu():
        return onnx_engine(path, config, task, has_pooled)
    return OnnxEngine(path)


def exported_settings(folder: Path) -> dict[str, Any] | None:
    """The config.json of an exported folder; None for other folders."""
    path = folder / CONFIG
    config_json = read_object(path) if path.is_file() else {}
    return config_json if "export" in config_json else None


def _load_export(folder: Path, config_json: dict[str, Any], engine: str, amp: str) -> LoadedModel:
    """`load` for an exported folder with this config.json."""
    available = [name for name, file in FILES.items() if (folder / file).is_file()]
    if engine == "auto" and available:
        engine = available[0]
    if engine not in available:
        names = ", ".join(available) or "none"
        raise UserError(
            f"{folder}: engine {engine} is not in this folder, which has {names}; "
            f"ernie-m export --format writes {' or '.join(FILES)}"
        )
    is_float16_in_paddle = engine == "paddle-inference" and amp == "fp16"
    if amp != "none" and not is_float16_in_paddle:
        raise UserError(f"{folder}: amp {amp} is for checkpoints; this folder computes as it was exported")
    versions = versions_of(path for path in folder.iterdir() if path.name != CARD)
    check_folder(folder)
    config = _read_export_config(folder / CONFIG, config_json)
    export = config_json["export"]
    task = task_named(export["task"])
    preprocessing = read_preprocessing(config_json, folder / CONFIG)
    means_path = folder / LANGUAGE_MEANS
    labels = read_labels(config_json, "labels", folder / CONFIG)
    return LoadedModel(
        folder=folder,
        task=None if task == EMBEDDING else task,
        config=config,
        tokenizer=Tokenizer.from_folder(folder, preprocessing.text_rules, preprocessing.added_tokens),
        labels=labels,
        given_labels=_given_labels(config_json, labels, folder),
        engine_name=engine,
        amp=amp,
        preprocessing=preprocessing,
        exported_layer=export["layer"],
        has_pooler=export["has_pooler"],
        language_means_path=means_path if means_path.is_file() else None,
        columns=config_json.get(COLUMNS, {}),
        versions=versions,
    )


def _read_export_config(path: Path, config_json: dict[str, Any]) -> ErnieMConfig:
    """The model's shape from the config.json of an exported folder, which others may have changed.

    Raises:
        UserError: it does not say what was exported.
    """
    try:
        config = ErnieMConfig.from_dict(config_json)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    export = config_json["export"] if isinstance(config_json["export"], dict) else {}
    task = task_named(str(export.get("task")))
    layer = export.get("layer")
    is_task = task in EXPORTED_TASKS
    is_layer = type(layer) is int and 0 <= layer <= config.num_hidden_layers
    lacks_labels = is_task and TASKS[task].has_labels and not config_json.get("labels")
    if lacks_labels or not (is_task and is_layer and type(export.get("has_pooler")) is bool):
        raise UserError(f"{path}: does not say what was exported, or the labels; export the checkpoint again")
    return config


def _given_labels(settings: Mapping[str, Any], labels: list[str], path: Path) -> list[Any]:
    """`LoadedModel.given_labels` from the config.json of the model at `path`.

    Raises:
        UserError: they are not one for each label.
    """
    given = settings.get(GIVEN, labels) if labels else []
    are_labels = isinstance(given, list) and all(isinstance(label, str | int | float) for label in given)
    if not are_labels or len(given) != len(labels):
        raise UserError(f"{path}: config.json: {GIVEN} must have a text, number or bool for each label")
    return given


def load_opened(
    opened: OpenedModel,
    folder: Path,
    task: str | None = None,
    amp: str = "none",
    *,
    engine: str,
    encoder_only: bool = False,
) -> LoadedModel:
    """`load` for a checkpoint that was opened; with `encoder_only` without its head, whatever that is for.

    Args:
        engine: "openvino"; or "paddle-eager", after `prepare`.
    """
    checkpoint = opened.checkpoint
    assert checkpoint is not None  # random weights predict nothing
    task = None if encoder_only else find_head_task(checkpoint, task)
    if engine == "openvino":
        openvino_engine.check(amp)
        _check_weights(checkpoint, opened.config, task)
        of_engine: dict[str, Any] = {"weights": checkpoint.tensors}
        _say_engine(f"OpenVINO, {core_count()} thread{'s' * (core_count() > 1)}")
    else:
        # Imported here, because Paddle takes a second to start.
        from ernie_m.inference.paddle_engine import build_model
        from ernie_m.training.precision import prepare_for_prediction

        model, languages = build_model(checkpoint, opened.config, task)
        autocast = prepare_for_prediction(model, amp)
        of_engine = {"model": model, "languages": languages, "autocast": autocast}
        _say_engine("Paddle")
    labels: list[str] = []
    if task is not None and TASKS[task].has_labels:
        count = checkpoint.tensors.shape("classifier.weight")[1]  # [H, labels]
        labels = checkpoint.labels or default_label_names(count)
        if count > 1 and not checkpoint.labels:
            logger.warning(
                "%s has no names of its labels (as in LABEL_0): they are called %s by their numbers; write "
                "names into config.json, under id2label (in a folder that this project wrote: labels)",
                checkpoint.path,
                listed(labels),
            )
        if len(labels) != count:
            raise UserError(
                f"{checkpoint.path}: {count} labels, but {len(labels)} names of labels in config.json; give "
                "each of the outputs of the head a name there, in their order"
            )
    return LoadedModel(
        folder=folder,
        task=task,
        config=opened.config,
        tokenizer=opened.tokenizer,
        labels=labels,
        given_labels=_given_labels(checkpoint.settings, labels, checkpoint.path),
        engine_name=engine,
        amp=amp,
        preprocessing=opened.preprocessing,
        has_pooler=checkpoint.has_pooler,
        **of_engine,
        language_means_path=checkpoint.language_means_path,
        preprocessing_errors=checkpoint.preprocessing_errors,
        columns=checkpoint.settings.get(COLUMNS, {}),
        versions=versions_of(checkpoint.files),
    )


def find_head_task(checkpoint: Checkpoint, requested_task: str | None) -> str | None:
    """The task of a checkpoint's head: one of `SUPERVISED_TASKS`, `FILL_MASK` or None.

    Args:
        requested_task: the task of a classifier whose files do not name it.

    Raises:
        UserError: nothing says what its classifier is for.
    """
    tensors = checkpoint.tensors
    if CLASSIFIER not in tensors:
        return FILL_MASK if LM_HEAD in tensors else None
    task = checkpoint.task or requested_task
    if task == CHOICE:  # its choices are scored by a classifier of one label
        return CLASSIFICATION
    if task not in SUPERVISED_TASKS:
        raise UserError(
            f"{tensors.source}: it has a classifier, and no file says what it is for; name its task "
            f"({', '.join(SUPERVISED_TASKS)})"
        )
    return task


def _check_weights(checkpoint: Checkpoint, config: ErnieMConfig, task: str | None) -> None:
    """Compare the weights with what the graph of an encoder needs, and the head of a task.

    Raises:
        UserError: they do not fit together.
    """
    shapes = encoder_shapes(config)
    is_pooled = task is not None and TASKS[task].head_reads == POOLED
    reads_pooler = is_pooled and checkpoint.preprocessing.pooling != MEAN_OF_TOKENS and not config.is_static
    if task in SUPERVISED_TASKS:
        labels = checkpoint.tensors.shape(CLASSIFIER)[1]
        shapes |= {CLASSIFIER: (config.hidden_size, labels), "classifier.bias": (labels,)}
    without = unread(checkpoint, reads_pooler)
    check({name: shape for name, shape in shapes.items() if not name.startswith(without)}, config, checkpoint)
