"""The step folders of a run: `step_N` below its checkpoint folder, the newest whole one, the last few."""

import logging
import os
import re
import shutil
from pathlib import Path

from model.training_state import find_fault

log = logging.getLogger(__name__)
_STEP = re.compile(r"step_(\d+)")
# What `utils.files.atomic_dir` and `_remove` leave behind when a process is killed in the middle of one.
_LEFTOVER = re.compile(r"\.(step_\d+)\.(tmp|old|gone)-(\d+)")


def step_folders(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """(N, path) of every `step_N` below `folder`, in the order of N; none where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = ((_STEP.fullmatch(entry.name), entry) for entry in folder.iterdir() if entry.is_dir())
    return sorted((int(match[1]), entry) for match, entry in found if match)


def newest_complete(folder: str | os.PathLike, checksums: bool = False) -> Path | None:
    """The last step folder that a run can resume from; a broken one is named in the log and passed over.

    Args:
        folder: the checkpoint folder.
        checksums: compare every byte with the manifest, not only names and sizes. Loading does that anyway.
    """
    for _, path in reversed(step_folders(folder)):
        fault = find_fault(path / "training_state", checksums)
        if fault is None:
            return path
        log.warning("%s; it is passed over", fault)
    return None


def keep_last(folder: str | os.PathLike, count: int, keep: tuple[str | os.PathLike, ...] = ()) -> list[Path]:
    """Remove all step folders but the last `count` and those in `keep`, and what killed processes left.

    Returns:
        The folders that were removed.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"keep_last: count {count}, at least 1 must stay")
    kept = {Path(path).resolve() for path in keep}
    removed = [path for _, path in step_folders(folder)[:-count] if path.resolve() not in kept]
    for path in removed:
        _remove(path)
    _clear_leftovers(Path(folder))
    return removed


def _remove(path: Path) -> None:
    # Renamed first: half removed it must not look like a checkpoint.
    gone = path.with_name(f".{path.name}.gone-{os.getpid()}")
    os.replace(path, gone)
    shutil.rmtree(gone)


def _clear_leftovers(folder: Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        leftover = _LEFTOVER.fullmatch(entry.name)
        if leftover is None or _is_running(int(leftover[3])):
            continue
        original = entry.with_name(leftover[1])
        if leftover[2] == "old" and not original.exists():
            os.replace(entry, original)  # killed between the two renames that replace a folder
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
