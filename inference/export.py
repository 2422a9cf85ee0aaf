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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from inference.engines import FILES, GraphRunner, OnnxEngine, PaddleEngine
from inference.loading import LoadedModel
from model.checkpoint.card import model_card
from model.checkpoint.folder import model_weights
from model.task_names import CLASSIFICATION, ENCODING, OUTPUTS
from reader.batching import EncodePairs, padded_batches
from reader.bitext import Sentences
from reader.classification import read_classification
from reader.tagging import JOINT
from reader.tsv import read_all
from utils.errors import UserError
from utils.files import as_json, atomic_dir

TOLERANCE = 1e-4
BATCH_TOKENS = 2048
MADE_UP, MOST_CHECKED = 64, 1000  # texts that are compared without and with --check_set
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


def read_checked(loaded: LoadedModel, task: str, path: str | None) -> Checked:
    """The texts of a TSV file (of a classifier perhaps with labels) or of plain lines; None: made-up ones."""
    tokenizer = loaded.tokenizer
    if path is None:
        ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        rows = made_up_rows(MADE_UP, loaded.longest, ordinary, tokenizer.cls_id, tokenizer.sep_id)
        return Checked(f"{MADE_UP} made-up sentences", rows)
    labels = None
    if path.endswith(".tsv"):
        labelled = task == CLASSIFICATION and b"label" in read_all(Path(path)).partition(b"\n")[0].split()
        ids = {label: i for i, label in enumerate(loaded.labels)} if labelled else None
        rows = islice(read_classification(path, ids, labels=labelled), MOST_CHECKED)
        texts = [row._replace(text_a=row.text_a.replace(JOINT, " ")) for row in rows]  # words to tag
        labels = [text.label for text in texts] if labelled else None
    else:
        texts = list(islice(Sentences(path), MOST_CHECKED))
    features = EncodePairs(tokenizer, loaded.longest)(texts)
    return Checked(f"{len(features)} texts of {Path(path).name}", [one.ids for one in features], labels)


def made_up_rows(
    count: int, longest: int, ordinary_ids: np.ndarray, cls_id: int, sep_id: int, seed: int = 0
) -> list[list[int]]:
    """Rows of random ids. Most are short; the last one has the greatest length."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.0, 0.8, count), 1, longest - 2).astype(int)
    lengths[-1] = longest - 2
    return [[cls_id, *random.choice(ordinary_ids, length).tolist(), sep_id] for length in lengths]


def export(
    loaded: LoadedModel, output: Path, task: str, layer: int, checked: Checked, int8: bool = False,
    reduce_range: bool = False,
) -> None:  # fmt: skip
    """Write the folder, if both float32 graphs agree with the model within `TOLERANCE`.

    Args:
        loaded: a checkpoint.
        output: a new folder, or one that is replaced.
        task: "encoding", or the task of the model's head.
        layer: the layer at which an encoder ends; for other tasks the top layer.
        checked: what the graphs are compared on.
        int8: also write ONNX in int8; with `reduce_range` its weights have 7 bits.

    Raises:
        UserError: a graph does not agree, the disk is full, or the onnx library is not installed.
    """
    import paddle

    try:
        from inference.onnx import write_onnx
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements-export.txt") from error
    graph, pad_id = loaded.graph(task, layer), loaded.config["pad_token_id"]
    expected = run_all(loaded.engine(task, layer), checked.rows, pad_id)
    made: dict[str, Any] = {"task": task, "layer": layer, "outputs": list(graph.outputs)}
    made |= {"checked_on": checked.name, "engines": {}}

    def compare(name: str, engine: GraphRunner) -> None:
        found = run_all(engine, checked.rows, pad_id)
        made["engines"][name] = difference = largest_difference(expected, found)
        logger.info("%s: largest difference to the checkpoint %.1e, %s", name, difference, checked.name)
        if name == "onnx-int8":
            made["int8"] = agreement(task, checked, expected, found)
            logger.info("onnx-int8: %s", made["int8"])
        elif not difference <= TOLERANCE:
            raise UserError(
                f"{name}: the exported model differs from the checkpoint by {difference:.1e}, allowed are "
                f"{TOLERANCE:.0e}; nothing was written"
            )

    with atomic_dir(output) as folder:
        ids = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
        paddle.jit.save(graph, str(folder / Path(FILES["paddle"]).stem), input_spec=ids)
        compare("paddle", PaddleEngine(folder, graph.outputs))
        for name in ("onnx", "onnx-int8") if int8 else ("onnx",):
            largest = (63 if reduce_range else 127) if name == "onnx-int8" else None
            weights = model_weights(graph.model)
            write_onnx(folder / FILES[name], weights, loaded.config, task, layer, largest)
            compare(name, OnnxEngine(folder / FILES[name]))
        _write_rest(folder, loaded, made)


def _write_rest(folder: Path, loaded: LoadedModel, made: dict[str, Any]) -> None:
    """Write the tokenizer, config.json and the model card."""
    loaded.tokenizer.write_vocab(folder / "vocab.txt")
    shutil.copyfile(loaded.tokenizer.piece_model_path, folder / "piece.model")
    known = {"labels": loaded.labels, "reading": loaded.reading}
    settings = {**loaded.config, "model_type": "ernie_m", "task": made["task"]}
    settings |= {key: value for key, value in known.items() if value}
    (folder / "config.json").write_text(as_json({**settings, "export": made}), encoding="utf-8")
    facts = {
        "name": f"ERNIE-M, exported: {made['task']}", "task": made["task"], "labels": loaded.labels or None,
        "config": loaded.config, "layer": made["layer"], "checked_on": made["checked_on"],
        "largest_difference": {name: f"{value:.1e}" for name, value in made["engines"].items()},
        "int8": made.get("int8"),
    }  # fmt: skip
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")


def run_all(engine: GraphRunner, rows: Sequence[Sequence[int]], pad_id: int) -> list[dict[str, np.ndarray]]:
    """The outputs for each row, without those of pads."""
    answer: list[dict[str, np.ndarray]] = [{} for _ in rows]
    for numbers, ids in padded_batches(rows, pad_id, BATCH_TOKENS):
        for name, values in engine(ids).items():
            per_token = values.ndim == 3 or name in ("start_logits", "end_logits")
            for number, value in zip(numbers, values):
                answer[number][name] = value[: len(rows[number])] if per_token else value
    return answer


def largest_difference(a: Sequence[dict[str, np.ndarray]], b: Sequence[dict[str, np.ndarray]]) -> float:
    """The largest absolute difference over all rows and outputs; nan if a value is not a number."""
    return float(np.max([np.abs(one[name] - other[name]).max() for one, other in zip(a, b) for name in one]))


def agreement(task: str, checked: Checked, before: Sequence[dict], after: Sequence[dict]) -> dict[str, Any]:
    """How int8 changes the predictions, from the outputs `before` and `after`.

    For encoding "cosine" is the mean cosine between an input's mean vectors. For other tasks "decisions" is
    the share of equal decisions (classes, tags of tokens, starts and ends of answers), and with labels
    "accuracy" is (before, after) in per cent.
    """
    if task == ENCODING:
        means = [[row["sequence"].mean(axis=0) for row in rows] for rows in (before, after)]
        a, b = (np.stack(side) / np.linalg.norm(side, axis=1, keepdims=True) for side in means)
        return {"cosine": float((a * b).sum(axis=1).mean())}
    decided = [
        [np.stack([row[name].argmax(axis=-1) for name in OUTPUTS[task]]).ravel() for row in rows]
        for rows in (before, after)
    ]
    change: dict[str, Any] = {"decisions": float(np.concatenate([a == b for a, b in zip(*decided)]).mean())}
    if checked.labels is not None:
        right = [100 * float(np.mean(np.concatenate(side) == checked.labels)) for side in decided]
        change["accuracy"] = right[0], right[1]
    return change
