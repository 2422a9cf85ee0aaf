"""What a run needs to go on exactly: a nested dict of arrays and scalars, on disk without pickle.

A folder `training_state/` holds
    arrays.safetensors   every array, bit for bit, under its place in the dict ("optimizer/moment1/0")
    state.json           the rest, with a reference where an array stood
    manifest.json        size and SHA-256 of each file, written last
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.formats import safe
from utils.errors import UserError
from utils.files import atomic_dir, sha256_of

ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"
VERSION = 1
_REFERENCE = "__array__"


def save_training_state(
    folder: str | os.PathLike, state: Mapping[str, Any], beside: tuple[str, ...] = ()
) -> None:
    """Write a state, atomically.

    Args:
        folder: takes the place of an older one.
        state: dicts with string keys, lists, numpy arrays and numbers, paddle tensors, int, float, str, bool,
            None. Read back, a tuple is a list, a numpy number an array of shape [], a paddle tensor a numpy
            array, and a bfloat16 tensor its bits as uint16, as `Tensor.numpy()` gives and `set_value` takes.
        beside: files of the folder above that belong to the same moment ("model.safetensors").

    Raises:
        TypeError: a value or key of another type, with its place.
        UserError: the disk is full. What was there before is untouched.
    """
    folder = Path(folder)
    arrays: dict[str, np.ndarray] = {}
    tree = _take_arrays(state, "", arrays)
    with atomic_dir(folder) as temporary:
        safe.write(temporary / ARRAYS, arrays)
        (temporary / STATE).write_text(json.dumps(tree), encoding="utf-8")
        files = {name: _fingerprint(temporary / name) for name in (ARRAYS, STATE)}
        files |= {f"../{name}": _fingerprint(folder.parent / name) for name in beside}
        manifest = json.dumps({"version": VERSION, "files": files}, indent=2)
        (temporary / MANIFEST).write_text(manifest + "\n", encoding="utf-8")


def load_training_state(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a state back; every byte is checked against the manifest first.

    Raises:
        UserError: no state here, one of another version, or a file that is missing or was altered.
    """
    folder = Path(folder)
    fault = find_fault(folder, checksums=True)
    if fault:
        raise UserError(f"{fault}; resume from another step folder")
    tree = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return _put_arrays(tree, safe.read(folder / ARRAYS))


def find_fault(folder: str | os.PathLike, checksums: bool) -> str | None:
    """Look for what is wrong with a state, in one line that names the file; None: nothing.

    Args:
        folder: a `training_state` folder.
        checksums: read and compare every byte, not only sizes.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except OSError as error:
        return f"{folder / MANIFEST}: no complete training state here ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{folder / MANIFEST}: damaged"
    if version != VERSION:
        return f"{folder / MANIFEST}: version {version} of the format, {VERSION} is the one known here"
    for name, (size, digest) in expected.items():
        path = Path(os.path.normpath(folder / name))
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != size:
            return f"{path}: damaged, {path.stat().st_size} bytes instead of {size}"
        if checksums and sha256_of(path) != digest:
            return f"{path}: damaged, its checksum differs from the one written with it"
    return None


def as_numpy(value: Any) -> np.ndarray:
    """A paddle tensor, numpy array or number as an array; a CPU tensor's memory is shared where it can be."""
    if not _is_tensor(value):
        return np.asarray(value)
    value = value.detach()
    if value.place.is_cpu_place() and not _is_bfloat16(value):
        return np.from_dlpack(value)
    return value.numpy()  # bfloat16: the bits, as uint16


def _is_tensor(value: Any) -> bool:
    paddle = sys.modules.get("paddle")  # no tensor exists before paddle is imported
    return paddle is not None and isinstance(value, paddle.Tensor)


def _is_bfloat16(tensor: Any) -> bool:
    return str(tensor.dtype).endswith("bfloat16")


def _take_arrays(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """Copy a state with each array moved to `arrays` and a reference left in its place."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _REFERENCE:
                raise TypeError(f"training state {place or '/'}: key {key!r}; keys are strings")
        return {key: _take_arrays(item, f"{place}/{_escape(key)}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_take_arrays(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    if _is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        name = place.removeprefix("/")
        arrays[name] = as_numpy(value)
        if arrays[name].dtype.name not in safe.DTYPES:
            raise TypeError(f"training state {place}: dtype {arrays[name].dtype}")
        bfloat16 = {"dtype": "bfloat16"} if _is_tensor(value) and _is_bfloat16(value) else {}
        return {_REFERENCE: name, **bfloat16}
    raise TypeError(
        f"training state {place}: {type(value).__name__} is neither array nor number, string, list or dict"
    )


def _put_arrays(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_put_arrays(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _REFERENCE in tree:
        return arrays[tree[_REFERENCE]]
    return {key: _put_arrays(item, arrays) for key, item in tree.items()}


def _escape(key: str) -> str:
    # As JSON Pointer does, so that {"a/b": x} and {"a": {"b": y}} get two names.
    return key.replace("~", "~0").replace("/", "~1")


def _fingerprint(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
