"""Safetensors files, read and written one tensor at a time.

The library checks a file's header. The data is read with numpy, because the library maps the whole file into
memory, and it is written here because the library wants all tensors in memory at once.
"""

import json
import math
import os
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from model.checkpoint.formats.weights import Weights, check_shape, widen_bfloat16
from utils.errors import UserError

DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_READ = {code: np.dtype(name).newbyteorder("<") for name, code in DTYPES.items()} | {"BF16": np.dtype("<u2")}


def write(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], dtype: np.dtype | type | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write arrays. Not atomic: write into a folder of `utils.files.atomic_dir`.

    Args:
        path: the file.
        arrays: of any dtype in `DTYPES`. With `dtype`, a `Weights` is read one tensor at a time.
        dtype: what all arrays are converted to; None: each keeps its own.
        metadata: kept in the header.
    """
    weights = Weights.of(arrays)
    dtypes = {name: np.dtype(dtype if dtype is not None else arrays[name].dtype) for name in weights}
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    # The library's order: the widest dtype first, so that each tensor is aligned.
    order = sorted(weights, key=lambda name: (-dtypes[name].itemsize, name))
    for name in order:
        shape = weights.shape(name)
        start, end = end, end + math.prod(shape) * dtypes[name].itemsize
        code = DTYPES[dtypes[name].name]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.asarray(weights[name], dtype=dtypes[name].newbyteorder("<"), order="C")
            file.write(memoryview(array.reshape(-1)).cast("B") if array.size else b"")


def read(path: str | os.PathLike) -> Weights:
    """Open a file; each tensor is read when it is accessed. bfloat16 is returned as float32.

    UserError: no such file, cut short, not safetensors, or a dtype that numpy does not have.
    """
    try:
        with safe_open(path, framework="numpy") as opened:  # checks the whole header
            metadata = opened.metadata()
        with open(path, "rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(begin - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in _READ:
                raise ValueError(f"{name} has dtype {entry['dtype']}")
            check_shape(entry["shape"], _READ[entry["dtype"]])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: damaged, cut short or not a safetensors file ({error}); copy or download the file again"
        ) from error

    def fetch(name: str) -> np.ndarray:
        code, shape, offsets = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
        array = np.fromfile(path, _READ[code], math.prod(shape), offset=begin + offsets[0])
        if array.size != math.prod(shape):
            raise UserError(f"{path}: changed while it was read; copy or download the file again")
        array = array.reshape(shape)
        return widen_bfloat16(array) if code == "BF16" else array

    return Weights(path, {name: tuple(entry["shape"]) for name, entry in header.items()}, fetch, metadata)
