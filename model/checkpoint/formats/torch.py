"""Files of torch.save, read without torch. Only tensors in plain containers are read; anything else is
refused.

There are two layouts. Since torch 1.6 the file is a zip archive with `<root>/data.pkl` and the bytes of each
storage in `<root>/data/<key>`, not compressed. Before, it was five pickles (magic number, version, system,
the object, the storages' keys), and then, for each storage, its number of elements as int64 and its bytes.
Source: torch's serialization.py.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from model.checkpoint.formats import pickles
from model.checkpoint.formats.weights import Weights, widen_bfloat16

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_SPREAD = 1 << 20  # elements by which a tensor may exceed its storage, as an expanded one does
_NESTED = "model"  # where fairseq keeps the weights
Places = Mapping[str, tuple[int, int]]  # a storage's key -> the offset of its bytes in the file, their number


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    count: int


class _View(NamedTuple):
    """The place of a tensor in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements of the storage from the tensor's first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> _View:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without storage")
    return _View(storage, *pickles.sizes_of((offset,)), pickles.sizes_of(shape), pickles.sizes_of(strides))


def _storage(reference: Any) -> _Storage:
    what, dtype, key, _place, count, *view = reference
    if what != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or any(view):
        raise ValueError("a reference to something that is no storage")
    return _Storage(dtype, key, int(count))


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes: pickles.sizes_of(sizes),
    "argparse.Namespace": lambda: pickles.Attributes(),  # fairseq keeps the flags of a run beside its weights
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype("<u2"),  # no other storage is of uint16
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}


def read(path: Path) -> Weights:
    """Open a state dict; each tensor is read when it is accessed. bfloat16 is returned as float32.

    If the file is a dict with a state dict as "model", as fairseq writes it, that one is read, and the
    attributes of the dict's "args" are the metadata.

    Raises:
        UserError: no such file, cut short, altered, not torch's, or with anything else in it than tensors,
            plain containers and numbers; the message gives the first foreign name.
    """
    with pickles.refusing_damage(path, "torch.save"):
        found, places = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        notes = found.get("args")
        if isinstance(found.get(_NESTED), dict):
            found = found[_NESTED]
        if not all(isinstance(name, str) for name in found):
            raise ValueError("no dict of names")
        views = {name: value for name, value in found.items() if isinstance(value, _View)}
        for view in views.values():
            _check(view, places)

    def fetch(name: str) -> np.ndarray:
        with pickles.refusing_damage(path, "torch.save"), open(path, "rb") as file:
            return _array(views[name], file, places)

    shapes = {name: view.shape for name, view in views.items()}
    metadata = notes.fields if isinstance(notes, pickles.Attributes) else {}
    return Weights(path, shapes, fetch, metadata, [name for name in found if name not in views])


def _read_zip(path: Path) -> tuple[Any, Places]:
    places = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (index,) = (name for name in entries if name.endswith("data.pkl"))
        root = index.removesuffix("data.pkl")
        for name, entry in entries.items():
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses
                raise ValueError(f"{name} is compressed")
            if name.startswith(f"{root}data/"):
                places[name.removeprefix(f"{root}data/")] = (_data_offset(file, entry), entry.file_size)
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian data")
        return _load_dict(io.BytesIO(archive.read(index)), path, _storage), places


def _data_offset(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """The offset behind the entry's local header: 30 bytes, its name, and padding."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise ValueError(f"{entry.filename} has no header")
    return entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))


def _read_legacy(path: Path) -> tuple[Any, Places]:
    places, storages = {}, {}

    def remember(reference: Any) -> _Storage:
        storage = _storage(reference)
        return storages.setdefault(storage.key, storage)

    with open(path, "rb") as file:
        if pickles.load(file, path) != _MAGIC or pickles.load(file, path) != _VERSION:
            raise ValueError("another format")
        if not pickles.load(file, path).get("little_endian", True):
            raise ValueError("big-endian data")
        found = _load_dict(file, path, remember)
        for key in pickles.load(file, path):
            if not isinstance(key, str):
                raise ValueError("a storage without a name")
            (count,) = struct.unpack("<q", file.read(8))
            if count != storages[key].count:
                raise ValueError(f"{count} elements instead of {storages[key].count}")
            places[key] = (file.tell(), count * storages[key].dtype.itemsize)
            file.seek(places[key][1], 1)
        end = file.tell()
        if end > file.seek(0, 2):
            raise EOFError("it ends too early")
    return found, places


def _load_dict(file: IO[bytes], path: Path, persistent_load: Callable[[Any], _Storage]) -> dict:
    found = pickles.load(file, path, _KNOWN, persistent_load)
    if not isinstance(found, dict):
        raise ValueError("no dict of names")
    return found


def _check(view: _View, places: Places) -> None:
    held = places[view.storage.key][1] // view.storage.dtype.itemsize
    if held != view.storage.count or view.offset + view.span > held:
        raise ValueError(f"a tensor of shape {list(view.shape)} leaves its storage of {held} elements")
    if math.prod(view.shape) > held + _SPREAD:
        raise ValueError(f"a tensor of shape {list(view.shape)} in a storage of {held} elements")


def _array(view: _View, file: IO[bytes], places: Places) -> np.ndarray:
    dtype = view.storage.dtype
    file.seek(places[view.storage.key][0] + view.offset * dtype.itemsize)
    flat = np.fromfile(file, dtype, view.span)
    if flat.size != view.span:
        raise EOFError("it ends too early")
    strides = tuple(step * dtype.itemsize for step in view.strides)
    array = np.ndarray(view.shape, dtype, flat, strides=strides) if view.span else flat.reshape(view.shape)
    return widen_bfloat16(array) if dtype == np.uint16 else array
