"""Files of torch.save with state dicts of NumPy arrays, written without torch."""

import io
import pickle
import struct
import sys
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

# The type of an array -> torch's name for a storage of it.
STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "uint16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass
class _Tensor:
    """Is pickled as torch pickles a tensor; `key` is the name of its storage."""

    array: np.ndarray
    key: str

    def __reduce__(self):
        utils = sys.modules["torch._utils"]
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        offset = 0
        requires_grad = False
        hooks: dict = {}
        arguments = (_Storage(self), offset, self.array.shape, strides, requires_grad, hooks)
        return utils._rebuild_tensor_v2, arguments


@dataclass
class _Storage:
    """Is pickled as the name of a tensor's storage, whose bytes are elsewhere in the file."""

    tensor: _Tensor


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        """What the pickle has instead of a storage; None: the value itself."""
        if isinstance(value, _Storage):
            array = value.tensor.array
            kind = getattr(sys.modules["torch"], STORAGES[array.dtype.name])
            return ("storage", kind, value.tensor.key, "cpu", array.size)
        return None


def write_torch_file(path: Path, arrays: dict[str, np.ndarray], wrap=None, legacy=False, **more) -> None:
    """Write a state dict as torch.save does.

    Args:
        wrap: makes the object to save from the state dict.
        legacy: the layout before torch 1.6 instead of the zip archive.
        more: further entries of the state dict, which need not be tensors.
    """
    # A pickle has only the names of classes and functions. It looks them up in their modules, so there must
    # be something with these names in modules with these names.
    torch = types.ModuleType("torch")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils = types.ModuleType("torch._utils")

    def rebuild() -> None:
        """Is named in the pickle, and never called."""

    rebuild.__module__ = "torch._utils"
    rebuild.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    pickled = io.BytesIO()
    state = {name: _Tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())} | more
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        _Pickler(pickled, 2).dump(wrap(state) if wrap else state)
    storages = {str(i): array for i, array in enumerate(arrays.values())}
    to_bytes = legacy_bytes if legacy else zip_bytes
    path.write_bytes(to_bytes(pickled.getvalue(), storages))


def zip_bytes(pickled: bytes, storages: dict[str, np.ndarray] | None = None) -> bytes:
    """A zip archive of torch with a pickle and its storages, key -> array."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("modèle/data.pkl", pickled)
        archive.writestr("modèle/byteorder", "little")
        for key, array in (storages or {}).items():
            entry = zipfile.ZipInfo(f"modèle/data/{key}")
            entry.extra = b"FB\x03\0ZZZ"  # padding, which torch writes into the local header only
            archive.writestr(entry, array.tobytes())
            entry.extra = b""
    return stream.getvalue()


def legacy_bytes(pickled: bytes, storages: dict[str, np.ndarray] | None = None) -> bytes:
    """A file in the layout before torch 1.6 with a pickle and its storages, key -> array."""
    storages = storages or {}
    stream = io.BytesIO()
    magic_number = 0x1950A86A20F9469CFC6C
    protocol_version = 1001
    for value in (magic_number, protocol_version, {"little_endian": True}):
        stream.write(pickle.dumps(value, 2))
    stream.write(pickled)
    stream.write(pickle.dumps(list(storages), 2))
    for array in storages.values():
        stream.write(struct.pack("<q", array.size))
        stream.write(array.tobytes())
    return stream.getvalue()
