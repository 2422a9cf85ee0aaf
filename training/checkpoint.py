"""Checkpoint folders of a run on several processes.

The main process makes a folder with a temporary name, all write their parts to it, and the main process
renames it. A folder with its final name is therefore complete.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.folder import STATE, ModelFiles
from model.checkpoint.step_folders import load_newest, set_aside
from model.checkpoint.training_state import write_part
from training import distributed
from utils.errors import UserError
from utils.files import atomic_dir, sync_files, unwritable_is_a_user_error
from utils.manifest import MANIFEST


def write_checkpoint(
    folder: Path,
    files: ModelFiles | None,
    state: Mapping[str, Any] | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Write a checkpoint. Call it on every process.

    Args:
        folder: the checkpoint's folder, the same on all processes. An older one is replaced.
        files: the files of the model. Only process 0 has them.
        state: this process's part of the training state; None: the model alone.
        part, parts: the number of this part, and how many there are. A process whose `part` is not below
            `parts` writes nothing.

    Raises:
        UserError: on every process, if one of them could not write its part. The older folder, if there was
            one, is unchanged.
    """
    with contextlib.ExitStack() as staged:

        def stage() -> Path | None:
            """Make the folder with a temporary name, on the main process."""
            if not distributed.is_main():
                return None
            place = staged.enter_context(atomic_dir(folder))
            if state is not None:
                (place / STATE).mkdir()
            return place

        def write(place: Path) -> None:
            """Write what this process has into that folder."""
            has_part = state is not None and part < parts
            if files is not None:
                files.write(place)
            if has_part:
                # The part of process 0 holds the checksum of the model's manifest: both are of one step.
                beside = (MANIFEST,) if part == 0 else ()
                write_part(place / STATE, state, part, parts, beside)
            if files is not None or has_part:
                sync_files(place)

        place = _together(folder, stage)
        _together(folder, lambda: write(place))
        _together(folder, staged.close)  # renames the folder


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged step folder below `folder`, and its training state. Call it on every process.

    Newer step folders that are damaged are renamed.

    Returns:
        (step folder, training state); None if there is no step folder.

    Raises:
        UserError: every step folder is damaged, or the processes see different folders.
    """
    newest = load_newest(folder)  # (step folder, training state, damaged step folders), or None
    newest_path = None if newest is None else newest[0]
    paths = sorted(set(distributed.gather(str(newest_path))))
    if len(paths) > 1:
        raise UserError(
            f"{folder}: the processes find different checkpoints there ({', '.join(paths)}); "
            "give a folder that all machines share"
        )
    if newest is None:
        return None
    path, training_state, damaged = newest
    # Every process has read the folder, because `gather` has waited for them.
    if distributed.is_main():
        with unwritable_is_a_user_error(folder):
            set_aside(damaged)
    return path, training_state


def _together(folder: Path, work: Callable[[], Path | None]) -> Path | None:
    """Call `work` on every process, and return the result of process 0.

    Raises:
        UserError: on every process, if the call failed on one of them.
    """
    result = None
    fault: UserError | None = None
    try:
        with unwritable_is_a_user_error(folder):
            result = work()
    except UserError as error:
        fault = error
    except OSError as error:  # the folder that process 0 made is not there
        fault = UserError(f"{folder}: {error.strerror}; give a folder that all machines share")
    outcomes = distributed.gather((fault is None, result))
    if fault is not None:
        raise fault
    if not all(succeeded for succeeded, _ in outcomes):
        raise UserError(f"{folder}: another process could not write its part; its log says why")
    _, result_of_main = outcomes[0]
    return result_of_main
