"""Reads files of torch.save without torch. Only tensors in plain containers are supported.

Since torch 1.6 the file is a zip archive with `<root>/data.pkl` and the bytes of each storage in
`<root>/data/<key>`, uncompressed. Before, it was five pickles (magic number, version, system, the object,
storage keys), and then, for each storage, its number of elements as int64 and its bytes.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint.foreign import restricted_pickle
from ernie_m.model.checkpoint.weights import (
    Weights,
    WeightsFile,
    check_shape,
    read_numbers,
    widen_bfloat16,
)

_FORM = "a file of torch.save"
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_SPREAD = 1 << 20  # elements by which an expanded tensor may exceed its storage
_LOCAL_HEADER_BYTES = 30  # bytes of a zip entry before its name


_Place = tuple[int, int]  # offset and size of a storage in the file, in bytes


class _Storage(NamedTuple):
    """A torch storage, as referenced in the pickle."""

    dtype: np.dtype
    key: str
    size: int  # number of elements


class _View(NamedTuple):
    """A tensor: its storage, and its offset, shape and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Return the number of storage elements between the first and the last of the tensor, inclusive."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


def _rebuild_view(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> _View:
    """Make a tensor; the stand-in for torch's `_rebuild_tensor` and `_rebuild_tensor_v2`.

    Args:
        _: arguments about gradients, which are ignored.

    Raises:
        ValueError: an argument is invalid.
    """
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without storage")
    check_shape(restricted_pickle.check_sizes(shape), storage.dtype)
    (checked_offset,) = restricted_pickle.check_sizes((offset,))  # checked like a size
    return _View(storage, checked_offset, shape, restricted_pickle.check_sizes(strides))


def _parse_storage(reference: Any) -> _Storage:
    """Parse a reference to a storage in the pickle.

    Raises:
        ValueError: the reference is not to a storage, or is to a part of one, as in very old files.
    """
    kind, dtype, key, _device, count, *part = reference
    is_storage = kind == "storage" and isinstance(dtype, np.dtype) and isinstance(key, str)
    is_part = any(part)  # before torch 1.6 a last element, None for a whole storage
    if not is_storage or is_part:
        raise ValueError("a reference to an object that is not a storage")
    return _Storage(dtype, key, int(count))


_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": "<u2",  # its bits; no other storage is uint16
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
_STAND_INS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_view,
    "torch._utils._rebuild_tensor_v2": _rebuild_view,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": restricted_pickle.check_sizes,
    # fairseq keeps the flags of a run next to its weights. The lambda ignores the dict, which the class would
    # copy.
    "argparse.Namespace": lambda: restricted_pickle.Attributes(),
    **{f"torch.{name}Storage": np.dtype(code) for name, code in _DTYPES.items()},
}


def read(path: Path) -> Weights:
    """Open a state dict of torch.save; each tensor is read when it is accessed. bfloat16 becomes float32.

    A fairseq checkpoint has its state dict under the key "model". The attributes of "args", or the keys of
    "model" in "cfg", become the metadata.

    Raises:
        UserError: the file is missing, truncated, changed or not a state dict, or contains objects other than
            tensors, plain containers and numbers.
    """
    opened = WeightsFile(path, _FORM)
    with opened.open_binary():
        contents, locations = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        arguments = contents.get("args")
        if arguments is None and isinstance(contents.get("cfg"), dict):  # fairseq since 0.10
            arguments = contents["cfg"].get("model")
        if isinstance(contents.get("model"), dict):
            contents = contents["model"]
        if not all(isinstance(name, str) for name in contents):
            raise ValueError("not a state dict")
        views = {name: value for name, value in contents.items() if isinstance(value, _View)}
        file_bytes = path.stat().st_size
        for view in views.values():
            _check_view(view, locations[view.storage.key], file_bytes)

    def fetch(name: str) -> np.ndarray:
        view = views[name]
        with opened.open_binary() as file:
            return _read_view(view, file, locations[view.storage.key][0])

    shapes = {name: view.shape for name, view in views.items()}
    metadata = arguments if isinstance(arguments, dict) else {}
    other_names = [name for name in contents if name not in views]
    return Weights(path, shapes, fetch, metadata, other_names, views)


def _check_view(view: _View, location: _Place, file_bytes: int) -> None:
    """Check that the file contains a tensor's storage, and the storage all elements of the tensor.

    Args:
        location: offset and size of the storage in the file, in bytes.
        file_bytes: size of the file.

    Raises:
        EOFError: the file is too short.
        ValueError: the storage is too short.
    """
    offset, length = location
    if offset + length > file_bytes:
        raise EOFError("unexpected end of file")
    elements = length // view.storage.dtype.itemsize
    ends_behind_storage = view.offset + view.span > elements
    # A tensor that torch has expanded has more elements than its storage: some of its strides are 0.
    is_expanded_too_far = math.prod(view.shape) > elements + _SPREAD
    if ends_behind_storage or is_expanded_too_far:
        raise ValueError(
            f"a tensor of shape {list(view.shape)} does not fit into its storage of {elements} elements"
        )


def _read_zip(path: Path) -> tuple[dict, Mapping[str, _Place]]:
    """Read a zip archive of torch.save; return the saved dict, and storage key -> location."""
    locations = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses
                raise ValueError(f"{entry.filename} is compressed")
            file.seek(entry.header_offset)
            # The header ends with the lengths of two fields that follow it: the entry's name, and padding.
            name_length, padding_length = struct.unpack("<26x2H", file.read(_LOCAL_HEADER_BYTES))
            offset = entry.header_offset + _LOCAL_HEADER_BYTES + name_length + padding_length
            key = entry.filename.rpartition("/data/")[2]  # other entries get an unused key
            locations[key] = (offset, entry.file_size)
        (pickle_entry,) = [entry for entry in entries if entry.filename.endswith("data.pkl")]  # exactly one
        contents = _load_dict(io.BytesIO(archive.read(pickle_entry)), path, _parse_storage)
    return contents, locations


def _read_legacy(path: Path) -> tuple[dict, Mapping[str, _Place]]:
    """Read a file of torch.save before 1.6; return the saved dict, and storage key -> location."""
    storages: dict[str, _Storage] = {}  # key in the archive -> storage

    def record_storage(reference: Any) -> _Storage:
        """Parse a reference, and record the storage; equal references return the same object."""
        storage = _parse_storage(reference)
        return storages.setdefault(storage.key, storage)

    with open(path, "rb") as file:
        # Each call reads the next pickle of the file.
        if restricted_pickle.load(file, path) != _MAGIC or restricted_pickle.load(file, path) != _VERSION:
            raise ValueError("not a PyTorch archive")
        restricted_pickle.load(file, path)  # the system, unused
        contents = _load_dict(file, path, record_storage)
        locations = {}
        for key in restricted_pickle.load(file, path):
            if not isinstance(key, str):
                raise ValueError("a storage without a name")
            (count,) = struct.unpack("<q", file.read(8))
            storage = storages[key]
            if count != storage.size:
                raise ValueError(f"{count} elements instead of {storage.size}")
            locations[key] = (file.tell(), count * storage.dtype.itemsize)
            file.seek(locations[key][1], io.SEEK_CUR)
    return contents, locations


def _load_dict(file: IO[bytes], path: Path, persistent_load: Callable[[Any], _Storage]) -> dict:
    """Read the pickle of the saved object, a dict.

    Args:
        persistent_load: parses a reference to a storage.

    Raises:
        ValueError: the object is not a dict.
    """
    contents = restricted_pickle.load(file, path, _STAND_INS, persistent_load)
    if not isinstance(contents, dict):
        raise ValueError("not a state dict")
    return contents


def _read_view(view: _View, file: IO[bytes], storage_offset: int) -> np.ndarray:
    """Read the data of a tensor whose storage begins at `storage_offset` bytes of the file."""
    dtype = view.storage.dtype
    numbers = read_numbers(file, dtype, view.span, storage_offset + view.offset * dtype.itemsize)
    strides = tuple(stride * dtype.itemsize for stride in view.strides)
    array = np.ndarray(view.shape, dtype, numbers, strides=strides)
    return widen_bfloat16(array) if dtype == np.uint16 else array
