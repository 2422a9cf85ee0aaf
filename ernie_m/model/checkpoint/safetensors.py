"""Reads and writes safetensors files one tensor at a time.

The safetensors library validates the header of a file. Data is read with NumPy, because the library maps the
whole file into memory. Files are written here, because the library requires all tensors in memory.
"""

import json
import math
import os
from collections.abc import Mapping

import numpy as np
from safetensors import safe_open

from ernie_m.model.checkpoint.weights import (
    Weights,
    WeightsFile,
    check_shape,
    read_numbers,
    widen_bfloat16,
    write_data,
)

# NumPy's name of a dtype -> that of the format.
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_FORM = "a safetensors file"
_NUMPY_DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in DTYPES.items()}
_NUMPY_DTYPES["BF16"] = np.dtype("<u2")  # its bits


def write(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    dtype: np.dtype | type | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays to a safetensors file. Not atomic: write to a folder of `ernie_m.utils.files.atomic_dir`.

    Args:
        arrays: name -> array of a dtype in `DTYPES`. With `dtype`, a `Weights` is read one tensor at a time.
        dtype: dtype to convert all arrays to; None: unchanged.
        metadata: strings to store in the header.
    """
    weights = Weights.from_arrays(arrays)
    dtypes = {name: np.dtype(dtype or arrays[name].dtype) for name in weights}
    # The library's order: the widest dtype first, so that each tensor is aligned.
    order = sorted(weights, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    end = 0
    for name in order:
        start = end
        end = start + math.prod(weights.shape(name)) * dtypes[name].itemsize
        header[name] = {
            "dtype": DTYPES[dtypes[name].name],
            "shape": list(weights.shape(name)),
            "data_offsets": [start, end],
        }
    encoded_header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded_header += b" " * (-len(encoded_header) % 8)  # so that the data starts at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(encoded_header).to_bytes(8, "little") + encoded_header)
        for name in order:
            write_data(file, np.asarray(weights[name], dtype=dtypes[name].newbyteorder("<"), order="C"))


def read(path: str | os.PathLike) -> Weights:
    """Open a safetensors file; each tensor is read when it is accessed. bfloat16 is returned as float32.

    Raises:
        UserError: the file is missing, truncated, not safetensors, or has an unsupported dtype.
    """
    opened = WeightsFile(path, _FORM)
    with opened.open_binary() as file:
        with safe_open(path, framework="numpy") as checked:  # checks the whole header
            metadata = checked.metadata()
        # The file starts with the size of the header in bytes, in 8 bytes; the data follows the header.
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in _NUMPY_DTYPES:
                raise ValueError(f"unsupported dtype of {name}: {entry['dtype']}")
            check_shape(entry["shape"], _NUMPY_DTYPES[entry["dtype"]])
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}

    def fetch(name: str) -> np.ndarray:
        dtype = header[name]["dtype"]
        start, _end = header[name]["data_offsets"]
        with opened.open_binary() as file:
            numbers = read_numbers(
                file, _NUMPY_DTYPES[dtype], math.prod(shapes[name]), 8 + header_bytes + start
            )
        array = numbers.reshape(shapes[name])
        return widen_bfloat16(array) if dtype == "BF16" else array

    return Weights(path, shapes, fetch, metadata)
