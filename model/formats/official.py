"""The official layout: `ernie_config.json` beside `params/`, a folder with one file per variable."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.formats import fluid, names
from model.formats.translation import Origin
from model.formats.weights import Weights
from model.task_names import CLASSIFICATION, task_named
from utils.errors import UserError
from utils.files import atomic_dir, atomic_file

CONFIG = "ernie_config.json"
CONFIG_KEYS = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size",
)  # fmt: skip
MARK = "word_embedding"  # the one variable that every official directory has


class Directory(NamedTuple):
    """What a parameter directory holds.

    weights, origins: under our names. head: the key of `names.HEADS` whose head is there, or None.
    dropped: known training state, file -> why; unknown: other files, by name.
    """

    weights: Weights
    origins: dict[str, Origin]
    head: str | None
    dropped: dict[str, str]
    unknown: list[str]


def find(path: str | os.PathLike) -> tuple[Path, Path | None] | None:
    """The parameter directory that `path` is, or holds as `params/`, and its config file; None: neither.

    The config is looked for in the directory and beside it, and is None where it is not found.
    """
    for folder in (Path(path), Path(path) / "params"):
        if (folder / MARK).is_file():
            configs = (folder / CONFIG, folder.resolve().parent / CONFIG)
            return folder, next((config for config in configs if config.is_file()), None)
    return None


def read_directory(folder: str | os.PathLike) -> Directory:
    """Read every variable's header now and its data when asked for. Adam state and counters are passed over.

    Raises:
        UserError: a file that is cut short, over-long or foreign; heads of two tasks.
    """
    folder = Path(folder)
    files = {file.name for file in folder.iterdir() if file.is_file()}
    head = _find_head(folder, files)
    table = names.variables(names.count_layers(files), head, lm_head=True)
    paths = {v.canonical: folder / v.official for v in table if v.official in files}
    headers = {name: fluid.read_header(path) for name, path in paths.items()}
    known = {path.name for path in paths.values()} | {CONFIG}
    dropped = dict.fromkeys(sorted(filter(names.NOT_WEIGHTS.search, files - known)), "state of training")
    unknown = sorted(files - known - dropped.keys())
    weights = Weights(
        folder,
        {name: header.shape for name, header in headers.items()},
        lambda name: fluid.read(paths[name], headers[name]),
    )
    origins = {name: Origin((path.name,), False) for name, path in paths.items()}
    return Directory(weights, origins, head, dropped, unknown)


def write_fluid(
    folder: str | os.PathLike,
    weights: Mapping[str, np.ndarray],
    config: dict | None = None,
    head: str = CLASSIFICATION,
) -> list[str]:
    """Write `folder/params/` (float32) and, with a config, `folder/ernie_config.json`.

    Args:
        folder: made if need be; a `params/` in it is replaced, whole.
        weights: canonical name -> array.
        config: the keys of our config; those that the official code reads are written.
        head: the task whose name `classifier.*` gets, of `model.task_names`.

    Returns:
        The names that the official format has no place for; they are not written.

    Raises:
        UserError: a feed-forward size other than 4 x hidden_size, which the official code cannot express; a
            full disk.
    """
    folder = Path(folder)
    if config and config.get("intermediate_size") not in (None, 4 * config["hidden_size"]):
        raise UserError(
            f"{folder}: intermediate_size {config['intermediate_size']} cannot be written in the official "
            f"format, which always uses 4 x hidden_size = {4 * config['hidden_size']}"
        )
    table = names.variables(names.count_layers(weights), task_named(head), lm_head=True)
    official = {v.canonical: v.official for v in table}
    with atomic_dir(folder / "params") as params:
        for name in weights:
            if name in official:
                fluid.write(params / official[name], np.asarray(weights[name], dtype=np.float32))
    if config:
        write_config(folder / CONFIG, config)
    return [name for name in weights if name not in official]


def write_config(path: str | os.PathLike, config: dict) -> None:
    """Write those keys of a config that the official code reads, as JSON."""
    with atomic_file(path, "w") as file:
        json.dump({key: config[key] for key in CONFIG_KEYS if key in config}, file, indent=2)
        file.write("\n")


def _find_head(folder: Path, files: set[str]) -> str | None:
    found = [head for head, table in names.HEADS.items() if any(v.official in files for v in table)]
    if len(found) > 1:
        held = ", ".join(names.HEADS[head][0].official for head in found)
        raise UserError(
            f"{folder}: heads of {len(found)} tasks ({held}); move the files of all but one elsewhere"
        )
    return found[0] if found else None
