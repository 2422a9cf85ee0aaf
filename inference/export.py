"""A checkpoint as a folder that predicts by itself: Paddle inference model, ONNX, ONNX int8.

    config.json                            of the model, with labels and "export" (inference/loading.py)
    vocab.txt, piece.model                 the tokenizer
    inference.json, inference.pdiparams    Paddle inference model
    model.onnx, model.onnx.data            ONNX and its weights
    model.int8.onnx, model.int8.onnx.data
    README.md                              what it is, how far its outputs are from the checkpoint's

paddle2onnx 2.1.0 aborts on the graphs of Paddle 3.3.1, so inference/onnx.py writes the ONNX graph.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.engines import OnnxEngine, PaddleEngine
from inference.export_check import Checked, agreement, largest_difference, run_all
from inference.loading import Loaded
from inference.requests import FILES
from model.checkpoint.card import model_card
from model.checkpoint.folder import model_weights
from utils.errors import UserError
from utils.files import atomic_dir

TOLERANCE = 1e-4
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    Args:
        task: "encoding", or the task of the model's head.
        layer: where an encoder ends; other tasks: the top layer.
        formats: of "paddle" and "onnx".
        int8: also ONNX in int8.
        reduce_range: int8 with weights of 7 bits.
    """

    task: str
    layer: int
    formats: Sequence[str] = ("paddle", "onnx")
    int8: bool = False
    reduce_range: bool = False


def export(loaded: Loaded, output: Path, options: ExportOptions, checked: Checked) -> dict[str, Any]:
    """Write the folder; it appears when every float32 graph agrees with the model within `TOLERANCE`.

    Args:
        loaded: a checkpoint.
        output: a new folder, or one that is replaced.
        checked: what is compared.

    Returns:
        The "export" of its config.json.

    Raises:
        UserError: a graph does not agree, the disk is full, a part of the model cannot be exported.
    """
    part = loaded.paddle_model.part(options.task, options.layer)
    expected = run_all(
        loaded.engine(options.task, options.layer), checked.rows, loaded.config["pad_token_id"]
    )
    made: dict[str, Any] = {"task": options.task, "layer": options.layer, "outputs": list(part.outputs)}
    if loaded.labels:
        made["num_labels"] = len(loaded.labels)
    made |= {"checked_on": checked.name, "engines": {}}
    with atomic_dir(output) as folder:
        if "paddle" in options.formats:
            write_paddle(folder, part)
            engine = PaddleEngine(folder, part.outputs, loaded.threads)
            made["engines"]["paddle"] = _close(engine, "paddle", loaded, checked, expected)
        if "onnx" in options.formats or options.int8:
            # Imported here: who wants a Paddle inference model needs no onnx.
            write_onnx = _onnx_writer()
            weights = model_weights(part.model)
        if "onnx" in options.formats:
            path = folder / FILES["onnx"]
            write_onnx(path, weights, loaded.config, options.task, options.layer)
            made["engines"]["onnx"] = _close(
                OnnxEngine(path, loaded.threads), "onnx", loaded, checked, expected
            )
        if options.int8:
            path = folder / FILES["onnx-int8"]
            write_onnx(path, weights, loaded.config, options.task, options.layer, True, options.reduce_range)
            engine = OnnxEngine(path, loaded.threads)
            found = run_all(engine, checked.rows, loaded.config["pad_token_id"])
            made["engines"]["onnx-int8"] = largest_difference(expected, found)
            change = agreement(options.task, checked, expected, found)
            made["int8"] = change.to_dict()
            logger.info("onnx-int8: %s", change.line())
        _write_rest(folder, loaded, made)
    return made


def write_paddle(folder: Path, part: Any) -> None:
    """The Paddle inference model, batch and length free."""
    import paddle

    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(part, str(folder / Path(FILES["paddle"]).stem), input_spec=spec)


def _onnx_writer() -> Any:
    try:
        from inference.onnx import write_onnx
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install -r requirements-export.txt, or --formats paddle"
        ) from error
    return write_onnx


def _close(engine: Any, name: str, loaded: Loaded, checked: Checked, expected: list[Any]) -> float:
    found = run_all(engine, checked.rows, loaded.config["pad_token_id"])
    difference = largest_difference(expected, found)
    logger.info("%s: largest difference to the checkpoint %.1e, %s", name, difference, checked.name)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name}: the exported model differs from the checkpoint by {difference:.1e}, allowed are "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    return difference


def _write_rest(folder: Path, loaded: Loaded, made: dict[str, Any]) -> None:
    """What the graphs need to predict."""
    tokenizer = loaded.tokenizer
    tokenizer.write_vocab(folder / "vocab.txt")
    shutil.copyfile(tokenizer.piece_model_path, folder / "piece.model")
    settings = {**loaded.config, "model_type": "ernie_m", "task": made["task"]}
    if loaded.labels:
        settings["labels"] = loaded.labels
    if loaded.reading:
        settings["reading"] = loaded.reading
    settings["export"] = made
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    facts = {
        "name": f"ERNIE-M, exported: {made['task']}", "task": made["task"], "labels": loaded.labels or None,
        "config": loaded.config, "layer": made["layer"], "checked_on": made["checked_on"],
        "largest_difference": {name: f"{value:.1e}" for name, value in made["engines"].items()},
        "int8": made.get("int8"), "command": f"python predict.py --task {made['task']} --model FOLDER",
    }  # fmt: skip
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
