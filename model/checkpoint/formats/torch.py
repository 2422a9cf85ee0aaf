"""A file of torch.save, read without torch: tensors in plain containers are found, anything else is refused.

Two layouts. Since torch 1.6 a zip archive: `<root>/data.pkl`, and the bytes of each storage in
`<root>/data/<key>`, not compressed. Before it five pickles one after the other (magic number, version,
system, the object, the storages' keys), then each storage: int64 number of elements, and its bytes. Source:
torch's serialization.py. The pickles are read by `model.checkpoint.formats.pickles`.
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
from model.checkpoint.formats.pickles import Name, Record
from model.checkpoint.formats.weights import Weights, widen_bfloat16
from utils.errors import UserError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_BFLOAT16 = "torch.BFloat16Storage"
_STORAGES = {
    "torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2", _BFLOAT16: "<u2",
    "torch.LongStorage": "<i8", "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1", "torch.ByteStorage": "u1", "torch.BoolStorage": "?",
}  # fmt: skip
_BROKEN = (*pickles.BROKEN, zipfile.BadZipFile, RuntimeError)  # the last one: an encrypted archive
_SPREAD = 1 << 20  # elements that a tensor may have beyond those of its storage, as expanded ones do
_NESTED = "model"  # where fairseq keeps the weights


class _Storage(NamedTuple):
    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_STORAGES[self.kind])


class _Tensor(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without storage")
    if not all(isinstance(axes, tuple) and len(axes) <= pickles.MOST_AXES for axes in (shape, strides)):
        raise ValueError("a tensor of no shape")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _storage(reference: Any) -> _Storage:
    what, kind, key, _place, count, *view = reference
    known = isinstance(kind, Name) and kind.dotted in _STORAGES and isinstance(key, str)
    if what != "storage" or not known or any(view):
        raise ValueError("a reference to something that is no storage")
    return _Storage(kind.dotted, key, int(count))


_KNOWN: dict[str, Callable | None] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": tuple,
    "argparse.Namespace": lambda: Record(),  # fairseq keeps the flags of a run beside its weights
    **dict.fromkeys(_STORAGES),
}


def read(path: Path) -> Weights:
    """The tensors of a state dict; each is read from the file when asked for. bfloat16 comes as float32.

    Where the file is a dict with a state dict as "model", as fairseq writes it, that one counts; the
    attributes of its "args" are the metadata.

    Raises:
        UserError: no such file, cut short, altered, not torch's, or with anything else in it than tensors,
            plain containers and numbers; the first foreign name is given.
    """
    try:
        found, places = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        if not isinstance(found, dict):
            raise ValueError("no dict of names")
        notes = found.get("args")
        if isinstance(found.get(_NESTED), dict):
            found = found[_NESTED]
        if not all(isinstance(name, str) for name in found):
            raise ValueError("no dict of names")
        tensors = {name: value for name, value in found.items() if isinstance(value, _Tensor)}
        for tensor in tensors.values():
            _check(tensor, places)
    except _BROKEN as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def fetch(name: str) -> np.ndarray:
        try:
            with open(path, "rb") as file:
                return _array(tensors[name], file, places)
        except _BROKEN as error:
            raise _damaged(path, error) from error

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    metadata = notes.fields if isinstance(notes, Record) else {}
    return Weights(path, shapes, fetch, metadata, [name for name in found if name not in tensors])


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path}: damaged, cut short or not a file of torch.save ({type(error).__name__}: {error}); copy or "
        "download the file again"
    )


Places = Mapping[str, tuple[int, int]]  # a storage's key -> where its bytes begin in the file, and how many


def _read_zip(path: Path) -> tuple[Any, Places]:
    places = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (index,) = (name for name in entries if name.endswith("data.pkl"))
        root = index.removesuffix("data.pkl")
        for name, entry in entries.items():
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never does, and it may unpack to any size
                raise ValueError(f"{name} is compressed")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian data")
        for name, entry in entries.items():
            if name.startswith(f"{root}data/"):
                places[name.removeprefix(f"{root}data/")] = (_data_offset(file, entry), entry.file_size)
        found = pickles.load(io.BytesIO(archive.read(index)), path, _KNOWN, _storage)
    return found, places


def _data_offset(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Behind the entry's own header: 30 bytes, its name, and a padding that only this header tells of."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise ValueError(f"{entry.filename} has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name + extra


def _read_legacy(path: Path) -> tuple[Any, Places]:
    places = {}
    with open(path, "rb") as file:
        if pickles.load(file, path) != _MAGIC or pickles.load(file, path) != _VERSION:
            raise ValueError("another format")
        if not pickles.load(file, path).get("little_endian", True):
            raise ValueError("big-endian data")
        storages: dict[str, _Storage] = {}

        def remember(reference: Any) -> _Storage:
            storage = _storage(reference)
            return storages.setdefault(storage.key, storage)

        found = pickles.load(file, path, _KNOWN, remember)
        for key in pickles.load(file, path):
            if not isinstance(key, str):
                raise ValueError("a storage without a name")
            storage = storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            if count != storage.count:
                raise ValueError(f"{count} elements instead of {storage.count}")
            places[storage.key] = (file.tell(), count * storage.dtype.itemsize)
            file.seek(count * storage.dtype.itemsize, 1)
        end = file.tell()
        if end > file.seek(0, 2):
            raise EOFError("it ends too early")
    return found, places


def _span(tensor: _Tensor) -> int:
    """Elements from the tensor's first to behind its last in the storage."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))


def _check(tensor: _Tensor, places: Places) -> None:
    if min(*tensor.shape, *tensor.strides, tensor.offset, 0) < 0:
        raise ValueError("a negative size, stride or offset")
    held = places[tensor.storage.key][1] // tensor.storage.dtype.itemsize
    if held != tensor.storage.count or tensor.offset + _span(tensor) > held:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} leaves its storage of {held} elements")
    if math.prod(tensor.shape) > held + _SPREAD:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} in a storage of {held} elements")


def _array(tensor: _Tensor, file: IO[bytes], places: Places) -> np.ndarray:
    dtype, span = tensor.storage.dtype, _span(tensor)
    file.seek(places[tensor.storage.key][0] + tensor.offset * dtype.itemsize)
    flat = np.fromfile(file, dtype, span)
    if flat.size != span:
        raise EOFError("it ends too early")
    strides = tuple(step * dtype.itemsize for step in tensor.strides)
    array = (
        np.ndarray(tensor.shape, dtype, buffer=flat, strides=strides)
        if span
        else np.empty(tensor.shape, dtype)
    )
    return widen_bfloat16(array) if tensor.storage.kind == _BFLOAT16 else array
