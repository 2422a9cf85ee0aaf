"""Export a checkpoint as a folder that predicts by itself, after comparing every graph with the checkpoint.

    config.json                            the model's settings, labels and "export" (inference/load.py)
    vocab.txt, piece.model                 the tokenizer
    inference.json, inference.pdiparams    Paddle inference model
    model.onnx, model.onnx.data            ONNX and its weights
    model.int8.onnx, model.int8.onnx.data
    README.md                              a model card with the differences to the checkpoint
    language_means.safetensors             of an encoder that has them: the mean vector of each language
    manifest.json                          sizes and checksums of the files above, except the card

paddle2onnx 2.1.0 aborts on the graphs of Paddle 3.3.1, so onnx_graph.py writes the ONNX graph.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ernie_m.inference.export.paddle_graph import ExportedGraph
from ernie_m.inference.exported_model import FILES, WEIGHTS_FILES, GraphRunner, OnnxEngine, PaddleEngine
from ernie_m.inference.load import LoadedModel
from ernie_m.model.checkpoint.card import model_card
from ernie_m.model.checkpoint.card_usage import usage
from ernie_m.model.checkpoint.files import CARD, CONFIG, LANGUAGE_MEANS, PIECES, VOCAB
from ernie_m.model.checkpoint.formats.tensor_names import OURS
from ernie_m.model.checkpoint.write import model_weights
from ernie_m.model.conventions import READING
from ernie_m.model.tasks import CLASSIFICATION, ENCODING, TASKS
from ernie_m.reader.batching import EncodePairs, padded_batches
from ernie_m.reader.classification import read_classification
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.official_tsv import decode, official_names, read_all, split_cells
from ernie_m.reader.files.tagged_sentences import JOINT
from ernie_m.tokenizer.tokenizer_files import write_ours
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.errors import UserError, install_command
from ernie_m.utils.files import as_json, atomic_dir
from ernie_m.utils.logging import logger

TOLERANCE = 1e-4  # the largest difference between a float32 graph and the checkpoint
BATCH_TOKENS = 2048  # the most tokens of a batch, pads included
# All that an export may have; another file in its folder is somebody's.
NAMES = {CONFIG, VOCAB, PIECES, CARD, LANGUAGE_MEANS, MANIFEST, *FILES.values(), *WEIGHTS_FILES.values()}
GENERATED_TEXTS = 64  # the number of texts that are made up without --check_set
MOST_CHECKED = 1000  # the most texts of --check_set that are compared
Outputs = list[dict[str, np.ndarray]]  # for each input: output name -> array, without pads


@dataclass(frozen=True)
class CheckSet:
    """The inputs on which an export is compared with the checkpoint.

    Attributes:
        name: a description such as "64 made-up sentences".
        rows: ids with special tokens, of mixed lengths.
        labels: the label ids of a classification file, else None.
        multi_label: whether an input has several labels, or none.
    """

    name: str
    rows: list[list[int]]
    labels: list[int] | None = None
    multi_label: bool = False


@dataclass
class ExportReport:
    """What was exported and measured: "export" in config.json.

    Attributes:
        outputs: the names of the graph's outputs.
        has_pooler: see `LoadedModel`.
        checked_on: the name of the check set.
        engines: engine -> the largest difference to the checkpoint.
        int8: from `agreement`; empty without int8.
    """

    task: str
    layer: int
    outputs: list[str]
    has_pooler: bool
    checked_on: str
    engines: dict[str, float] = field(default_factory=dict)
    int8: dict[str, Any] = field(default_factory=dict)


def read_check_set(loaded: LoadedModel, task: str, path: str | None) -> CheckSet:
    """Read the texts that graphs are compared on, at most `MOST_CHECKED`.

    Args:
        task: what is exported.
        path: a TSV file with a header, whose labels are read if a classifier is exported, or a text file with
            a text on each line. None: texts are made up.

    Raises:
        UserError: the file cannot be read, or its name has another ending, .json or .csv.
    """
    tokenizer = loaded.tokenizer
    if path is None:
        ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
        rows = random_rows(GENERATED_TEXTS, loaded.longest, ordinary_ids, tokenizer.cls_id, tokenizer.sep_id)
        return CheckSet(f"{GENERATED_TEXTS} made-up sentences", rows, multi_label=loaded.multi_label)
    if path.endswith((".json", ".csv")):
        raise UserError(
            f"--check_set {path}: give a .tsv file with a header, or a file with a text on each line"
        )
    labels = None
    if path.endswith(".tsv"):
        label_ids = None
        first_line, _, _ = read_all(Path(path)).partition(b"\n")
        header = decode(first_line, Path(path), 1).strip("\ufeff")
        has_one_class = task == CLASSIFICATION and not (loaded.predicts_numbers or loaded.multi_label)
        is_labelled = has_one_class and "label" in official_names(split_cells(header))
        if is_labelled:
            label_ids = {label: id_ for id_, label in enumerate(loaded.labels)}
        examples = []
        for example in islice(read_classification(path, label_ids, labels=is_labelled), MOST_CHECKED):
            # A file of a tagging task joins its words with a character of their own.
            examples.append(example._replace(text_a=example.text_a.replace(JOINT, " ")))
        if is_labelled:
            labels = [example.label for example in examples]
    else:
        examples = list(islice(Sentences(path), MOST_CHECKED))
    features = EncodePairs(tokenizer, loaded.longest)(examples)
    rows = [feature.ids for feature in features]
    return CheckSet(f"{len(rows)} texts of {Path(path).name}", rows, labels, loaded.multi_label)


def random_rows(
    count: int, longest: int, ordinary_ids: np.ndarray, cls_id: int, sep_id: int, seed: int = 0
) -> list[list[int]]:
    """Rows of random ids. Most are short; the last one has the greatest length."""
    random = np.random.default_rng(seed)
    most = longest - 2  # without [CLS] and [SEP]
    lengths = np.clip(random.lognormal(3.0, 0.8, count), 1, most).astype(int)  # the median is e^3 = 20
    lengths[-1] = most
    return [[cls_id, *random.choice(ordinary_ids, length).tolist(), sep_id] for length in lengths]


def export(
    loaded: LoadedModel,
    output: Path,
    task: str,
    layer: int,
    check_set: CheckSet,
    int8_largest: int | None = None,
) -> None:
    """Write the folder, if both float32 graphs agree with the model within `TOLERANCE`.

    Args:
        loaded: a checkpoint.
        output: a new folder, or one that is replaced.
        task: "encoding", or the task of the model's head.
        layer: the layer at which an encoder ends; for other tasks the top layer.
        check_set: what the graphs are compared on.
        int8_largest: also write ONNX in int8, with weights of at most this absolute value; None: do not
            (`ernie_m.inference.export.onnx_graph.write_onnx`).

    Raises:
        UserError: a graph does not agree, the disk is full, or the onnx library is not installed.
    """
    try:
        from ernie_m.inference.export.onnx_graph import write_onnx
    except ImportError as error:
        raise UserError(f"{error.name} is missing: {install_command('export')}") from error
    pad_id = loaded.config.pad_token_id
    engine = loaded.engine(task, layer)  # refuses a task that the model is not for
    expected = run_all(task, engine, check_set.rows, pad_id)
    graph = ExportedGraph(loaded.part(task), task, layer, loaded.has_pooler)
    report = ExportReport(task, layer, list(graph.outputs), loaded.has_pooler, check_set.name)

    def compare(name: str, engine: GraphRunner) -> None:
        """Compare an engine with the checkpoint, and add the result to the report. int8 has no bound."""
        outputs = run_all(task, engine, check_set.rows, pad_id)
        difference = largest_difference(expected, outputs)
        report.engines[name] = difference
        message = "%s: the largest difference to the checkpoint is %.1e, on %s"
        logger.info(message, name, difference, check_set.name)
        if name == "onnx-int8":
            report.int8.update(agreement(task, check_set, expected, outputs))
            logger.info("onnx-int8: %s", in_words(report.int8))
        elif difference > TOLERANCE or math.isnan(difference):
            raise UserError(
                f"{name}: the exported model differs from the checkpoint by {difference:.1e}, allowed are "
                f"{TOLERANCE:.0e}; nothing was written"
            )

    with atomic_dir(output) as folder:
        _save_paddle(graph, folder / FILES["paddle"])
        compare("paddle", PaddleEngine(folder, graph.outputs))
        weights = model_weights(graph.model)
        if not loaded.has_pooler:  # the model's is random
            weights = {name: array for name, array in weights.items() if not name.startswith("pooler.")}
        pooling = getattr(graph.model, "pooling", None)  # a classifier's: what its head reads
        write_onnx(folder / FILES["onnx"], weights, loaded.config, task, layer, pooling=pooling)
        compare("onnx", OnnxEngine(folder / FILES["onnx"]))
        if int8_largest is not None:
            path = folder / FILES["onnx-int8"]
            write_onnx(path, weights, loaded.config, task, layer, int8_largest=int8_largest, pooling=pooling)
            compare("onnx-int8", OnnxEngine(folder / FILES["onnx-int8"]))
        _write_rest(folder, loaded, report)


def _save_paddle(graph: ExportedGraph, path: Path) -> None:
    """Trace a graph and write it.

    Raises:
        OSError: the disk is full. Paddle leaves incomplete files then and says nothing.
        UserError: Paddle cannot write the code that it traces.
    """
    ids = paddle.static.InputSpec([None, None], "int64", "input_ids")
    try:
        paddle.jit.save(graph, str(path.with_suffix("")), input_spec=[ids])
    except OSError as error:
        cache = Path("~/.cache/paddle").expanduser()
        raise UserError(f"{cache}: not writable ({error.strerror}); set HOME to another folder") from error
    # The file has these parameters and those of the head, so it must be at least as large as these.
    parameters = list(graph.encoder.embeddings.parameters())
    for layer in graph.layers:
        parameters += layer.parameters()
    smallest = sum(parameter.numel().item() * parameter.element_size() for parameter in parameters)  # bytes
    if path.with_suffix(".pdiparams").stat().st_size < smallest or not _is_json(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _write_rest(folder: Path, loaded: LoadedModel, report: ExportReport) -> None:
    """Write the tokenizer, the language means of an encoder, config.json, the manifest and the model card."""
    write_ours(folder, loaded.tokenizer)
    if report.task == ENCODING and loaded.language_means_path is not None:
        shutil.copyfile(loaded.language_means_path, folder / LANGUAGE_MEANS)
    settings: dict[str, Any] = {**loaded.config.to_dict(), "model_type": "ernie_m", "task": report.task}
    if loaded.labels:
        settings["labels"] = loaded.labels
    if reading := loaded.reading.to_json():
        settings[READING] = reading
    settings["export"] = {key: value for key, value in asdict(report).items() if value != {}}
    (folder / CONFIG).write_text(as_json(settings), encoding="utf-8")
    write_manifest(folder / MANIFEST)
    facts = {
        "name": f"ERNIE-M, exported: {report.task}",
        "task": report.task,
        "labels": loaded.labels or None,
        "config": loaded.config.to_dict(),
        "layer": report.layer,
        "checked_on": report.checked_on,
        "largest_difference": {name: f"{value:.1e}" for name, value in report.engines.items()},
        "int8": report.int8 or None,
    }
    snippets = usage(OURS, report.task, loaded.reading, has_means=False)
    (folder / CARD).write_text(model_card(facts, snippets), encoding="utf-8")


def run_all(task: str, engine: GraphRunner, rows: Sequence[Sequence[int]], pad_id: int) -> Outputs:
    """The outputs of a task for each row, without those of pads."""
    outputs_of_rows: Outputs = [{} for _ in rows]
    for numbers, ids in padded_batches(rows, pad_id, BATCH_TOKENS):
        for name, values in engine(ids).items():
            is_per_token = "length" in TASKS[task].outputs[name]  # among the axes of the output
            for number, value in zip(numbers, values):
                if is_per_token:
                    value = value[: len(rows[number])]
                outputs_of_rows[number][name] = value
    return outputs_of_rows


def largest_difference(a: Outputs, b: Outputs) -> float:
    """The largest absolute difference over all rows and outputs; nan if a value is not a number."""
    differences = []
    for row_a, row_b in zip(a, b):
        differences += [np.abs(row_a[name] - row_b[name]).max() for name in row_a]
    return float(np.max(differences))


def agreement(task: str, check_set: CheckSet, before: Outputs, after: Outputs) -> dict[str, Any]:
    """How int8 changes the predictions, from the outputs `before` and `after`.

    For encoding "cosine" is the mean cosine between an input's mean vectors, and "neighbours" the share of
    inputs whose nearest other input is the same, if there are three or more. For a classifier with one
    output, such as a regression, "change" is the mean absolute difference. For other tasks "decisions" is the
    share of equal decisions (classes, whether an input has a label, tags of tokens, starts and ends of
    answers), and with labels "accuracy" is (before, after) in per cent.
    """
    if task == ENCODING:
        vectors_before = _unit_means(before)
        vectors_after = _unit_means(after)
        cosine = float((vectors_before * vectors_after).sum(axis=1).mean())
        if len(before) < 3:  # a text has one possible neighbour at most
            return {"cosine": cosine}
        same = _nearest(vectors_before) == _nearest(vectors_after)
        return {"cosine": cosine, "neighbours": float(same.mean())}
    if task == CLASSIFICATION and before[0]["logits"].size == 1:
        changes = [abs(a["logits"] - b["logits"]) for a, b in zip(before, after)]
        return {"change": float(np.mean(changes))}
    decisions_before = _decisions(task, before, check_set.multi_label)
    decisions_after = _decisions(task, after, check_set.multi_label)
    # Whether each decision is the same, of all inputs one after the other: they differ in how many they have,
    # such as a tag for each token.
    equal = np.concatenate([a == b for a, b in zip(decisions_before, decisions_after)])
    change: dict[str, Any] = {"decisions": float(equal.mean())}
    if check_set.labels is not None:  # a classification, which has one decision for each input
        accuracies = []
        for decisions in (decisions_before, decisions_after):
            is_correct = np.concatenate(decisions) == check_set.labels
            accuracies.append(100 * float(np.mean(is_correct)))
        change["accuracy"] = tuple(accuracies)
    return change


def _nearest(vectors: np.ndarray) -> np.ndarray:
    """The number of the other vector that is nearest to each of [N, H], which have length 1: int64 [N]."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1)


def _unit_means(outputs: Outputs) -> np.ndarray:
    """The mean state of each input, of length 1: [N, H]."""
    means = np.stack([row["sequence"].mean(axis=0) for row in outputs])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _decisions(task: str, outputs: Outputs, multi_label: bool) -> list[np.ndarray]:
    """The decisions for each input, int64 [1] (class), [T] (the tokens' tags), or [2] (start and end).

    With `multi_label` they are whether it has each label, bool [C].
    """
    if multi_label:
        return [row["logits"] > 0 for row in outputs]
    decisions = []
    for row in outputs:
        likeliest = [np.atleast_1d(row[name].argmax(axis=-1)) for name in TASKS[task].outputs]
        decisions.append(np.concatenate(likeliest))
    return decisions


def in_words(change: dict[str, Any]) -> str:
    """What `agreement` measured, as a line of the log."""
    if "cosine" in change:
        line = f"the mean cosine between a text's vectors before and after is {change['cosine']:.4f}"
        if "neighbours" in change:
            line += f"; {100 * change['neighbours']:.2f} % of the texts keep their nearest neighbour"
        return line
    if "change" in change:
        return f"a text's number changes by {change['change']:.4f} on average"
    line = f"{100 * change['decisions']:.2f} % of the decisions are the same"
    if "accuracy" in change:
        before, after = change["accuracy"]
        line += f"; accuracy {before:.2f} % before, {after:.2f} % after"
    return line
