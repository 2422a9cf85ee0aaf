"""Export of a checkpoint to a self-contained directory, verified against the checkpoint.

    config.json                            the model's settings, and "export" (ernie_m/inference/load.py)
    vocab.txt, piece.model                 the tokenizer
    inference.json, inference.pdiparams    Paddle Inference model, or:
    model.onnx, model.onnx.data            ONNX and its weights
    README.md                              a model card with the difference from the checkpoint
    language_means.safetensors             mean embedding of each language, if the encoder has them
    manifest.json                          sizes and checksums of the files above, except README.md

paddle2onnx 2.1.0 aborts on the graphs of Paddle 3.3.1, so export_onnx.py writes the ONNX graph.
"""

import errno
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ernie_m.inference.engines import FILES, WEIGHTS_FILES, GraphRunner
from ernie_m.inference.export_paddle import ExportedGraph
from ernie_m.inference.load import LoadedModel, load_onnx
from ernie_m.inference.paddle_inference_engine import PaddleInferenceEngine
from ernie_m.model.checkpoint.model_card import format_model_card
from ernie_m.model.checkpoint.weights import CONFIG, LANGUAGE_MEANS, PIECES, VOCAB
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.pipeline_config import COLUMNS, GIVEN, PIPELINE, get_stored_pipeline_config
from ernie_m.model.tasks import EMBEDDING, TASKS, get_stored_name
from ernie_m.reader.batching import iter_padded_batches
from ernie_m.reader.write_tokenizer import write_native
from ernie_m.utils.checksums import CARD, MANIFEST, write_manifest
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.files import atomic_dir, format_json, parse_json
from ernie_m.utils.logging import logger

TOLERANCE = 1e-4  # maximum difference between a graph and the checkpoint
BATCH_TOKENS = 2048  # maximum number of tokens of a batch, including padding
# All files of an export; any other file in its folder is the user's.
NAMES = {CONFIG, VOCAB, PIECES, CARD, LANGUAGE_MEANS, MANIFEST, *FILES.values(), *WEIGHTS_FILES.values()}
GENERATED_TEXTS = 64  # number of texts to compare a graph with the checkpoint
CHECKED_ON = f"{GENERATED_TEXTS} random sequences"
Outputs = list[dict[str, np.ndarray]]  # for each input: output name -> array, without padding


def generate_random_inputs(
    max_length: int, ordinary_ids: np.ndarray, cls_id: int, sep_id: int
) -> list[list[int]]:
    """Generate `GENERATED_TEXTS` random model inputs. Most are short; the last one has the maximum length.

    Args:
        max_length: the maximum length of an input in tokens.
        ordinary_ids: the ids to sample from.
    """
    random = np.random.default_rng(0)
    most = max_length - 2  # without [CLS] and [SEP]
    draws = random.lognormal(3.0, 0.8, GENERATED_TEXTS)  # the median is e^3 = 20
    lengths = np.clip(draws, 1, most).astype(int)
    lengths[-1] = most
    return [[cls_id, *random.choice(ordinary_ids, length).tolist(), sep_id] for length in lengths]


def export(loaded: LoadedModel, output: Path, task: str, layer: int, graph_format: str) -> None:
    """Export a checkpoint, and verify that the graph's outputs match the checkpoint's within `TOLERANCE`.

    Args:
        loaded: the checkpoint.
        output: a new directory, or an export to replace.
        task: `EMBEDDING`, or the task of the model's head.
        layer: the layer at which an encoder ends; for other tasks the last layer.
        graph_format: the format, a key of `FILES`.

    Raises:
        UserError: the graph does not match, the disk is full, or the onnx library is not installed.
    """
    pad_id = loaded.config.pad_token_id
    engine = loaded.get_engine(task, layer)  # rejects a task that the model does not support
    tokenizer = loaded.tokenizer
    ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
    rows = generate_random_inputs(loaded.max_length, ordinary_ids, tokenizer.cls_id, tokenizer.sep_id)
    expected = compute_outputs(task, engine, rows, pad_id)
    graph = ExportedGraph(loaded.get_module(task), task, layer, loaded.has_pooler)
    with atomic_dir(output) as folder:
        if graph_format == "paddle-inference":
            _save_paddle(graph, folder / FILES[graph_format])
            exported: GraphRunner = PaddleInferenceEngine(folder, graph.outputs)
        else:
            _save_onnx(graph, folder / FILES[graph_format], loaded)
            has_pooled = "pooled" in graph.outputs
            exported = load_onnx(folder / FILES[graph_format], loaded.config, task, has_pooled)
        difference = compute_max_difference(expected, compute_outputs(task, exported, rows, pad_id))
        message = "%s: maximum difference from the checkpoint: %.1e (%s)"
        logger.info(message, graph_format, difference, CHECKED_ON)
        if difference > TOLERANCE or math.isnan(difference):
            raise UserError(
                f"{graph_format}: the export differs from the checkpoint by {difference:.1e} (maximum: "
                f"{TOLERANCE:.0e}). Nothing was written"
            )
        report = {
            "task": get_stored_name(task),
            "layer": layer,
            "outputs": graph.outputs,
            "has_pooler": loaded.has_pooler,
            "checked_on": CHECKED_ON,
            "engines": {graph_format: difference},  # maximum difference from the checkpoint
        }
        _write_other_files(folder, loaded, report)


def _save_onnx(graph: ExportedGraph, path: Path, loaded: LoadedModel) -> None:
    """Build an ONNX graph from the weights of a model, and write it.

    Raises:
        UserError: the onnx library is not installed.
    """
    try:
        from ernie_m.inference.export_onnx import write_onnx
    except ImportError as error:
        raise UserError(f"export to ONNX requires {error.name}: {get_install_command('export')}") from error
    weights = get_weight_arrays(graph.model)
    if not loaded.has_pooler:  # the pooler of the model is random
        weights = {name: array for name, array in weights.items() if not name.startswith("pooler.")}
    pooling = getattr(graph.model, "pooling", None)  # the input of a classifier
    write_onnx(path, weights, loaded.config, graph.task, graph.layer, pooling=pooling)


def _save_paddle(graph: ExportedGraph, path: Path) -> None:
    """Trace a graph with Paddle, and write it.

    Raises:
        OSError: the disk is full; Paddle itself would leave incomplete files without an error.
        UserError: Paddle cannot write its cache of traced code.
    """
    ids = paddle.static.InputSpec([None, None], "int64", "input_ids")
    try:
        paddle.jit.save(graph, str(path.with_suffix("")), input_spec=[ids])
    except OSError as error:
        cache = Path("~/.cache/paddle").expanduser()
        raise UserError(f"{cache}: not writable ({error.strerror}). Set HOME to another folder") from error
    # The file contains at least these parameters, and those of the head.
    parameters = list(graph.encoder.embeddings.parameters())
    for layer in graph.layers:
        parameters += layer.parameters()
    smallest = sum(parameter.numel().item() * parameter.element_size() for parameter in parameters)  # bytes
    if path.with_suffix(".pdiparams").stat().st_size < smallest or parse_json(path.read_bytes()) is None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _write_other_files(folder: Path, loaded: LoadedModel, report: dict[str, Any]) -> None:
    """Write the tokenizer, language means, config.json, manifest and model card of an export.

    Args:
        report: the value of "export" in config.json.
    """
    write_native(folder, loaded.tokenizer)
    if report["task"] == get_stored_name(EMBEDDING) and loaded.language_means_path is not None:
        shutil.copyfile(loaded.language_means_path, folder / LANGUAGE_MEANS)
    settings: dict[str, Any] = {
        **loaded.config.to_dict(),
        "model_type": "ernie_m",
        "task": report["task"],
        PIPELINE: get_stored_pipeline_config(loaded.pipeline_config),
    }
    if loaded.labels:
        settings["labels"] = loaded.labels
    if loaded.given_labels != loaded.labels:
        settings[GIVEN] = loaded.given_labels
    if loaded.columns:
        settings[COLUMNS] = loaded.columns
    settings["export"] = report
    (folder / CONFIG).write_text(format_json(settings), encoding="utf-8")
    write_manifest(folder / MANIFEST)
    facts = {
        "name": f"ERNIE-M, exported: {report['task']}",
        "task": report["task"],
        "labels": loaded.labels or None,
        "layer": report["layer"],
        "checked_on": report["checked_on"],
        "largest_difference": {name: f"{value:.1e}" for name, value in report["engines"].items()},
    }
    parameters = sum(parameter.size for parameter in loaded.model.parameters())
    (folder / CARD).write_text(format_model_card(facts, settings, parameters), encoding="utf-8")


def compute_outputs(task: str, engine: GraphRunner, rows: Sequence[Sequence[int]], pad_id: int) -> Outputs:
    """Run an engine on model inputs, and return the outputs for each input without padding.

    Args:
        task: the task of the engine.
        rows: the ids of each input.
    """
    outputs_of_rows: Outputs = [{} for _ in rows]
    for numbers, ids in iter_padded_batches(rows, pad_id, BATCH_TOKENS):
        for name, values in engine(ids).items():
            is_per_token = "length" in TASKS[task].outputs[name]  # has an axis of tokens
            for number, value in zip(numbers, values):
                if is_per_token:
                    value = value[: len(rows[number])]
                outputs_of_rows[number][name] = value
    return outputs_of_rows


def compute_max_difference(a: Outputs, b: Outputs) -> float:
    """Compute the maximum absolute difference of two results of `compute_outputs`; nan if an output is."""
    differences = [np.abs(row[name] - other[name]).max() for row, other in zip(a, b) for name in row]
    return float(np.max(differences))
