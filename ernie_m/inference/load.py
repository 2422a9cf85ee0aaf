"""Loading of models for prediction: a checkpoint of any supported format, or an exported model.

The config.json of an export has the key "export", with its task, its layer and how it was verified.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.inference import openvino_engine
from ernie_m.inference.engines import FILES, GraphRunner, wrap_with_checks
from ernie_m.inference.linear_head_engine import LinearHeadEngine
from ernie_m.inference.onnx_engine import OnnxEngine
from ernie_m.inference.openvino_engine import load_onnx_file, make_encoder_engine
from ernie_m.inference.paddle_inference_engine import PaddleInferenceEngine
from ernie_m.model.checkpoint.check_weights import check_weights, list_unused_parts
from ernie_m.model.checkpoint.convert_names import CHOICE
from ernie_m.model.checkpoint.format import read_labels
from ernie_m.model.checkpoint.native_names import encoder_shapes
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.weights import CONFIG, LANGUAGE_MEANS, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.open_model import OpenedModel, open_model
from ernie_m.model.pipeline_config import (
    COLUMNS,
    GIVEN,
    MEAN_OF_TOKENS,
    PipelineConfig,
    read_pipeline_config,
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
    find_task,
    list_graph_outputs,
    make_default_label_names,
)
from ernie_m.model.threads import STOP, Workers, get_thread_count
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.checksums import CARD, check_folder
from ernie_m.utils.errors import UserError, get_install_command, join_items
from ernie_m.utils.files import FileVersion, get_file_version, read_object, reject_changed_file
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, prepare
from ernie_m.vectors.language_centering import LanguageCentering

if TYPE_CHECKING:
    from paddle import nn

    from ernie_m.training.precision import Autocast

_OF_CHECKPOINTS = ("openvino", "paddle-eager")  # the engines that run a checkpoint
EXPORT_FIRST = "ernie-m export --model FOLDER --output EXPORTED"
SHORTEST_LIMIT = 8  # minimum max_seq_len, in tokens
LM_HEAD = "lm_head.dense.weight"
CLASSIFIER = "classifier.weight"


@dataclass
class LoadedModel:
    """A model ready for prediction.

    Attributes:
        folder: the directory of the model.
        task: the task of the head, see `ernie_m.model.tasks`; None: an encoder without a head.
        labels: label names in the order of their ids; [] if the head has no labels.
        given_labels: the labels as passed to `fit` in Python.
        engine_name: a key of `FILES`; for a checkpoint "openvino" or "paddle-eager".
        pipeline_config: the pipeline settings.
        pipeline_errors: messages about pipeline steps of the model that are not supported.
        exported_layer: the last layer of an exported model; None for a checkpoint.
        has_pooler: whether the weights include a pooler.
        amp: the half precision in use, or "none".
        weights: the weights of a checkpoint, for the engine "openvino".
        model: the model for "paddle-eager": an encoder, or a model with an encoder as `.ernie_m`.
        autocast: returns the context manager of a forward pass of `model`.
        languages: the languages of the masked-LM head.
        language_means_path: the file of the mean sentence embedding of each language; None: missing.
        is_saved: whether the directory contains this model; otherwise it contains the base model of a `fit`
            that was not saved.
        columns: the columns of the training table of `fit`; see `LabeledTable` of
            `ernie_m.reader.files.labeled_tables`.
        versions: the versions of the model's files, to detect changes.
    """

    folder: Path
    task: str | None
    config: ErnieMConfig
    tokenizer: Tokenizer
    labels: list[str]
    given_labels: list[Any]
    engine_name: str
    pipeline_config: PipelineConfig
    exported_layer: int | None = None
    has_pooler: bool = True
    amp: str = "none"
    weights: Weights | None = None
    model: "nn.Layer | None" = None
    autocast: "Autocast" = nullcontext
    languages: list[str] = field(default_factory=list)
    language_means_path: Path | None = None
    pipeline_errors: list[str] = field(default_factory=list)
    columns: Mapping[str, Any] = field(default_factory=dict)
    is_saved: bool = True
    versions: Mapping[Path, FileVersion] = field(default_factory=dict)
    _engines: dict[tuple[str, int], GraphRunner] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the model: the last two components of the path of its directory."""
        return str(Path(*self.folder.parts[-2:]))

    @property
    def max_length(self) -> int:
        """The maximum length of an input in tokens, including special tokens."""
        return self.config.max_input_length

    @property
    def training_max_length(self) -> int:
        """The maximum input length in fine-tuning, if the model's files specify it, else `max_length`."""
        return self.pipeline_config.max_seq_len or self.max_length

    @property
    def embedding_max_length(self) -> int:
        """The maximum length of a text to embed, in tokens, from the model's files.

        If the model has a head, the value in the files is for the head, so the result is `max_length`.
        """
        return self.max_length if self.task else self.training_max_length

    @property
    def num_layers(self) -> int:
        """The number of encoder layers."""
        return self.config.num_hidden_layers

    @property
    def embedding_layer(self) -> int:
        """The default layer of embeddings: that of the export or in the model's files, otherwise the last."""
        layers = (self.exported_layer, self.pipeline_config.layer, self.num_layers)
        return next(layer for layer in layers if layer is not None)

    @cached_property
    def language_means(self) -> LanguageCentering:
        """The mean sentence embedding of each language, with pooling `MEANS_POOLING`.

        Raises:
            UserError: the file is missing or corrupt, belongs to another model, or changed since loading.
        """
        if self.language_means_path is None:
            raise UserError(
                f"{self.name}: missing {LANGUAGE_MEANS}, required to center embeddings. run_pretrain.py "
                "writes it next to a finished model"
            )
        shape = (self.num_layers + 1, self.config.hidden_size)
        self.check_unchanged(read_versions(self.versions))
        return LanguageCentering.read(self.language_means_path, shape)

    def check_unchanged(self, versions: Mapping[Path, FileVersion]) -> None:
        """Check that files have not changed since this model was loaded.

        Args:
            versions: file -> its current version.

        Raises:
            UserError: a file changed.
        """
        for path in sorted(versions.keys() | self.versions.keys()):
            reject_changed_file(path, versions.get(path), self.versions.get(path))

    def reopen_checkpoint(self) -> Checkpoint:
        """Open the checkpoint of this model again.

        Raises:
            UserError: a file changed; see also `open_checkpoint`.
        """
        checkpoint = open_checkpoint(self.folder)
        self.check_unchanged(read_versions(checkpoint.files))
        return checkpoint

    def share_encoder(self, fitted: OpenedModel) -> "LoadedModel":
        """Load a classifier of `fit` that was not saved. With OpenVINO, it shares the encoder of this model.

        Args:
            fitted: the encoder of this model up to a layer, with a linear head.
        """
        classifier = load_opened_model(fitted, self.folder, amp=self.amp, engine=self.engine_name)
        classifier.is_saved = False
        if classifier.engine_name == "openvino":
            key = EMBEDDING, classifier.num_layers
            encode = classifier._engines[key] = self.get_engine(*key)
            head = {name: fitted.checkpoint.tensors[name] for name in (CLASSIFIER, "classifier.bias")}
            classifier.weights = Weights.from_arrays({**encode.weights, **head})
        return classifier

    def resolve_max_seq_len(self, max_seq_len: int | None, default: int) -> int:
        """Return the maximum length of an input or window in tokens: `max_seq_len`, or `default` if None.

        Raises:
            UserError: the length is below 8 or above `max_length`.
        """
        limit = default if max_seq_len is None else max_seq_len
        if not SHORTEST_LIMIT <= limit <= self.max_length:
            raise UserError(
                f"invalid max_seq_len {limit} (expected {SHORTEST_LIMIT} to {self.max_length}, "
                "the model's maximum)"
            )
        return limit

    def get_engine(self, task: str, layer: int | None = None) -> GraphRunner:
        """Return the inference engine for a task, which is created on the first call.

        Args:
            layer: the last layer to compute; None: the layer of the export, otherwise the last one.

        Raises:
            UserError: the model does not support this task.
        """
        self.check_task(task, layer)
        if layer is None:
            layer = self.num_layers if self.exported_layer is None else self.exported_layer
        if (task, layer) not in self._engines:
            run = self._create_engine(task, layer)
            if self.engine_name in FILES:  # the weights of a checkpoint are checked themselves
                run = wrap_with_checks(run, self.folder)
            self._engines[task, layer] = run
        return self._engines[task, layer]

    def get_workers(self) -> Workers:
        """Return the worker threads of the model, one per core; exports have their own threads."""
        if self.engine_name == "openvino":
            return Workers(1 if STOP.get() else self._num_cores, most_tokens=openvino_engine.MOST_TOKENS)
        if self.engine_name == "paddle-eager":
            from ernie_m.model.kernel_selection import get_services  # here, because it imports Paddle

            return get_services().make_workers()
        return Workers()

    @cached_property
    def _num_cores(self) -> int:
        """The number of CPU cores that prediction uses."""
        return get_thread_count()

    def get_module(self, task: str) -> "nn.Layer":
        """Return the part of a checkpoint's model for a task: the encoder for embedding, else the model."""
        return getattr(self.model, "ernie_m", self.model) if task == EMBEDDING else self.model

    def check_task(self, task: str, layer: int | None = None) -> None:
        """Check that the model supports a task up to a layer; None: any layer.

        Raises:
            UserError: the model does not support the task, or was exported up to a different layer.
        """
        if self.exported_layer is None:
            if task not in (EMBEDDING, self.task):  # every model has an encoder
                raise UserError(f"{self.folder}: task {task} is not supported: {self.describe_head()}")
            return
        exported_task = self.task or EMBEDDING
        if task != exported_task or layer not in (None, self.exported_layer):
            up_to = "" if layer is None else f" --layer {layer}"
            raise UserError(
                f"{self.folder}: exported for {exported_task} up to layer {self.exported_layer}. Export "
                f"the checkpoint for {task}: {EXPORT_FIRST} --task {task}{up_to}"
            )

    @property
    def has_single_output(self) -> bool:
        """Whether the head has a single output, as in regression and multiple choice."""
        return self.task == CLASSIFICATION and len(self.labels) == 1 and not self.pipeline_config.multi_label

    @property
    def is_cross_encoder(self) -> bool:
        """Whether the model is a cross-encoder that scores pairs of texts."""
        return self.has_single_output and self.pipeline_config.pairs is not False

    @property
    def default_task(self) -> str | None:
        """The default task: the task of the head; None: the model has no head."""
        if self.pipeline_config.multi_label and self.task == CLASSIFICATION:
            return MULTI_LABEL
        return REGRESSION if self.has_single_output else self.task

    def describe_head(self) -> str:
        """Describe the head of a model that does not support a task, and the fix, for an error message."""
        if (self.folder / "model_head.pkl").is_file():
            return "its head is a SetFit pickle, which is not supported. Train a new head with ernie-m fit"
        if self.task is None:
            return "it has no head. Fine-tune it first"
        if self.task == FILL_MASK:
            return "its head is for masked language modeling. Fine-tune it first"
        return f"its head is for {self.default_task}"

    def _create_engine(self, task: str, layer: int) -> GraphRunner:
        """Create the inference engine for a task up to a layer."""
        if self.engine_name == "paddle-eager":
            from ernie_m.inference.paddle_eager_engine import PaddleEagerEngine

            return PaddleEagerEngine(self.get_module(task), task, layer, self.autocast, self.has_pooler)
        if self.engine_name in FILES:  # a checkpoint's weights check themselves
            self.check_unchanged(read_versions(self.versions))
        has_pooled = self.has_pooler and layer == self.num_layers
        if self.engine_name == "paddle-inference":
            return PaddleInferenceEngine(self.folder, list_graph_outputs(task, has_pooled), self.amp)
        if self.engine_name == "onnx":
            return load_onnx(self.folder / FILES[self.engine_name], self.config, task, has_pooled)
        if task == EMBEDDING:
            return make_encoder_engine(self.weights, self.config, layer, self.amp)
        return LinearHeadEngine(
            self.get_engine(EMBEDDING, layer), self.weights, self.config, task, self.pipeline_config.pooling
        )


def read_versions(files: Iterable[Path]) -> dict[Path, FileVersion]:
    """Return absolute path -> version of each file or directory that exists."""
    return {path.absolute(): get_file_version(path) for path in files if path.exists()}


def load(
    folder: str | Path,
    *,
    engine: str = "auto",
    task: str | None = None,
    amp: str = "none",
) -> LoadedModel:
    """Load a model for prediction.

    Args:
        folder: a checkpoint of any supported format, or the directory of an export.
        engine: "auto": for a checkpoint "openvino" on a CPU, if it is installed and the task is not
            fill-mask, otherwise "paddle-eager"; for an export the first available of "onnx" and
            "paddle-inference".
        task: the task of a checkpoint's classifier, if its files do not specify it.
        amp: "bf16" (a CPU with avx512_bf16 or AMX, or an A100 or newer GPU) or "fp16" (a GPU). For an
            export only "fp16", with engine "paddle-inference" on a GPU.

    Raises:
        UserError: a file is missing or corrupt, or the engine or `amp` is not supported.
    """
    folder = Path(os.path.expanduser(folder))  # unlike Path's method, without an error for ~unknown
    config_json = read_export_settings(folder)
    if config_json is not None:
        return _load_export(folder, config_json, engine, amp)
    if engine in FILES:
        raise UserError(f"{folder}: engine {engine} requires an export. Run {EXPORT_FIRST}")
    engine = choose_engine(engine, task)
    if engine == "paddle-eager":
        prepare()
    return load_opened_model(open_model(open_checkpoint(folder)), folder, task, amp, engine=engine)


def choose_engine(engine: str, task: str | None = None) -> str:
    """Choose the inference engine of a checkpoint, "openvino" or "paddle-eager".

    Args:
        engine, task: see `load`.

    Raises:
        UserError: the engine is unknown, or does not support the task.
    """
    engines = ("auto", *_OF_CHECKPOINTS, *FILES)
    if engine not in engines:
        raise UserError(f"invalid engine {engine!r} (choose from {', '.join(engines)})")
    if engine == "openvino" and task == FILL_MASK:
        raise UserError(f"engine openvino does not support {task}. Remove it, or set paddle-eager")
    if engine != "auto":
        return engine
    if openvino_engine.is_openvino_best() and task != FILL_MASK:
        return "openvino"
    if not (openvino_engine.is_openvino_installed() or has_gpu()):
        _recommend_openvino()
    return "paddle-eager"


@cache  # once in a process
def _log_engine(engine: str) -> None:
    """Log the inference engine in use."""
    logger.info("engine: %s", engine)


@cache  # once in a process
def _recommend_openvino() -> None:
    """Log a warning that OpenVINO is faster."""
    logger.warning(
        "OpenVINO is faster on a CPU but is not installed. To install it: %s", get_install_command("openvino")
    )


def load_onnx(path: Path, config: ErnieMConfig, task: str, has_pooled: bool) -> GraphRunner:
    """Load an ONNX file into OpenVINO if it is installed and there is no GPU, otherwise into ONNX Runtime."""
    if openvino_engine.is_openvino_installed() and not has_gpu():
        return load_onnx_file(path, config, task, has_pooled)
    return OnnxEngine(path)


def read_export_settings(folder: Path) -> dict[str, Any] | None:
    """Return the content of config.json if the directory is an export, otherwise None."""
    path = folder / CONFIG
    config_json = read_object(path) if path.is_file() else {}
    return config_json if "export" in config_json else None


def _load_export(folder: Path, config_json: dict[str, Any], engine: str, amp: str) -> LoadedModel:
    """Load an export, given the content of its config.json; arguments and errors: see `load`."""
    available = [name for name, file in FILES.items() if (folder / file).is_file()]
    if engine == "auto" and available:
        engine = available[0]
    if engine not in available:
        names = ", ".join(available) or "none"
        raise UserError(
            f"{folder}: engine {engine} is not available (exported for: {names}). Export the checkpoint "
            f"with --format {' or '.join(FILES)}"
        )
    is_float16_in_paddle = engine == "paddle-inference" and amp == "fp16"
    if amp != "none" and not is_float16_in_paddle:
        raise UserError(f"{folder}: amp {amp} requires a checkpoint, not an export. Remove it")
    versions = read_versions(path for path in folder.iterdir() if path.name != CARD)
    check_folder(folder)
    config = _read_export_config(folder / CONFIG, config_json)
    export = config_json["export"]
    task = find_task(export["task"])
    pipeline_config = read_pipeline_config(config_json, folder / CONFIG)
    means_path = folder / LANGUAGE_MEANS
    labels = read_labels(config_json, "labels", folder / CONFIG)
    return LoadedModel(
        folder=folder,
        task=None if task == EMBEDDING else task,
        config=config,
        tokenizer=Tokenizer.from_folder(folder, pipeline_config.text_rules, pipeline_config.added_tokens),
        labels=labels,
        given_labels=_get_given_labels(config_json, labels, folder),
        engine_name=engine,
        amp=amp,
        pipeline_config=pipeline_config,
        exported_layer=export["layer"],
        has_pooler=export["has_pooler"],
        language_means_path=means_path if means_path.is_file() else None,
        columns=config_json.get(COLUMNS, {}),
        versions=versions,
    )


def _read_export_config(path: Path, config_json: dict[str, Any]) -> ErnieMConfig:
    """Read the model configuration from the config.json of an export.

    Raises:
        UserError: the configuration or the key "export" is invalid.
    """
    try:
        config = ErnieMConfig.from_dict(config_json)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    export = config_json["export"] if isinstance(config_json["export"], dict) else {}
    task = find_task(str(export.get("task")))
    layer = export.get("layer")
    is_task = task in EXPORTED_TASKS
    is_layer = type(layer) is int and 0 <= layer <= config.num_hidden_layers
    lacks_labels = is_task and TASKS[task].has_labels and not config_json.get("labels")
    if lacks_labels or not (is_task and is_layer and type(export.get("has_pooler")) is bool):
        raise UserError(f"{path}: invalid 'export' or missing 'labels'. Export the checkpoint again")
    return config


def _get_given_labels(settings: Mapping[str, Any], labels: list[str], path: Path) -> list[Any]:
    """Return the labels as passed to `fit`, from the content of config.json; by default `labels`.

    Args:
        settings: the content of config.json.
        path: the model, for errors.

    Raises:
        UserError: the labels are invalid, or their number differs from that of `labels`.
    """
    given = settings.get(GIVEN, labels) if labels else []
    are_labels = isinstance(given, list) and all(isinstance(label, str | int | float) for label in given)
    if not are_labels or len(given) != len(labels):
        raise UserError(
            f"{path}: config.json: invalid {GIVEN} (expected {len(labels)} strings, numbers or "
            "booleans, one per label)"
        )
    return given


def load_opened_model(
    opened: OpenedModel,
    folder: Path,
    task: str | None = None,
    amp: str = "none",
    *,
    engine: str,
    encoder_only: bool = False,
) -> LoadedModel:
    """Load an opened checkpoint for prediction.

    Args:
        folder, task, amp: see `load`.
        engine: "openvino", or, if `prepare` has been called, "paddle-eager".
        encoder_only: whether to ignore the head.

    Raises:
        UserError: see `load`.
    """
    checkpoint = opened.checkpoint
    assert checkpoint is not None  # not for random weights
    task = None if encoder_only else find_head_task(checkpoint, task)
    if engine == "openvino":
        openvino_engine.check_openvino(amp)
        _check_weights(checkpoint, opened.config, task)
        of_engine: dict[str, Any] = {"weights": checkpoint.tensors}
        _log_engine(f"OpenVINO, {get_thread_count()} thread{'s' * (get_thread_count() > 1)}")
    else:
        # Imported here, because importing Paddle takes a second.
        from ernie_m.inference.paddle_eager_engine import build_model
        from ernie_m.training.precision import prepare_for_prediction

        model, languages = build_model(checkpoint, opened.config, task)
        of_engine = {
            "model": model,
            "languages": languages,
            "autocast": prepare_for_prediction(model, amp),
        }
        _log_engine("Paddle")
    labels: list[str] = []
    if task is not None and TASKS[task].has_labels:
        count = checkpoint.tensors.shape("classifier.weight")[1]  # [H, labels]
        labels = checkpoint.labels or make_default_label_names(count)
        if count > 1 and not checkpoint.labels:
            logger.warning(
                "%s: no label names in config.json, using %s. Add them under id2label (or labels, in a "
                "checkpoint of this project)",
                checkpoint.path,
                join_items(labels),
            )
        if len(labels) != count:
            raise UserError(
                f"{checkpoint.path}: config.json has {len(labels)} label names, but the head has {count} "
                "outputs. List one name per output, in order"
            )
    return LoadedModel(
        folder=folder,
        task=task,
        config=opened.config,
        tokenizer=opened.tokenizer,
        labels=labels,
        given_labels=_get_given_labels(checkpoint.settings, labels, checkpoint.path),
        engine_name=engine,
        amp=amp,
        pipeline_config=opened.pipeline_config,
        has_pooler=checkpoint.has_pooler,
        **of_engine,
        language_means_path=checkpoint.language_means_path,
        pipeline_errors=checkpoint.pipeline_errors,
        columns=checkpoint.settings.get(COLUMNS, {}),
        versions=read_versions(checkpoint.files),
    )


def find_head_task(checkpoint: Checkpoint, requested_task: str | None) -> str | None:
    """Determine the task of a checkpoint's head: one of `SUPERVISED_TASKS`, `FILL_MASK`, or None.

    Args:
        requested_task: the task of the classifier, if the files do not specify it.

    Raises:
        UserError: the task of the classifier is unknown.
    """
    tensors = checkpoint.tensors
    if CLASSIFIER not in tensors:
        return FILL_MASK if LM_HEAD in tensors else None
    task = checkpoint.task or requested_task
    if task == CHOICE:  # a classifier with one output scores the choices
        return CLASSIFICATION
    if task not in SUPERVISED_TASKS:
        raise UserError(
            f"{tensors.source}: unknown task of the classifier. Set task (choose "
            f"from {', '.join(SUPERVISED_TASKS)})"
        )
    return task


def _check_weights(checkpoint: Checkpoint, config: ErnieMConfig, task: str | None) -> None:
    """Check that the weights of a checkpoint match the encoder and the head of a task.

    Raises:
        UserError: a weight is missing, or its shape does not match the configuration.
    """
    shapes = encoder_shapes(config)
    is_pooled = task is not None and TASKS[task].head_reads == POOLED
    reads_pooler = is_pooled and checkpoint.pipeline_config.pooling != MEAN_OF_TOKENS and not config.is_static
    if task in SUPERVISED_TASKS:
        labels = checkpoint.tensors.shape(CLASSIFIER)[1]
        shapes |= {CLASSIFIER: (config.hidden_size, labels), "classifier.bias": (labels,)}
    without = list_unused_parts(checkpoint, reads_pooler)
    check_weights(
        {name: shape for name, shape in shapes.items() if not name.startswith(without)}, config, checkpoint
    )
