"""What a run needs to resume exactly, stored without pickle.

The folder `training_state/` holds a nested dict of arrays and scalars:
    arrays.safetensors   every array, bit for bit, under its place in the dict ("optimizer/moment1/0")
    state.json           the rest, with a reference in place of each array
    manifest.json        size and SHA-256 of each file, and of the model's manifest beside it, written last
Several processes write a part each; the files of the other parts are arrays-1-of-4.safetensors, ...
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.formats import safetensors
from utils.errors import UserError
from utils.files import atomic_dir, read_json
from utils.manifest import MANIFEST, check_manifest, write_manifest

ARRAYS = "arrays.safetensors"
STATE = "state.json"
_REFERENCE = "__array__"


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
    """Write one of several parts of a state into the folder of all parts; not atomic.

    The dicts of the parts are merged when they are read.

    Args:
        state: the part. This and `beside` are described at `save_training_state`.
        part: the index of the part, 0 .. parts - 1.
        parts: the number of parts.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _take_arrays(state, place="", arrays=arrays)
    array_file, state_file, manifest = _file_names(part, parts)
    safetensors.write(folder / array_file, arrays)
    (folder / state_file).write_text(json.dumps(tree), encoding="utf-8")
    files = [array_file, state_file, *(f"../{name}" for name in beside)]
    write_manifest(folder / manifest, files, parts=parts)


def load_training_state(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a state of all parts. Every byte is first compared with the manifests.

    Raises:
        UserError: no state here, one of another version, or a file that is missing or was altered.
    """
    folder = Path(folder)
    # The manifest of part 0 says how many parts there are; its name is the same for any number of parts.
    parts = _check_part(folder, part=0, parts=1)
    for part in range(1, parts):
        _check_part(folder, part, parts)
    state: dict[str, Any] = {}
    for part in range(parts):
        array_file, state_file, _manifest = _file_names(part, parts)
        path = folder / state_file
        try:
            tree = read_json(path)
            arrays = safetensors.read(folder / array_file)
            _merge(state, _put_arrays(tree, arrays))
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
    return value.numpy()  # a copy on the host; of bfloat16 the bits, as uint16


def _check_part(folder: Path, part: int, parts: int) -> int:
    """Compare one part's files, and the model beside it, with their manifests; return the number of parts.

    The manifest of part 0 says how many parts there are. It is read first, when this is not known yet: its
    name is the same for any number of parts.

    Raises:
        UserError: a file is missing or damaged.
    """
    array_file, state_file, manifest_file = _file_names(part, parts)
    path = folder / manifest_file
    manifest = check_manifest(path)
    files = manifest["files"]
    number_of_parts = manifest.get("parts")
    is_valid_number = type(number_of_parts) is int and number_of_parts >= 1
    names_its_files = array_file in files and state_file in files
    if not is_valid_number or not names_its_files:
        raise UserError(f"{path}: damaged")
    if f"../{MANIFEST}" in files:  # the state belongs to the model in the folder above
        check_manifest(folder.parent / MANIFEST)
    return number_of_parts


def _file_names(part: int, parts: int) -> list[str]:
    """The names of a part's files: arrays, state, manifest. Part 0 has the names of a state in one part."""
    names = [ARRAYS, STATE, MANIFEST]
    if part == 0:
        return names
    return [f"{Path(name).stem}-{part}-of-{parts}{Path(name).suffix}" for name in names]


def _merge(state: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add a part to the state in place. Dicts that have the same place in the two are joined."""
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(state.get(key), dict):
            _merge(state[key], value)
        else:
            state[key] = value


def _is_tensor(value: Any) -> bool:
    """Whether a value is a paddle tensor. This file is also used without Paddle."""
    paddle = sys.modules.get("paddle")  # no tensor exists before paddle is imported
    return paddle is not None and isinstance(value, paddle.Tensor)


def _take_arrays(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """Copy a state with each array moved to `arrays` and a reference in its place.

    Args:
        value: the state, or what lies at `place` in it.
        place: of the value in the state, such as "/optimizer/moment1/0"; "" for the state itself.
        arrays: gets the arrays, by their places without the first slash.

    Raises:
        TypeError: a key is no string, or a value cannot be stored.
    """
    is_plain = isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)
    if value is None or is_plain:  # numpy's float64 is a float, and is not plain
        return value
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key == _REFERENCE for key in value):
            raise TypeError(f"training state {place or '/'}: keys {[*value]}; keys are strings")
        return {key: _take_arrays(item, f"{place}/{_escape(key)}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_arrays(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    array = as_numpy(value)
    if array.dtype.name not in safetensors.DTYPES:
        raise TypeError(
            f"training state {place}: {type(value).__name__} of dtype {array.dtype} cannot be stored"
        )
    name = place.removeprefix("/")
    arrays[name] = array
    return {_REFERENCE: name}


def _escape(key: str) -> str:
    """A key in a place, as in JSON Pointer, so that {"a/b": x} and {"a": {"b": y}} have two places."""
    return key.replace("~", "~0").replace("/", "~1")


def _put_arrays(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The state that `_take_arrays` copied to `tree`, with its arrays again in their places."""
    if isinstance(tree, list):
        return [_put_arrays(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _REFERENCE in tree:
        return arrays[tree[_REFERENCE]]
    return {key: _put_arrays(item, arrays) for key, item in tree.items()}
