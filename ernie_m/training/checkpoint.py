"""Checkpoint folders, written by all processes of a run together, and the step folders among them.

    step_N/                      the files of the model (`ernie_m.model.checkpoint.write`)
    step_N/training_state/       what a run needs beside them to go on exactly
        arrays.safetensors       the optimizer's arrays by name; with sharding those of process 0, beside
                                 those of the others in arrays-1.safetensors, ...
        state.json               the rest
        manifest.json            size and SHA-256 of these files and of the model's manifest

The main process makes a folder with a temporary name, all write their parts to it, and the main process
renames it. A folder with its final name is therefore complete.
"""

import contextlib
import json
import os
import re
import shutil
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.write import ModelFiles, as_numpy
from ernie_m.training import distributed
from ernie_m.utils.checksums import MANIFEST, VERSION, check_manifest, describe
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, read_object, sync_file, temporary_name, unwritable_is_a_user_error
from ernie_m.utils.logging import logger

STATE = "training_state"
_ARRAYS = "arrays"  # the name of a file of arrays begins with it
_VALUES = "state.json"
_MODEL_MANIFEST = f"../{MANIFEST}"
_STEP = re.compile(r"step_(\d+)")


def write_checkpoint(
    folder: Path,
    files: ModelFiles | None,
    arrays: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. Call it on every process.

    Args:
        folder: the checkpoint's folder, the same on all processes. An older one is replaced.
        files: the files of the model. Only process 0 has them.
        arrays: what this process adds to the arrays of the training state: name -> array or tensor. A
            bfloat16 tensor is written as its bits, uint16. None: it adds nothing.
        values: the rest of the training state, as JSON values; those of process 0 count. None: the checkpoint
            has no training state.

    Raises:
        UserError: on every process, if one of them could not write its part. The older folder, if there was
            one, is unchanged.
    """
    with contextlib.ExitStack() as staged:

        @unwritable_is_a_user_error(folder)
        def stage() -> Path:
            """Make the folder with a temporary name."""
            place = staged.enter_context(atomic_dir(folder))
            if values is not None:
                (place / STATE).mkdir()
            return place

        @unwritable_is_a_user_error(folder)
        def write() -> dict[str, Any]:
            """Write what this process has into that folder. Return what the manifest says of its arrays."""
            if files is not None:
                files.write(place)
            if arrays is None:
                return {}
            rank = distributed.rank()
            path = place / STATE / (f"{_ARRAYS}-{rank}.safetensors" if rank else f"{_ARRAYS}.safetensors")
            if not path.parent.is_dir():
                raise UserError(
                    f"{path.parent}: process 0 made this folder, but process {rank} does not find it; give a "
                    "folder that all machines share"
                )
            safetensors.write(path, {key: as_numpy(array) for key, array in arrays.items()})
            sync_file(path)
            return {path.name: describe(path)}

        @unwritable_is_a_user_error(folder)
        def finish() -> None:
            """Complete the folder and rename it."""
            if values is not None:
                state = place / STATE
                (state / _VALUES).write_text(json.dumps(values), encoding="utf-8")
                described = {name: describe(state / name) for name in (_VALUES, _MODEL_MANIFEST)}
                for part in parts:
                    described |= part
                manifest = {"version": VERSION, "files": described}
                (state / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            staged.close()

        place = distributed.on_main(stage)
        parts = distributed.together(write)  # of the manifest
        distributed.on_main(finish)


def read_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the training state of a step folder, which any number of processes wrote.

    Every byte of it, and of the model beside it, is first compared with the manifests.

    Returns:
        The arrays of all processes and the values, as `write_checkpoint` got them.

    Raises:
        UserError: there is no training state, or a file is missing, was altered, or is of another step.
    """
    state = folder / STATE
    files = check_manifest(state / MANIFEST)["files"]
    # The state names its model's manifest, so that a state cannot be read beside the model of another step.
    if not {_VALUES, _MODEL_MANIFEST} <= files.keys():
        raise UserError(f"{state / MANIFEST}: damaged")
    check_manifest(folder / MANIFEST)
    arrays = ChainMap(*(safetensors.read(state / name) for name in files if name.startswith(_ARRAYS)))
    return dict(arrays), read_object(state / _VALUES)


# The step folders of a run


class SavedRun(NamedTuple):
    """What a step folder holds besides the model."""

    folder: Path
    arrays: dict[str, np.ndarray]  # as `write_checkpoint` got them of all processes
    values: dict[str, Any]


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """(N, path) of every `step_N` below `folder`, in the order of N; empty if there is no such folder."""
    matches = [(_STEP.fullmatch(path.name), path) for path in folder.glob("step_*")]
    return sorted((int(match[1]), path) for match, path in matches if match and path.is_dir())


def newest_step(folder: Path) -> SavedRun | None:
    """The last whole step folder below `folder`. Call it on every process.

    Later step folders, which are damaged, are named in the log and renamed to `step_N.damaged`, so that they
    are kept but not read.

    Returns:
        None if there is no step folder.

    Raises:
        UserError: there are step folders, but none is whole; or the processes see different folders.
    """
    newest = None
    damaged: list[Path] = []
    for _, path in reversed(step_folders(folder)):
        try:
            newest = SavedRun(path, *read_state(path))
            break
        except UserError as error:
            logger.warning("%s; %s is passed over", error, path.name)
            damaged.append(path)
            fault = error
    paths = sorted(set(distributed.gather(str(newest and newest.folder))))
    if len(paths) > 1:
        raise UserError(
            f"{folder}: the processes find different checkpoints there ({', '.join(paths)}); "
            "give a folder that all machines share"
        )
    if newest is None and damaged:
        raise UserError(
            f"{folder}: none of its {len(damaged)} checkpoints is whole ({fault}): put back a good copy, or "
            "choose another output folder to begin anew"
        )
    # Every process has read the folder, because `gather` has waited for them.
    if distributed.is_main():
        with unwritable_is_a_user_error(folder):
            for path in damaged:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)  # the one of an earlier damage
                os.replace(path, aside)
                logger.warning("%s is now %s; delete it when you have looked at it", path, aside.name)
    return newest


def keep_last(folder: Path, count: int, always: Path | None = None) -> None:
    """Remove all step folders but the last `count`, at least 1, and the one with the path `always`."""
    for _, path in step_folders(folder)[:-count]:
        if always is None or path.resolve() != always.resolve():
            # Renamed first, because a half-removed folder must not look like a checkpoint.
            removed = temporary_name(path, "gone")
            os.replace(path, removed)
            shutil.rmtree(removed)
