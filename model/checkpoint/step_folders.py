"""The step folders of a run, `step_N`: the newest complete one, and the removal of others."""

import itertools
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

log = logging.getLogger(__name__)
_STEP = re.compile(r"step_(\d+)")
# What `utils.files` and `keep_last` leave behind if the process is killed.
_LEFTOVER = re.compile(r"\.(.+)\.(tmp|old|gone)-(\d{1,9})(?:-(\w+)-[0-9a-f]+)?")


def step_folders(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """(N, path) of every `step_N` below `folder`, in the order of N; empty if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = ((_STEP.fullmatch(entry.name), entry) for entry in folder.iterdir() if entry.is_dir())
    return sorted((int(match[1]), entry) for match, entry in found if match)


def load_newest(folder: str | os.PathLike) -> tuple[Path, dict[str, Any], list[Path]] | None:
    """Load the last complete step folder. Every byte of it is compared with its manifest.

    Args:
        folder: the checkpoint folder.

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
        ends = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        names = (path.with_name(f"{path.name}.damaged{end}") for end in ends)
        aside = next(name for name in names if not name.exists())
        os.replace(path, aside)
        log.warning("%s is now %s; delete it when you have looked at it", path, aside.name)


def keep_last(folder: str | os.PathLike, count: int, keep: tuple[str | os.PathLike, ...] = ()) -> None:
    """Remove all step folders except the last `count`, at least 1, and those in `keep`."""
    kept = {Path(path).resolve() for path in keep}
    for _, path in step_folders(folder)[:-count]:
        if path.resolve() not in kept:
            # Renamed first, because a half-removed folder must not look like a checkpoint.
            gone = temporary_name(path, "gone")
            os.replace(path, gone)
            shutil.rmtree(gone)


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed processes left half written in a folder. Call it before a run writes there.

    A folder that was being replaced (`best`, `full`, `step_N`) is put back if the new one had not yet got its
    name. Files of a process that is still running on this machine stay. The caller holds the lock of the run,
    so no process of another machine writes there.
    """
    folder = Path(folder)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        leftover = _LEFTOVER.fullmatch(entry.name)
        here = leftover is not None and leftover[4] in (None, host_name())
        if leftover is None or (here and _is_running(int(leftover[3]))):
            continue
        original = entry.with_name(leftover[1])
        if leftover[2] == "old" and not original.exists():
            os.replace(entry, original)
            log.warning("%s: put back, its replacement was never finished", original)
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():  # an earlier process had the same number: numbers repeat in containers
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
