"""`.pdparams`: what paddle.save makes of a state dict, read and written without Paddle.

It is a pickle of {name: array}, and under "StructuredToParameterName@@" the names that Paddle itself gave to
the parameters. bfloat16 is kept as its bits in uint16. Source: Paddle's python/paddle/framework/io.py.
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.formats import pickles
from model.checkpoint.formats.pickles import Array
from model.checkpoint.formats.weights import Weights, widen_bfloat16
from utils.errors import UserError

NAMES = "StructuredToParameterName@@"


def read(path: Path) -> Weights:
    """The arrays of a state dict; each is read from the file when asked for. bfloat16 comes as float32.

    Raises:
        UserError: no such file, cut short, altered, no dict of arrays, or with anything else in it than
            arrays and plain containers; the first foreign name is given.
    """
    try:
        with open(path, "rb") as file:
            found = pickles.load(file, path)
            if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
                raise ValueError("no dict of names")
    except pickles.BROKEN as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    arrays = {name: array for name, value in found.items() if (array := _as_array(value)) is not None}

    def fetch(name: str) -> np.ndarray:
        try:
            with open(path, "rb") as file:
                array = pickles.read_array(arrays[name], file)
        except pickles.BROKEN as error:
            raise _damaged(path, error) from error
        return widen_bfloat16(array) if array.dtype == np.uint16 else array

    others = [name for name in found if name not in arrays and name != NAMES]
    return Weights(path, {name: array.shape for name, array in arrays.items()}, fetch, others=others)


def _as_array(value: Any) -> Array | None:
    if isinstance(value, tuple) and len(value) == 2:  # a tensor within containers is its name and its array
        value = value[1]
    return value if isinstance(value, Array) else None


def _damaged(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path}: damaged, cut short or not a file of paddle.save ({type(error).__name__}: {error}); copy or "
        "download the file again"
    )


# --- writing. The pickle is put together by hand: the library would want every array in memory at once.

_ARRAY = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93"  # the name that numpy 1 and 2 both know
_ARRAY += b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"  # (ndarray, (0,), b"b")
_FLOAT32 = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ" + b"\xff" * 4
_FLOAT32 += b"J" + b"\xff" * 4 + b"K\x00tb"


def write(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as float32, one at a time; paddle.load gives them back. Not atomic.

    Raises:
        OSError: the disk is full, no permission.
    """
    weights = Weights.of(weights)
    with open(path, "wb") as file:
        file.write(b"\x80\x04}(")
        for name in weights:
            array = np.asarray(weights[name], dtype="<f4", order="C")
            file.write(_text(name) + _ARRAY + b"(K\x01" + _shape(array.shape) + _FLOAT32 + b"\x89")
            file.write(b"\x8e" + struct.pack("<Q", array.nbytes))
            file.write(memoryview(array.reshape(-1)).cast("B") if array.size else b"")
            file.write(b"tb")
        file.write(b"u.")


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _shape(shape: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape) + b"t"
