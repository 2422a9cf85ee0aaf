"""Checkpoints of a run: the files of a model and the state that an exact resume requires.

    step_N/          the files of the model (`ernie_m.model.checkpoint.write`), and
      training_state/
        arrays.safetensors     the optimizer's arrays by name; with sharding those of process 0, and
                               arrays-1.safetensors, ... those of the others
        state.json             other values, with the fingerprint of the run
        manifest.json          size and SHA-256 of these files and of the model's manifest

All processes write a checkpoint together: the main process makes a folder with a temporary name, all write
their parts to it, and the main process renames it. So a folder with its final name is complete.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.write import ModelFiles, as_numpy
from ernie_m.training import distributed
from ernie_m.utils.checksums import (
    MANIFEST,
    VERSION,
    UnsupportedFormatError,
    check_format_version,
    check_manifest,
    make_manifest_entry,
)
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    atomic_dir,
    make_temporary_path,
    read_object,
    sync_file,
    translate_write_errors,
)
from ernie_m.utils.logging import logger

STATE = "training_state"
_ARRAYS = "arrays"  # prefix of the files of arrays
_VALUES = "state.json"
_FORMAT = 1  # of state.json
_MODEL_MANIFEST = f"../{MANIFEST}"
_STEP = re.compile(r"step_(\d+)")


def write_checkpoint(
    folder: Path,
    files: ModelFiles | None,
    arrays: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically. Call this on every process.

    Args:
        folder: path of the checkpoint, the same on all processes; replaced if it exists.
        files: the files of the model, on process 0.
        arrays: this process's part of the training state: name -> array or tensor. A bfloat16 tensor is
            written as its bits, uint16. None: no arrays.
        values: JSON values of the training state, on process 0. None: the checkpoint has no training state.

    Raises:
        UserError: on every process, if one process could not write its part. An existing checkpoint is
            unchanged.
    """
    with contextlib.ExitStack() as staged:

        @translate_write_errors(folder)
        def create_folder() -> Path:
            """Make the checkpoint's folder under a temporary name."""
            location = staged.enter_context(atomic_dir(folder))
            if values is not None:
                (location / STATE).mkdir()
            return location

        @translate_write_errors(folder)
        def write_files() -> dict[str, Any]:
            """Write this process's files to the temporary folder; return the manifest entry of its arrays."""
            if files is not None:
                files.write(location)
            if arrays is None:
                return {}
            rank = distributed.rank()
            path = location / STATE / (f"{_ARRAYS}-{rank}.safetensors" if rank else f"{_ARRAYS}.safetensors")
            if not path.parent.is_dir():
                raise UserError(
                    f"{path.parent}: process 0 made this folder, but process {rank} does not find it. Choose "
                    "an output directory that all machines share"
                )
            safetensors.write(path, {key: as_numpy(array) for key, array in arrays.items()})
            sync_file(path)
            return {path.name: make_manifest_entry(path)}

        @translate_write_errors(folder)
        def finish_checkpoint() -> None:
            """Write state.json and the manifest, then rename the temporary folder."""
            if values is not None:
                state = location / STATE
                (state / _VALUES).write_text(json.dumps({"format": _FORMAT, **values}), encoding="utf-8")
                described = {name: make_manifest_entry(state / name) for name in (_VALUES, _MODEL_MANIFEST)}
                for part in parts:
                    described |= part
                manifest = {"version": VERSION, "files": described}
                (state / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            staged.close()

        location = distributed.run_on_main(create_folder)
        parts = distributed.run_on_all(write_files)  # manifest entries
        distributed.run_on_main(finish_checkpoint)


def read_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the training state of a checkpoint, and verify the checksums of the state and the model.

    The checkpoint may have been written by any number of processes.

    Returns:
        The arrays of all processes, and the JSON values, as passed to `write_checkpoint`.

    Raises:
        UserError: the training state is missing, or a file is missing, corrupt, or of another step or
            format.
    """
    state = folder / STATE
    files = check_manifest(state / MANIFEST)["files"]
    # The state contains the digest of its model's manifest, so that it cannot be combined with another
    # step's.
    if not {_VALUES, _MODEL_MANIFEST} <= files.keys():
        raise UserError(f"{state / MANIFEST}: corrupt")
    check_manifest(folder / MANIFEST)
    parts = [safetensors.read(state / name) for name in files if name.startswith(_ARRAYS)]
    values = read_object(state / _VALUES)
    check_format_version(
        state / _VALUES, values.pop("format", None), _FORMAT, "start a new run from its weights"
    )
    return {name: part[name] for part in reversed(parts) for name in part}, values


# The checkpoints of a run


class SavedRun(NamedTuple):
    """A checkpoint and its training state."""

    folder: Path
    arrays: dict[str, np.ndarray]  # of all processes, as passed to `write_checkpoint`
    values: dict[str, Any]


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """List the checkpoints `step_N` in a folder as (N, path), in ascending order of N.

    Raises:
        UserError: one of these names is a file, which a checkpoint would replace.
    """
    matches = [(_STEP.fullmatch(path.name), path) for path in folder.glob("step_*")]
    checkpoints = sorted((int(match[1]), path) for match, path in matches if match)
    for _, path in checkpoints:
        if not path.is_dir():
            raise UserError(f"{path}: not a checkpoint, which is a folder. Move it")
    return checkpoints


def read_last_checkpoint(folder: Path) -> SavedRun | None:
    """Read the last complete checkpoint in a folder. Call this on every process.

    Corrupt checkpoints are skipped with a warning, and renamed to `step_N.corrupt`.

    Returns:
        The checkpoint; None: the folder has no checkpoint.

    Raises:
        UserError: all checkpoints are corrupt, the last one was written by another revision, or the processes
            find different checkpoints.
    """
    newest = None
    corrupt: list[Path] = []
    for _, path in reversed(list_checkpoints(folder)):
        try:
            newest = SavedRun(path, *read_state(path))
            break
        except UnsupportedFormatError:
            raise
        except UserError as error:
            logger.warning("%s; skipping %s", error, path.name)
            corrupt.append(path)
            last_error = error
    paths = sorted(set(distributed.gather(str(newest and newest.folder))))
    if len(paths) > 1:
        raise UserError(
            f"{folder}: the processes find different checkpoints ({', '.join(paths)}). "
            "Choose a folder that all machines share"
        )
    if newest is None and corrupt:
        raise UserError(
            f"{folder}: all of its {len(corrupt)} checkpoints are corrupt ({last_error}). Restore one from a "
            "backup, or choose another output folder to start over"
        )
    # Every process has read the folder before `gather` returns.
    if distributed.is_main():
        with translate_write_errors(folder):
            for path in corrupt:
                aside = path.with_name(f"{path.name}.corrupt")
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier corruption
                os.replace(path, aside)
                logger.warning("moved %s to %s. Delete it after inspection", path, aside.name)
    return newest


def remove_old_checkpoints(folder: Path, keep_count: int, protected_path: Path | None = None) -> None:
    """Remove old checkpoints from a folder.

    Args:
        keep_count: number of checkpoints to keep, at least 1.
        protected_path: path of a checkpoint to keep in addition.
    """
    for _, path in list_checkpoints(folder)[:-keep_count]:
        if protected_path is None or path.resolve() != protected_path.resolve():
            # Rename first, because a partly removed folder must not look like a checkpoint.
            removed = make_temporary_path(path, "gone")
            os.replace(path, removed)
            shutil.rmtree(removed)


def has_training_state(path: Path) -> bool:
    """Return whether a checkpoint has a training state, so that training can resume from it."""
    return (path / STATE).is_dir()
