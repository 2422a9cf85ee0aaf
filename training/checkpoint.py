"""Checkpoint folders of a run on several processes: each writes a part, and all go on from the same one.

    main   makes a folder of a temporary name
    all    write their parts: files, checksums, fsync
    main   gives the folder its name, as soon as all have said that theirs is on the disk

A process that is killed leaves the temporary folder, which `model.checkpoint.step_folders.clear_leftovers`
clears away; the
checkpoints that have their names are whole.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.folder import STATE, ModelFiles, load_newest, set_aside
from model.checkpoint.manifest import MANIFEST
from model.checkpoint.training_state import write_part
from training import distributed
from utils.errors import UserError
from utils.files import StagedFolder, sync_files, unwritable_is_a_user_error


def write_checkpoint(
    folder: Path, files: ModelFiles | None, state: Mapping[str, Any], part: int = 0, parts: int = 1
) -> None:
    """Write a checkpoint; call it on every process.

    Args:
        folder: its name, the same on all processes; takes the place of an older one.
        files: of the model; those of process 0 are written.
        state: this process's part of the training state.
        part, parts: which it is; a process whose part is not below `parts` writes nothing.

    Raises:
        UserError: on every process, if one of them could not write its part. What was there before is
            untouched.
    """
    staged: StagedFolder | None = None

    def stage() -> Path | None:
        nonlocal staged
        if not distributed.is_main():
            return None
        staged = StagedFolder(folder)
        (staged.temporary / STATE).mkdir()
        return staged.temporary

    def write() -> None:
        if part < parts:
            _write(place, files, state, part, parts)

    def commit() -> None:
        if staged is not None:
            staged.commit()

    try:
        place = _together(folder, stage)
        _together(folder, write)
        _together(folder, commit)
    finally:
        if staged is not None:
            staged.discard()


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last whole step folder below `folder`, and its training state; call it on every process.

    Later ones, which are damaged, are set aside. None where there is no step folder.

    Raises:
        UserError: there are step folders, but none is whole, or the processes see different ones.
    """
    found = load_newest(folder)
    seen = sorted(set(distributed.gather(str(found and found[0]))))
    if len(seen) > 1:
        raise UserError(
            f"{folder}: the processes find different checkpoints there ({', '.join(seen)}); "
            "give a folder that all machines share"
        )
    if found is None:
        return None
    if distributed.is_main():  # all have read by now
        with unwritable_is_a_user_error(folder):
            set_aside(found[2])
    return found[:2]


def _together(folder: Path, work: Callable[[], Path | None]) -> Path | None:
    """Do `work` on every process, and wait for all; raise if it failed on one; what process 0's returned."""
    error = result = None
    try:
        with unwritable_is_a_user_error(folder):
            result = work()
    except UserError as failed:
        error = failed
    told = distributed.gather((error is None, result))
    if error is not None:
        raise error
    if not all(went_well for went_well, _ in told):
        raise UserError(f"{folder}: another process could not write its part; its log says why")
    return told[0][1]


def _write(place: Path, files: ModelFiles | None, state: Mapping[str, Any], part: int, parts: int) -> None:
    if part == 0:
        files.write(place)
    write_part(place / STATE, state, part, parts, beside=() if part else (MANIFEST,))
    sync_files(place)
