"""Load a model for prediction: a checkpoint of any format, or a folder that export.py wrote.

An exported folder has "export" in its config.json:
    task, layer, outputs    what the graph computes
    engines                 engine -> largest difference to the checkpoint on real tokens
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.engines import DygraphEngine, GraphRunner, OnnxEngine, PaddleEngine
from inference.requests import FILES, outputs_of, reading_of
from model.checkpoint.formats.configs import read_json
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, ENCODING, OUTPUTS, TAGGING, task_named
from reader.classification import read_label_map
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.runtime import prepare, read_cpu

if TYPE_CHECKING:
    from paddle import nn

    from inference.paddle_model import Traced

EXPORT_FIRST = "python export.py --model FOLDER --output EXPORTED"


@dataclass(frozen=True)
class Files:
    """The paths of a model's files that are not beside the weights.

    Args:
        ernie_config_path: ernie_config.json.
        vocab_path: vocab.txt.
        piece_model_path: the sentencepiece model.
        label_map_config: the names of the labels, {"label": id}.
    """

    ernie_config_path: str | None = None
    vocab_path: str | None = None
    piece_model_path: str | None = None
    label_map_config: str | None = None


@dataclass
class Loaded:
    """A model that is ready to predict.

    Attributes:
        folder: the folder it was loaded from.
        head: a task of `model.task_names`, "fill" (masked-LM head) or None.
        config: `ErnieMConfig` as a dict.
        labels: names in the order of the ids; [] if the head has none.
        threads: threads of an engine.
        exported: the "export" of an exported folder; None for a checkpoint.
        engine_name: a key of `FILES`, or "dygraph".
        reading: how inputs were read in training; see `inference.requests`.
        model: of a checkpoint: an encoder, or a model with one as `.ernie_m`.
        languages: the languages of the language table of a checkpoint; [] if there is none.
    """

    folder: str | Path
    head: str | None
    config: dict[str, Any]
    tokenizer: Tokenizer
    labels: list[str]
    threads: int
    engine_name: str
    reading: dict[str, Any] = field(default_factory=dict)
    exported: dict[str, Any] | None = None
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
        made = self.exported
        if made is None and task not in (ENCODING, self.head):
            has = f"it has a head for {self.head}" if self.head else "it has no head: fine-tune it first"
            raise UserError(f"{self.folder}: --task {task} needs another model; {has}")
        if made is not None and task != made["task"]:
            raise UserError(
                f"{self.folder}: exported for {made['task']}, not for {task}; export the checkpoint for "
                f"that: {EXPORT_FIRST} --task {task}"
            )
        if made is not None and layer not in (None, made["layer"]):
            raise UserError(
                f"{self.folder}: exported up to layer {made['layer']}, not {layer}: "
                f"export it with --layer {layer}"
            )
        if layer is None:
            layer = made["layer"] if made else self.num_layers
        if (task, layer) not in self._engines:
            self._engines[task, layer] = self._start(task, layer)
        return self._engines[task, layer]

    def part(self, task: str, layer: int) -> "Traced":
        """The part of a checkpoint's model that runs for a task."""
        from inference.paddle_model import Traced

        encoder = getattr(self.model, "ernie_m", self.model)
        return Traced(encoder if task == ENCODING else self.model, task, layer)

    def _start(self, task: str, layer: int) -> GraphRunner:
        if self.engine_name == "dygraph":
            return DygraphEngine(self.part(task, layer))
        if self.engine_name == "paddle":
            return PaddleEngine(self.folder, outputs_of(task, layer, self.num_layers), self.threads)
        return OnnxEngine(self.folder / FILES[self.engine_name], self.threads)


def load(
    folder: str | Path, *, engine: str = "auto", task: str | None = None, threads: int = 0,
    files: Files = Files(), use_cuda: bool = True,
) -> Loaded:  # fmt: skip
    """Load a model.

    Args:
        folder: a checkpoint of any supported format, or an exported folder.
        engine: "auto" is "dygraph" for a checkpoint, and for an exported folder the first one that it has of
            onnx, paddle and onnx-int8.
        task: the task of a checkpoint's classifier, if its files do not name it.
        threads: 0 is one for each core.
        use_cuda: run a checkpoint on the GPU if there is one.

    Raises:
        UserError: a missing folder or file, or an engine that the folder does not have.
    """
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # Paddle reads it when it is imported
    threads = threads or read_cpu().cores
    settings = exported_settings(Path(folder))
    if settings is None:
        if engine not in ("auto", "dygraph"):
            raise UserError(f"{folder}: --engine {engine} needs an exported folder: {EXPORT_FIRST}")
        return _checkpoint(folder, task, threads, files, use_cuda)
    if engine == "dygraph":
        raise UserError(f"{folder}: an exported folder; --engine dygraph needs the checkpoint it came from")
    there = [name for name in ("onnx", "paddle", "onnx-int8") if Path(folder, FILES[name]).is_file()]
    if engine == "auto":
        engine = there[0] if there else "onnx"
    if engine not in there:
        raise UserError(
            f"{folder}: no {FILES[engine]} in it for --engine {engine}; it has {', '.join(there)}"
        )
    if given := [name for name, path in vars(files).items() if path and name != "label_map_config"]:
        raise UserError(f"--{given[0]}: {folder} is an exported folder, which has its own; leave it out")
    made = settings["export"]
    folder, head = Path(folder), None if made["task"] == ENCODING else made["task"]
    tokenizer = Tokenizer.from_folder(folder)
    labels = _labels(files, settings.get("labels"), made.get("num_labels"))
    config, reading = ErnieMConfig.from_dict(settings).to_dict(), reading_of(settings, folder)
    return Loaded(folder, head, config, tokenizer, labels, threads, engine, reading, exported=made)


def exported_settings(folder: Path) -> dict[str, Any] | None:
    """The config.json of an exported folder; None for other folders. UserError: it is damaged."""
    path = folder / "config.json"
    settings = read_json(path) if path.is_file() else {}
    if "export" not in settings:
        return None
    made = settings["export"]
    task = task_named(str(made.get("task"))) if isinstance(made, dict) else None
    if task not in OUTPUTS or type(made.get("layer")) is not int:
        raise UserError(f'{path}: its "export" is not as export.py wrote it; export the model again')
    made["task"] = task
    return settings


def _checkpoint(folder: str | Path, task: str | None, threads: int, files: Files, use_cuda: bool) -> Loaded:
    prepare(quiet=True)
    # Imported here, because Paddle takes a second to start and an exported folder may not need it.
    from inference import paddle_model
    from model.checkpoint.folder import read_weights

    checkpoint = read_weights(folder)
    extra, config = checkpoint.extra, checkpoint.config
    if files.ernie_config_path:
        config = ErnieMConfig.from_json(files.ernie_config_path)
    if config is None:
        raise UserError(f"{folder}: no config.json or ernie_config.json there; give --ernie_config_path")
    if piece_model := files.piece_model_path or checkpoint.piece_model_path:
        tokenizer = Tokenizer(files.vocab_path or checkpoint.vocab_path, piece_model)
    else:
        raise UserError(f"{folder}: no piece.model there; give --piece_model_path")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the model has {config.vocab_size} words, but the vocabulary ids up to "
            f"{tokenizer.vocab_size - 1}; they do not belong together"
        )
    paddle_model.set_device(use_cuda)
    head = paddle_model.head_of(checkpoint, task)
    model, languages = paddle_model.build(checkpoint, config, head)
    has_labels = head in (CLASSIFICATION, TAGGING)
    count = checkpoint.weights.shape(paddle_model.CLASSIFIER)[1] if has_labels else None
    labels, reading = _labels(files, extra.get("labels"), count), reading_of(extra, folder)
    return Loaded(
        folder, head, config.to_dict(), tokenizer, labels, threads, "dygraph", reading, model=model,
        languages=languages,
    )  # fmt: skip


def _labels(files: Files, known: list[str] | None, count: int | None) -> list[str]:
    if count is None:
        return []
    if files.label_map_config:
        ids = read_label_map(files.label_map_config, count)
        return sorted(ids, key=ids.get)
    known = [str(label) for label in known or range(count)]
    if len(known) != count:
        raise UserError(f"the model has {count} labels, but {len(known)} names; give --label_map_config")
    return known
