"""Load a model for prediction: a checkpoint of any format, or a folder that export.py wrote.

The config.json of an exported folder has "export": its task, its layer and how it was checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.checkpoint.formats.configs import read_json
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, ENCODING, OUTPUTS, TAGGING
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.runtime import prepare, read_cpu

if TYPE_CHECKING:
    from paddle import nn

    from inference.graph import ExportedGraph

# engine -> the file of an exported folder that it runs; the first one that is there is the default
FILES = {"onnx": "model.onnx", "paddle": "inference.json", "onnx-int8": "model.int8.onnx"}
EXPORT_FIRST = "python export.py --model FOLDER --output EXPORTED"
PROVIDERS = {"CUDAExecutionProvider": {"use_tf32": 0}, "CPUExecutionProvider": {}}
GPU_POOL_MB = 512  # what Paddle takes of the GPU's memory at first; it grows
# An engine: ids, int64 [B, T], padded on the right -> output name -> float32 array
GraphRunner = Callable[[np.ndarray], dict[str, np.ndarray]]


class PaddleEngine:
    """A Paddle inference model. UserError: its files cannot be read."""

    def __init__(self, folder: Path, outputs: Sequence[str]):
        prepare(quiet=True)
        import paddle
        from paddle import inference

        graph = folder / FILES["paddle"]
        config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        if paddle.device.get_device().startswith("gpu"):  # export.py sets the CPU
            config.enable_use_gpu(GPU_POOL_MB, 0)
        else:
            config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(read_cpu().cores)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # RuntimeError, and others if it cannot parse the graph
            raise UserError(f"{graph}: Paddle cannot load it; export it again") from error
        self.outputs = outputs
        self.input = self.predictor.get_input_handle(self.predictor.get_input_names()[0])

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        self.input.copy_from_cpu(np.ascontiguousarray(ids, np.int64))
        self.predictor.run()
        handles = map(self.predictor.get_output_handle, self.predictor.get_output_names())
        return dict(zip(self.outputs, (handle.copy_to_cpu() for handle in handles)))


class OnnxEngine:
    """An ONNX file in ONNX Runtime, on a GPU with onnxruntime-gpu. UserError: it cannot be loaded."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("ONNX files need onnxruntime: pip install -r requirements-export.txt") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = read_cpu().cores
        options.log_severity_level = 3  # errors
        providers = [one for one in PROVIDERS.items() if one[0] in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the common base of its exceptions
            raise UserError(f"{path}: ONNX Runtime cannot load it; export it again") from error
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        found = self.session.run(None, {"input_ids": np.ascontiguousarray(ids, np.int64)})
        return dict(zip(self.outputs, found))


@dataclass
class Loaded:
    """A model that is ready to predict.

    Attributes:
        folder: the folder it was loaded from.
        head: a task of `model.task_names`, "fill" (masked-LM head) or None.
        config: `ErnieMConfig` as a dict.
        labels: names in the order of the ids; [] if the head has none.
        engine_name: a key of `FILES`, or "dygraph".
        reading: how inputs were read in training: "reading" in config.json.
        exported_layer: the layer at which an exported model ends; None for a checkpoint.
        model: of a checkpoint: an encoder, or a model with one as `.ernie_m`.
        languages: those that the masked-LM head can be asked for.
    """

    folder: str | Path
    head: str | None
    config: dict[str, Any]
    tokenizer: Tokenizer
    labels: list[str]
    engine_name: str
    reading: dict[str, Any]
    exported_layer: int | None = None
    model: "nn.Layer | None" = None
    languages: list[str] = field(default_factory=list)
    _engines: dict[tuple[str, int], GraphRunner] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.config["max_position_embeddings"] - 2

    @property
    def num_layers(self) -> int:
        return self.config["num_hidden_layers"]

    def limit(self, asked: int | None, default: int) -> int:
        """`--max_seq_len`, or the default. UserError: it is below 8 or above `longest`."""
        limit = default if asked is None else asked
        if not 8 <= limit <= self.longest:
            raise UserError(f"--max_seq_len {limit}: between 8 and the model's {self.longest}")
        return limit

    def engine(self, task: str, layer: int | None = None) -> GraphRunner:
        """The engine for a task; for encoding, up to a layer (None: an exported folder's, else the top).

        Raises:
            UserError: the model is not for this task.
        """
        end = self.exported_layer
        if end is None and task not in (ENCODING, self.head):
            has = f"it has a head for {self.head}" if self.head else "it has no head: fine-tune it first"
            raise UserError(f"{self.folder}: --task {task} needs another model; {has}")
        if end is not None and (task != (self.head or ENCODING) or layer not in (None, end)):
            up_to = "" if layer is None else f" --layer {layer}"
            raise UserError(
                f"{self.folder}: exported for {self.head or ENCODING} up to layer {end}; export the "
                f"checkpoint for this: {EXPORT_FIRST} --task {task}{up_to}"
            )
        if layer is None:
            layer = self.num_layers if end is None else end
        if (task, layer) not in self._engines:
            self._engines[task, layer] = self._start(task, layer)
        return self._engines[task, layer]

    def graph(self, task: str, layer: int) -> "ExportedGraph":
        """The graph that export.py writes of a checkpoint's model."""
        from inference.graph import ExportedGraph

        return ExportedGraph(self._part(task), task, layer)

    def _part(self, task: str) -> "nn.Layer":
        """The part of a checkpoint's model that runs for a task."""
        return getattr(self.model, "ernie_m", self.model) if task == ENCODING else self.model

    def _start(self, task: str, layer: int) -> GraphRunner:
        if self.engine_name == "dygraph":
            from inference.paddle_model import DygraphEngine

            return DygraphEngine(self._part(task), task, layer)
        if self.engine_name == "paddle":
            return PaddleEngine(self.folder, outputs_of(task, layer, self.num_layers))
        return OnnxEngine(self.folder / FILES[self.engine_name])


def outputs_of(task: str, layer: int, num_layers: int) -> tuple[str, ...]:
    """The outputs of a model that ends at `layer`. Only the top layer has the pooled first token."""
    return OUTPUTS[task][:1] if task == ENCODING and layer < num_layers else OUTPUTS[task]


def load(folder: str | Path, *, engine: str = "auto", task: str | None = None) -> Loaded:
    """Load a model.

    Args:
        folder: a checkpoint of any supported format, or an exported folder.
        engine: "auto" is "dygraph" for a checkpoint, and for an exported folder the first one that it has of
            onnx, paddle and onnx-int8.
        task: the task of a checkpoint's classifier, if its files do not name it.

    Raises:
        UserError: a missing folder or file, or an engine that the folder does not have.
    """
    if settings := exported_settings(Path(folder)):
        return _exported(Path(folder), settings, engine)
    if engine not in ("auto", "dygraph"):
        raise UserError(f"{folder}: --engine {engine} needs an exported folder: {EXPORT_FIRST}")
    return _checkpoint(folder, task)


def exported_settings(folder: Path) -> dict[str, Any] | None:
    """The config.json of an exported folder; None for other folders."""
    path = folder / "config.json"
    settings = read_json(path) if path.is_file() else {}
    return settings if "export" in settings else None


def _exported(folder: Path, settings: dict[str, Any], engine: str) -> Loaded:
    there = [name for name, file in FILES.items() if (folder / file).is_file()]
    name = there[0] if engine == "auto" and there else engine
    if name not in there:
        raise UserError(f"{folder}: --engine {engine} is not in it; it has {', '.join(there) or 'none'}")
    made, tokenizer = settings["export"], Tokenizer.from_folder(folder)
    head = None if made["task"] == ENCODING else made["task"]
    config = ErnieMConfig.from_dict(settings).to_dict()
    labels, reading = settings.get("labels", []), settings.get("reading", {})
    return Loaded(folder, head, config, tokenizer, labels, name, reading, made["layer"])


def _checkpoint(folder: str | Path, task: str | None) -> Loaded:
    prepare(quiet=True)
    # Imported here, because Paddle takes a second to start and an exported folder may not need it.
    from inference import paddle_model
    from model.checkpoint.read import open_checkpoint

    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if config is None:
        raise UserError(f"{folder}: no config.json or ernie_config.json there; put it beside the weights")
    if checkpoint.piece_model_path is None:
        raise UserError(f"{folder}: no piece.model there; put it beside the weights")
    tokenizer = Tokenizer(checkpoint.vocab_path, checkpoint.piece_model_path)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: vocab_size is {config.vocab_size}, the tokenizer's {tokenizer.vocab_size}"
        )
    head = paddle_model.head_of(checkpoint, task)
    model, languages = paddle_model.build(checkpoint, config, head)
    labels: list[str] = []
    if head in (CLASSIFICATION, TAGGING):
        count = checkpoint.tensors.shape(paddle_model.CLASSIFIER)[1]
        labels = checkpoint.labels or [str(number) for number in range(count)]
        if len(labels) != count:
            raise UserError(f"{folder}: {count} labels, but {len(labels)} names of labels in config.json")
    shape, reading = config.to_dict(), checkpoint.settings.get("reading", {})
    return Loaded(
        folder, head, shape, tokenizer, labels, "dygraph", reading, model=model, languages=languages
    )
