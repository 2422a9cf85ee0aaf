"""Checkpoints of models, copies that differ from what was written, and the comparison of weights."""

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from ernie_m.model.checkpoint.write import collect_model_files
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import PipelineConfig, get_stored_pipeline_config
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.files import atomic_dir
from tests.helpers.arrays import assert_equal_arrays


def save_model(path: Path, model, config: ErnieMConfig, piece_model_path=None, **options) -> None:
    """Write a checkpoint folder of a model, atomically; `options` as `collect_model_files` takes them."""
    if piece_model_path is not None:
        options["tokenizer"] = Tokenizer(None, piece_model_path).files
    files = collect_model_files(model, config, **options)
    with atomic_dir(path) as folder:
        files.write(folder)


def change_config(folder: Path, **changes) -> None:
    """Replace or add keys in the config.json of a folder."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | changes), encoding="utf-8")


def stored(**fields) -> dict:
    """What "pipeline" of a config.json holds, with fields that may be wrong."""
    return {**get_stored_pipeline_config(PipelineConfig()), **fields}


def changed_copy(source: Path, target: Path, **changes) -> Path:
    """Copy a checkpoint with other values in its config.json, and without the manifest of what was there.

    Returns:
        `target`.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST))
    change_config(target, **changes)
    return target


def remove_pooler(folder: Path) -> None:
    """Remove the weights of the pooler from a folder without a manifest."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in weights.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors")


def assert_same_weights(folder: Path, expected: Path) -> None:
    """The weights of two checkpoints have the same names and bits."""
    weights = load_file(folder / "model.safetensors")
    assert_equal_arrays(weights, load_file(expected / "model.safetensors"))
