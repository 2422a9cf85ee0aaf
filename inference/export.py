"""Export a checkpoint as a folder that predicts by itself, after comparing every graph with the checkpoint.

    config.json                            the model's settings, labels and "export" (inference/loading.py)
    vocab.txt, piece.model                 the tokenizer
    inference.json, inference.pdiparams    Paddle inference model
    model.onnx, model.onnx.data            ONNX and its weights
    model.int8.onnx, model.int8.onnx.data
    README.md                              a model card with the differences to the checkpoint

paddle2onnx 2.1.0 aborts on the graphs of Paddle 3.3.1, so inference/onnx.py writes the ONNX graph.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.engines import GraphRunner, OnnxEngine, PaddleEngine
from inference.loading import Loaded
from inference.requests import FILES, is_per_token
from model.checkpoint.card import model_card
from model.checkpoint.folder import model_weights
from model.task_names import ENCODING, OUTPUTS
from reader.features import padded_batches
from utils.errors import UserError
from utils.files import atomic_dir, write_json

TOLERANCE = 1e-4
BATCH_TOKENS = 2048
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """The inputs on which an export is compared with the checkpoint.

    Attributes:
        name: a description such as "64 made-up sentences".
        rows: ids with special tokens, of mixed lengths.
        labels: the label ids of a classification file, else None.
    """

    name: str
    rows: list[list[int]]
    labels: list[int] | None = None


def export(
    loaded: Loaded, output: Path, task: str, layer: int, checked: Checked, *,
    formats: Sequence[str] = ("paddle", "onnx"), int8: bool = False, reduce_range: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder, if every float32 graph agrees with the model within `TOLERANCE`.

    Args:
        loaded: a checkpoint.
        output: a new folder, or one that is replaced.
        task: "encoding", or the task of the model's head.
        layer: the layer at which an encoder ends; for other tasks the top layer.
        checked: what the graphs are compared on.
        formats: any of "paddle" and "onnx".
        int8: also write ONNX in int8; with `reduce_range` its weights have 7 bits.

    Returns:
        The "export" of its config.json.

    Raises:
        UserError: a graph does not agree, the disk is full, or a part of the model cannot be exported.
    """
    pad_id, threads = loaded.config["pad_token_id"], loaded.threads
    part = loaded.part(task, layer)
    expected = run_all(loaded.engine(task, layer), checked.rows, pad_id)
    made: dict[str, Any] = {"task": task, "layer": layer, "outputs": list(part.outputs)}
    if loaded.labels:
        made["num_labels"] = len(loaded.labels)
    made |= {"checked_on": checked.name, "engines": {}}

    def compare(name: str, engine: GraphRunner) -> None:
        found = run_all(engine, checked.rows, pad_id)
        made["engines"][name] = difference = largest_difference(expected, found)
        if name == "onnx-int8":
            made["int8"] = agreement(task, checked, expected, found)
            logger.info("onnx-int8: %s", _as_line(made["int8"]))
            return
        logger.info("%s: largest difference to the checkpoint %.1e, %s", name, difference, checked.name)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{name}: the exported model differs from the checkpoint by {difference:.1e}, allowed are "
                f"{TOLERANCE:.0e}; nothing was written"
            )

    with atomic_dir(output) as folder:
        if "paddle" in formats:
            write_paddle(folder, part)
            compare("paddle", PaddleEngine(folder, part.outputs, threads))
        for name in ["onnx"] * ("onnx" in formats) + ["onnx-int8"] * int8:
            try:
                from inference.onnx import write_onnx  # a Paddle inference model needs no onnx
            except ImportError as error:
                raise UserError(
                    f"{error.name} is not installed: pip install -r requirements-export.txt, or --formats "
                    "paddle"
                ) from error
            quantise = {"int8": True, "reduce_range": reduce_range} if name == "onnx-int8" else {}
            weights, path = model_weights(part.model), folder / FILES[name]
            write_onnx(path, weights, loaded.config, task, layer, **quantise)
            compare(name, OnnxEngine(path, threads))
        _write_rest(folder, loaded, made)
    return made


def write_paddle(folder: Path, part: Any) -> None:
    """Write the Paddle inference model. Batch size and length are free."""
    import paddle

    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(part, str(folder / Path(FILES["paddle"]).stem), input_spec=spec)


def _write_rest(folder: Path, loaded: Loaded, made: dict[str, Any]) -> None:
    """Write the tokenizer, config.json and the model card."""
    loaded.tokenizer.write_vocab(folder / "vocab.txt")
    shutil.copyfile(loaded.tokenizer.piece_model_path, folder / "piece.model")
    settings = {**loaded.config, "model_type": "ernie_m", "task": made["task"]}
    if loaded.labels:
        settings["labels"] = loaded.labels
    if loaded.reading:
        settings["reading"] = loaded.reading
    write_json(folder / "config.json", {**settings, "export": made})
    facts = {
        "name": f"ERNIE-M, exported: {made['task']}", "task": made["task"], "labels": loaded.labels or None,
        "config": loaded.config, "layer": made["layer"], "checked_on": made["checked_on"],
        "largest_difference": {name: f"{value:.1e}" for name, value in made["engines"].items()},
        "int8": made.get("int8"),
        "command": f".venv/bin/python predict.py --task {made['task']} --model FOLDER",
    }  # fmt: skip
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def made_up_rows(
    count: int, longest: int, ordinary_ids: np.ndarray, cls_id: int, sep_id: int, seed: int = 0
) -> list[list[int]]:
    """Rows of random ids. Most are short; the last one has the greatest length."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.0, 0.8, count), 1, longest - 2).astype(int)
    lengths[-1] = longest - 2
    return [[cls_id, *random.choice(ordinary_ids, length).tolist(), sep_id] for length in lengths]


def run_all(engine: GraphRunner, rows: Sequence[Sequence[int]], pad_id: int) -> list[dict[str, np.ndarray]]:
    """The outputs for each row, without those of pads."""
    answer: list[dict[str, np.ndarray]] = [{} for _ in rows]
    for numbers, ids in padded_batches(rows, pad_id, BATCH_TOKENS):
        for name, values in engine(ids).items():
            per_token = is_per_token(name, values)
            for number, value in zip(numbers, values):
                answer[number][name] = value[: len(rows[number])] if per_token else value
    return answer


def largest_difference(a: Sequence[dict[str, np.ndarray]], b: Sequence[dict[str, np.ndarray]]) -> float:
    """The largest absolute difference over all rows and outputs; nan if a value is not a number."""
    return float(np.max([np.abs(one[name] - other[name]).max() for one, other in zip(a, b) for name in one]))


def agreement(task: str, checked: Checked, before: Sequence[dict], after: Sequence[dict]) -> dict[str, Any]:
    """How int8 changes the predictions, from the outputs `before` and `after`.

    Returns:
        For encoding "cosine", the mean cosine between an input's mean vectors; for other tasks "decisions",
        the share of equal decisions (classes, tags of tokens, starts and ends of answers), and with labels
        "accuracy", (before, after) in per cent.
    """
    if task == ENCODING:
        means = [[row["sequence"].mean(axis=0) for row in rows] for rows in (before, after)]
        a, b = (np.stack(side) / np.linalg.norm(side, axis=1, keepdims=True) for side in means)
        return {"cosine": float((a * b).sum(axis=1).mean())}
    names = OUTPUTS[task]
    decided = [
        [np.stack([row[name].argmax(axis=-1) for name in names]).ravel() for row in rows]
        for rows in (before, after)
    ]
    change: dict[str, Any] = {"decisions": float(np.concatenate([a == b for a, b in zip(*decided)]).mean())}
    if checked.labels is not None:
        right = [100 * float(np.mean(np.concatenate(side) == checked.labels)) for side in decided]
        change["accuracy"] = right[0], right[1]
    return change


def _as_line(change: dict[str, Any]) -> str:
    if "cosine" in change:
        return f"mean cosine of the sentence vectors {change['cosine']:.5f}"
    told = f"{100 * change['decisions']:.2f} % of the decisions are the same"
    if "accuracy" in change:
        before, after = change["accuracy"]
        told += f", accuracy {before:.2f} -> {after:.2f} ({after - before:+.2f})"
    return told
