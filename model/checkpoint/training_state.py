"""What a run needs to resume exactly, stored without pickle, and the run's step folders, `step_N`.

The folder `step_N/training_state/` holds a nested dict of arrays and scalars:
    arrays.safetensors   every array, bit for bit, under its place in the dict ("optimizer/moment1/0")
    state.json           the rest, with a reference in place of each array
    manifest.json        size and SHA-256 of each file, and of the model's manifest beside it, written last
Several processes write a part each; the files of the other parts are arrays-1-of-4.safetensors, ...
"""

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.formats import safetensors
from model.checkpoint.manifest import MANIFEST, check_manifest, write_manifest
from utils.errors import UserError
from utils.files import atomic_dir, host_name, read_json, temporary_name

ARRAYS, STATE = "arrays.safetensors", "state.json"
_REFERENCE = "__array__"
_STEP = re.compile(r"step_(\d+)")
# What `utils.files` and `keep_last` leave behind if the process is killed.
_LEFTOVER = re.compile(r"\.(.+)\.(tmp|old|gone)-(\d{1,9})(?:-(\w+)-[0-9a-f]+)?")
log = logging.getLogger(__name__)


def save_training_state(
    folder: str | os.PathLike, state: Mapping[str, Any], beside: tuple[str, ...] = ()
) -> None:
    """Write a state, atomically.

    Args:
        folder: replaces an older one.
        state: dicts with string keys, lists, numpy arrays and numbers, paddle tensors, int, float, str, bool,
            None. Read back, a tuple is a list, a numpy number an array of shape [], a paddle tensor a numpy
            array, and a bfloat16 tensor its bits as uint16, as `Tensor.numpy()` gives and `set_value` takes.
        beside: files of the folder above that belong to the same moment ("manifest.json").

    Raises:
        TypeError: a value or key of another type, with its place.
        UserError: the disk is full. What was there before is untouched.
    """
    with atomic_dir(folder) as temporary:
        write_part(temporary, state, beside=beside)


def write_part(
    folder: Path, state: Mapping[str, Any], part: int = 0, parts: int = 1, beside: tuple[str, ...] = ()
) -> None:
    """Write part 0 .. parts - 1 of a state into the folder of all parts; not atomic.

    The other arguments are those of `save_training_state`. The parts' dicts are merged when they are read.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _take_arrays(state, "", arrays)
    array_file, state_file, manifest = _names(part, parts)
    safetensors.write(folder / array_file, arrays)
    (folder / state_file).write_text(json.dumps(tree), encoding="utf-8")
    write_manifest(
        folder / manifest, [array_file, state_file, *(f"../{name}" for name in beside)], parts=parts
    )


def load_training_state(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a state of all parts. Every byte is first compared with the manifests.

    UserError: no state here, one of another version, or a file that is missing or was altered.
    """
    folder, state, part, parts = Path(folder), {}, 0, 1
    while part < parts:
        *wanted, manifest = _names(part, parts)
        parts = _check(folder / manifest, set(wanted))
        part += 1
    for part in range(parts):
        array_file, state_file, _ = _names(part, parts)
        path = folder / state_file
        try:
            _merge(state, _put_arrays(read_json(path), safetensors.read(folder / array_file)))
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: not as this program wrote it ({error!r})") from error
    return state


def as_numpy(value: Any) -> np.ndarray:
    """A paddle tensor, numpy array or number as an array, which shares a CPU tensor's memory if possible."""
    if not _is_tensor(value):
        return np.asarray(value)
    value = value.detach()
    if value.place.is_cpu_place() and not str(value.dtype).endswith("bfloat16"):
        return np.from_dlpack(value)
    return value.numpy()  # bfloat16: the bits, as uint16


def _check(path: Path, wanted: set[str]) -> int:
    """Compare one part's files, and the model beside it, with their manifests; the number of parts."""
    manifest = check_manifest(path)
    parts, files = manifest.get("parts", 1), manifest["files"]
    if type(parts) is not int or parts < 1 or not wanted <= files.keys():
        raise UserError(f"{path}: damaged")
    if f"../{MANIFEST}" in files:
        check_manifest(path.parent.parent / MANIFEST)
    return parts


def _names(part: int, parts: int) -> list[str]:
    """The names of a part's files: arrays, state, manifest."""
    of_part = f"-{part}-of-{parts}" if part else ""
    return [of_part.join(os.path.splitext(name)) for name in (ARRAYS, STATE, MANIFEST)]


def _merge(state: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(state.get(key), dict):
            _merge(state[key], value)
        else:
            state[key] = value


def _is_tensor(value: Any) -> bool:
    paddle = sys.modules.get("paddle")  # no tensor exists before paddle is imported
    return paddle is not None and isinstance(value, paddle.Tensor)


def _take_arrays(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """Copy a state with each array moved to `arrays` and a reference left in its place."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key != _REFERENCE for key in value):
            raise TypeError(f"training state {place or '/'}: keys {[*value]}; keys are strings")
        # Escaped as in JSON Pointer, so that {"a/b": x} and {"a": {"b": y}} get two names.
        names = {key: key.replace("~", "~0").replace("/", "~1") for key in value}
        return {key: _take_arrays(item, f"{place}/{names[key]}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_arrays(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    name, array = place.removeprefix("/"), as_numpy(value)
    if array.dtype.name not in safetensors.DTYPES:
        raise TypeError(f"training state {place}: {type(value).__name__} of dtype {array.dtype} has no form")
    arrays[name] = array
    return {_REFERENCE: name}


def _put_arrays(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_put_arrays(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _REFERENCE in tree:
        return arrays[tree[_REFERENCE]]
    return {key: _put_arrays(item, arrays) for key, item in tree.items()}


def step_folders(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """(N, path) of every `step_N` below `folder`, in the order of N; empty if there is no such folder."""
    found = ((_STEP.fullmatch(entry.name), entry) for entry in Path(folder).glob("step_*") if entry.is_dir())
    return sorted((int(match[1]), entry) for match, entry in found if match)


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

    A folder that was being replaced is put back if the new one had not yet got its name. Files of a process
    that is still running on this machine stay. The caller holds the lock of the run.
    """
    for entry in sorted(Path(folder).glob(".*")):
        leftover = _LEFTOVER.fullmatch(entry.name)
        if leftover is None or (leftover[4] in (None, host_name()) and _is_running(int(leftover[3]))):
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
