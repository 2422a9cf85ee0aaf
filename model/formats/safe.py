"""One safetensors file, written and read through the library; its errors become ours."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model.formats.weights import Weights
from utils.errors import UserError

DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of any dtype in `DTYPES`. Not atomic: the caller writes into `utils.files.atomic_dir`.

    Raises:
        OSError: the disk is full, no permission: what the library reports, with its errno.
        TypeError: a dtype that the format does not have.
    """
    path = Path(path)
    # The library takes addresses, not arrays: strided or big-endian data must be laid out first.
    plain = {
        name: np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        for name, array in arrays.items()
    }
    for name, array in plain.items():
        if array.dtype.name not in DTYPES:
            raise TypeError(f"{name}: safetensors has no dtype {array.dtype.name}")
    path.touch()
    mode = path.stat().st_mode  # the library makes its file readable by the owner alone
    try:
        save_file(plain, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    path.chmod(mode)


def read(path: str | os.PathLike) -> Weights:
    """Open a file; its tensors are read when asked for.

    Raises:
        UserError: no such file, cut short, not safetensors, or a dtype that numpy lacks.
    """
    try:
        file = safe_open(path, framework="np")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(
            f"{path}: damaged, cut short or not a safetensors file ({error}); copy or download the file again"
        ) from error
    for name, dtype in dtypes.items():
        if dtype not in DTYPES.values():
            raise UserError(f"{path}: {name} has dtype {dtype}, which is not read here; save it as float32")
    return Weights(path, shapes, file.get_tensor)
