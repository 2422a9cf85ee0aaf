"""A checkpoint folder that every process of a run writes a part of.

    main   makes a folder of a temporary name
    all    write their parts: files, checksums, fsync
    main   gives the folder its name, as soon as all have said that theirs is on the disk

A process that is killed leaves the temporary folder, which `model.steps.clear_leftovers` clears away; the
checkpoints that have their names are whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import STATE, ModelFiles
from model.manifest import MANIFEST
from model.training_state import write_part
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
    error: UserError | None = None
    try:
        try:
            if distributed.is_main():
                staged = StagedFolder(folder)
                with unwritable_is_a_user_error(folder):
                    (staged.temporary / STATE).mkdir()
        except UserError as failed:
            error = failed
        place = _agree(folder, error, staged and staged.temporary)
        try:
            if part < parts:
                with unwritable_is_a_user_error(folder):
                    _write(place, files, state, part, parts)
        except UserError as failed:
            error = failed
        _agree(folder, error)
        try:
            if staged is not None:
                staged.commit()
        except UserError as failed:
            error = failed
        _agree(folder, error)
    finally:
        if staged is not None:
            staged.discard()


def _agree(folder: Path, error: UserError | None, place: Path | None = None) -> Path | None:
    """Wait for all processes; raise if one of them failed; the place that process 0 named."""
    told = distributed.gather((error is None, place))
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
