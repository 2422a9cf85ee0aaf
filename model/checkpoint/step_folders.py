"""The checkpoints of a run: the folders `step_N`, of which the newest intact one is loaded."""

import logging
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.checkpoint.training_state import load_training_state
from utils.errors import UserError
from utils.files import host_name, temporary_name

_STEP = re.compile(r"step_(\d+)")
# `utils.files.temporary_name`: what a killed process leaves behind. Its earlier names had no host.
_LEFTOVER = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>tmp|old|gone)-(?P<process>\d{1,9})(?:-(?P<host>\w+)-[0-9a-f]+)?"
)
log = logging.getLogger(__name__)


def step_folders(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """(N, path) of every `step_N` below `folder`, in the order of N; empty if there is no such folder."""
    steps = []
    for path in Path(folder).glob("step_*"):
        match = _STEP.fullmatch(path.name)
        if match and path.is_dir():
            steps.append((int(match[1]), path))
    return sorted(steps)


def load_newest(folder: str | os.PathLike) -> tuple[Path, dict[str, Any], list[Path]] | None:
    """Load the last complete step folder. Every byte of it is compared with its manifest.

    Returns:
        The step folder, its training state, and the later step folders, which are damaged; each is named in
        the log. None if there is no step folder.

    Raises:
        UserError: there are step folders, but none is complete.
    """
    damaged: list[Path] = []
    fault = None
    for _, path in reversed(step_folders(folder)):
        try:
            return path, load_training_state(path / "training_state"), damaged
        except UserError as error:
            log.warning("%s; %s is passed over", error, path.name)
            damaged.append(path)
            fault = error
    if fault is None:
        return None
    raise UserError(
        f"{folder}: none of its {len(damaged)} checkpoints is whole ({fault}): put back a good copy, or "
        "choose another output folder to begin anew"
    )


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename damaged step folders to `step_N.damaged`, so that they are kept but not loaded."""
    for path in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)  # the one of an earlier damage
        os.replace(path, aside)
        log.warning("%s is now %s; delete it when you have looked at it", path, aside.name)


def keep_last(folder: str | os.PathLike, count: int, keep: tuple[str | os.PathLike, ...] = ()) -> None:
    """Remove all step folders except the last `count`, at least 1, and those whose paths are in `keep`."""
    kept_paths = {Path(path).resolve() for path in keep}
    for _, path in step_folders(folder)[:-count]:
        if path.resolve() not in kept_paths:
            # Renamed first, because a half-removed folder must not look like a checkpoint.
            removed = temporary_name(path, "gone")
            os.replace(path, removed)
            shutil.rmtree(removed)


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed processes left half written in a folder. Call it before a run writes there.

    A folder that was being replaced is put back if the new one had not yet got its name. Files of a process
    that is still running on this machine stay. The caller holds the lock of the run.
    """
    for path in sorted(Path(folder).glob(".*")):
        leftover = _LEFTOVER.fullmatch(path.name)
        if leftover is None:  # a hidden file of the user's own
            continue
        is_of_this_machine = leftover["host"] in (None, host_name())  # None: an earlier form of the names
        if is_of_this_machine and _is_running(int(leftover["process"])):
            continue
        original = path.with_name(leftover["name"])
        if leftover["kind"] == "old" and not original.exists():  # "old": what was being replaced
            os.replace(path, original)
            log.warning("%s: put back, its replacement was never finished", original)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether another process of this machine has this number."""
    if process == os.getpid():  # an earlier process had the same number: numbers repeat in containers
        return False
    try:
        os.kill(process, 0)  # signal 0 only checks
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    return True
