"""A file of torch.save, read without torch: arrays in plain containers are rebuilt, anything else is refused.

A pickle can name any function of any module and have it called. Here the names below are all there is, and
what stands behind them is ours.

Two layouts. Since torch 1.6 a zip archive: `<root>/data.pkl`, and the bytes of each storage in
`<root>/data/<key>`. Before it five pickles one after the other (magic number, version, system, the object,
the storages' keys), then each storage: int64 number of elements, and its bytes. Source: torch's
serialization.py.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from model.formats.weights import Weights
from utils.errors import UserError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_BFLOAT16 = "BFloat16Storage"
_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", _BFLOAT16: "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
# What a pickle that is cut short, altered or hostile makes the standard library raise.
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, ValueError, TypeError, KeyError,
    IndexError, AttributeError, OverflowError, NotImplementedError, MemoryError, UnicodeError,
)  # fmt: skip


class _Kind(NamedTuple):
    """Stands for a storage class."""

    name: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_STORAGES[self.name])


class _Storage(NamedTuple):
    kind: _Kind
    key: str
    count: int


class _Tensor(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _Kind(name) for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UserError(
                f"{self.path}: holds {module}.{name}, and only arrays and plain containers are read here; "
                "save the weights alone, best as model.safetensors"
            )
        return _KNOWN[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        what, kind, key, _place, count, *view = identity
        if what != "storage" or not isinstance(kind, _Kind) or any(view):
            raise ValueError(f"a reference to {what!r}")
        return self.storages.setdefault(str(key), _Storage(kind, str(key), int(count)))


def read(path: Path) -> Weights:
    """The tensors of a state dict; each is read from the file when asked for. bfloat16 comes as float32.

    Raises:
        UserError: no such file, cut short, altered, not torch's, or with anything else in it than arrays,
            plain containers and numbers; the first foreign name is given.
    """
    try:
        tensors, read_storage = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        tensors = {name: value for name, value in tensors.items() if isinstance(value, _Tensor)}
    except _BROKEN as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def fetch(name: str) -> np.ndarray:
        try:
            return _array(tensors[name], read_storage(tensors[name].storage))
        except _BROKEN as error:
            raise _damaged(path, error) from error

    return Weights(path, {name: tensor.shape for name, tensor in tensors.items()}, fetch)


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path}: damaged, cut short or not a file of torch.save ({type(error).__name__}: {error}); copy or "
        "download the file again"
    )


ReadStorage = Callable[[_Storage], bytes]


def _read_zip(path: Path) -> tuple[Mapping[str, Any], ReadStorage]:
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        root = index.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian data")
        with archive.open(index) as file:
            state = _state_dict(_Unpickler(file, path).load())

    def read_storage(storage: _Storage) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{root}data/{storage.key}")

    return state, read_storage


def _read_legacy(path: Path) -> tuple[Mapping[str, Any], ReadStorage]:
    places: dict[str, int] = {}
    with open(path, "rb") as file:
        if _Unpickler(file, path).load() != _MAGIC or _Unpickler(file, path).load() != _VERSION:
            raise ValueError("another format")
        if not _Unpickler(file, path).load().get("little_endian", True):
            raise ValueError("big-endian data")
        unpickler = _Unpickler(file, path)
        state = _state_dict(unpickler.load())
        for key in _Unpickler(file, path).load():
            storage = unpickler.storages[str(key)]
            (count,) = struct.unpack("<q", file.read(8))
            if count != storage.count:
                raise ValueError(f"{count} elements instead of {storage.count}")
            places[storage.key] = file.tell()
            file.seek(count * storage.kind.dtype.itemsize, 1)

    def read_storage(storage: _Storage) -> bytes:
        with open(path, "rb") as file:
            file.seek(places[storage.key])
            return file.read(storage.count * storage.kind.dtype.itemsize)

    return state, read_storage


def _state_dict(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError("no dict of names")
    return found


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    dtype = tensor.storage.kind.dtype
    # numpy refuses a shape, an offset or a stride that leaves the buffer.
    array = np.ndarray(
        tensor.shape,
        dtype,
        buffer=data,
        offset=tensor.offset * dtype.itemsize,
        strides=tuple(stride * dtype.itemsize for stride in tensor.strides),
    )
    if tensor.storage.kind.name == _BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)  # it is the upper half of a float32
    return array
