"""Files of torch.save, read without torch. Only tensors in plain containers are read.

Since torch 1.6 the file is a zip archive with `<root>/data.pkl` and the bytes of each storage in
`<root>/data/<key>`, not compressed. Before, it was five pickles (magic number, version, system, the object,
the storages' keys), and then, for each storage, its number of elements as int64 and its bytes.
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
from model.checkpoint.formats.weights import Weights, check_shape, widen_bfloat16

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_SPREAD = 1 << 20  # elements by which a tensor may exceed its storage, as an expanded one does
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
    check_shape(pickles.sizes_of(shape), storage.dtype)
    return _View(storage, *pickles.sizes_of((offset,)), shape, pickles.sizes_of(strides))


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
    "torch.BFloat16Storage": np.dtype("<u2"),  # no other storage is of uint16
}
_NUMBERS = {"Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2",
            "Char": "i1", "Byte": "u1", "Bool": "?"}  # fmt: skip
_KNOWN |= {f"torch.{word}Storage": np.dtype(code).newbyteorder("<") for word, code in _NUMBERS.items()}


def read(path: Path) -> Weights:
    """Open a state dict; each tensor is read when it is accessed. bfloat16 is returned as float32.

    If the file is a dict with a state dict as "model", as fairseq writes it, that one is read, and the
    attributes of the dict's "args" are the metadata. UserError: no such file, cut short, altered, not
    torch's, or with anything else in it than tensors, plain containers and numbers; the message gives the
    first foreign name.
    """
    with pickles.refusing_damage(path, "torch.save"):
        found, places = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        notes = found.get("args")
        if isinstance(found.get("model"), dict):
            found = found["model"]
        if not all(isinstance(name, str) for name in found):
            raise ValueError("no dict of names")
        views = {name: value for name, value in found.items() if isinstance(value, _View)}
        for view in views.values():
            start, length = places[view.storage.key]
            held = length // view.storage.dtype.itemsize
            if start + length > path.stat().st_size:
                raise EOFError("it ends too early")
            if view.offset + view.span > held or math.prod(view.shape) > held + _SPREAD:
                raise ValueError(
                    f"a tensor of shape {list(view.shape)} does not fit into its storage of {held} elements"
                )

    def fetch(name: str) -> np.ndarray:
        with pickles.refusing_damage(path, "torch.save"), open(path, "rb") as file:
            return _array(views[name], file, places[views[name].storage.key][0])

    shapes = {name: view.shape for name, view in views.items()}
    metadata = notes if isinstance(notes, pickles.Attributes) else {}
    return Weights(path, shapes, fetch, metadata, [name for name in found if name not in views])


def _read_zip(path: Path) -> tuple[dict, Places]:
    places = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses
                raise ValueError(f"{entry.filename} is compressed")
            file.seek(entry.header_offset)
            # Behind the local header: 30 bytes, the entry's name, and padding.
            start = entry.header_offset + 30 + sum(struct.unpack("<26x2H", file.read(30)))
            places[entry.filename.rpartition("/data/")[2]] = (start, entry.file_size)
        (index,) = (entry for entry in entries if entry.filename.endswith("data.pkl"))
        return _load_dict(io.BytesIO(archive.read(index)), path, _storage), places


def _read_legacy(path: Path) -> tuple[dict, Places]:
    places, storages = {}, {}

    def remember(reference: Any) -> _Storage:
        storage = _storage(reference)
        return storages.setdefault(storage.key, storage)

    with open(path, "rb") as file:
        if pickles.load(file, path) != _MAGIC or pickles.load(file, path) != _VERSION:
            raise ValueError("another format")
        pickles.load(file, path)
        found = _load_dict(file, path, remember)
        for key in pickles.load(file, path):
            if not isinstance(key, str):
                raise ValueError("a storage without a name")
            (count,) = struct.unpack("<q", file.read(8))
            if count != storages[key].count:
                raise ValueError(f"{count} elements instead of {storages[key].count}")
            places[key] = (file.tell(), count * storages[key].dtype.itemsize)
            file.seek(places[key][1], io.SEEK_CUR)
    return found, places


def _load_dict(file: IO[bytes], path: Path, persistent_load: Callable[[Any], _Storage]) -> dict:
    found = pickles.load(file, path, _KNOWN, persistent_load)
    if not isinstance(found, dict):
        raise ValueError("no dict of names")
    return found


def _array(view: _View, file: IO[bytes], start: int) -> np.ndarray:
    dtype = view.storage.dtype
    file.seek(start + view.offset * dtype.itemsize)
    flat = np.fromfile(file, dtype, view.span)
    if flat.size != view.span:
        raise EOFError("it ends too early")
    strides = tuple(step * dtype.itemsize for step in view.strides)
    array = np.ndarray(view.shape, dtype, flat, strides=strides) if view.span else flat.reshape(view.shape)
    return widen_bfloat16(array) if dtype == np.uint16 else array
