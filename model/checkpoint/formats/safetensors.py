"""A safetensors file, read and written one tensor at a time, in bounded memory.

A file is: uint64 length of the header, the header (JSON: name -> dtype, shape and the place of the data,
counted from behind the header), the data of each tensor, without gaps. The library behind the format wants
all tensors of a file in memory to write it, and maps the whole file to read one; so it is the peer of our
tests. Source: the format's specification, https://huggingface.co/docs/safetensors.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.checkpoint.formats.weights import Weights, widen_bfloat16
from utils.errors import UserError

DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_BFLOAT16 = "BF16"
_NUMPY = {code: np.dtype(name).newbyteorder("<") for name, code in DTYPES.items()} | {
    _BFLOAT16: np.dtype("<u2")
}
_METADATA = "__metadata__"
_MOST_AXES = 64  # as in numpy 2
_MOST_BYTES = 1 << 62  # of a shape whose sizes of 0 were 1: numpy has no larger one, although it is empty
_LONGEST_HEADER = 100_000_000  # bytes, as in the library
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def write(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    dtype: np.dtype | type | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays. Not atomic: the caller writes into `utils.files.atomic_dir`.

    Args:
        path: the file.
        arrays: of any dtype in `DTYPES`. With `dtype` a `Weights`, read one at a time.
        dtype: what all are turned into; None: each keeps its own.
        metadata: kept in the header.

    Raises:
        OSError: the disk is full, no permission.
        TypeError: a dtype that the format does not have.
    """
    weights = Weights.of(arrays)
    dtypes = {name: np.dtype(dtype if dtype is not None else arrays[name].dtype) for name in weights}
    for name, kind in dtypes.items():
        if kind.name not in DTYPES:
            raise TypeError(f"{name}: safetensors has no dtype {kind.name}")
    header: dict = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    # As the library does: the widest first, so that each tensor's data is aligned.
    order = sorted(weights, key=lambda name: (-dtypes[name].itemsize, name))
    for name in order:
        shape = weights.shape(name)
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * dtypes[name].itemsize
        code = DTYPES[dtypes[name].name]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.asarray(weights[name], dtype=dtypes[name].newbyteorder("<"), order="C")
            if array.shape != weights.shape(name):
                raise ValueError(f"{name}: shape {list(array.shape)} instead of {list(weights.shape(name))}")
            file.write(memoryview(array.reshape(-1)).cast("B") if array.size else b"")


def read(path: str | os.PathLike) -> Weights:
    """Open a file; its tensors are read when asked for. bfloat16 comes as float32.

    Raises:
        UserError: no such file, cut short, not safetensors, or a dtype that numpy lacks.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length).decode("utf-8"))
        metadata = dict(header.pop(_METADATA, None) or {})
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        places = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
        codes = {name: entry["dtype"] for name, entry in header.items()}
        unknown = {name: code for name, code in codes.items() if code not in _NUMPY}
        if not unknown:
            _check_places(shapes, codes, places, size - 8 - length)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _BROKEN as error:
        raise UserError(
            f"{path}: damaged, cut short or not a safetensors file ({error}); copy or download the file again"
        ) from error
    for name, code in unknown.items():
        raise UserError(f"{path}: {name} has dtype {code}, which is not read here; save it as float32")

    def fetch(name: str) -> np.ndarray:
        dtype, (start, end) = _NUMPY[codes[name]], places[name]
        count = (end - start) // dtype.itemsize
        array = np.fromfile(path, dtype, count, offset=8 + length + start)
        if array.size != count:
            raise UserError(f"{path}: changed while it was read; copy or download the file again")
        array = array.reshape(shapes[name])
        return widen_bfloat16(array) if codes[name] == _BFLOAT16 else array

    return Weights(path, shapes, fetch, metadata)


def _check_places(
    shapes: dict[str, tuple[int, ...]], codes: dict[str, str], places: dict[str, tuple[int, int]], size: int
) -> None:
    """ValueError: shapes and places do not agree, there are gaps or overlaps, or the file ends elsewhere."""
    reached = 0
    for name, (start, end) in sorted(places.items(), key=lambda item: item[1]):
        if len(shapes[name]) > _MOST_AXES:
            raise ValueError(f"{name} has {len(shapes[name])} axes")
        if any(type(number) is not int or number < 0 for number in (*shapes[name], start, end)):
            raise ValueError(f"{name} has a size or a place below 0")
        if math.prod(max(number, 1) for number in shapes[name]) * _NUMPY[codes[name]].itemsize > _MOST_BYTES:
            raise ValueError(f"{name} has a shape that is too large")
        if end - start != int(np.prod(shapes[name], dtype=object)) * _NUMPY[codes[name]].itemsize:
            raise ValueError(f"{name} of shape {list(shapes[name])} has {end - start} bytes")
        if start != reached:
            raise ValueError(f"{name} begins at {start} instead of {reached}")
        reached = end
    if reached != size:
        raise ValueError(f"{size} data bytes of {reached}")
