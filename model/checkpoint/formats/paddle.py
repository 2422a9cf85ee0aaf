"""`.pdparams` files, which paddle.save makes of a state dict, read and written without Paddle.

The file is a pickle of {name: array}. Its key "StructuredToParameterName@@" holds Paddle's internal
parameter names. bfloat16 is stored as its bits in uint16. Source: Paddle's python/paddle/framework/io.py.
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.checkpoint.formats import pickles
from model.checkpoint.formats.weights import Weights, widen_bfloat16

NAMES = "StructuredToParameterName@@"


def read(path: Path) -> Weights:
    """Open a state dict; each array is read when it is accessed. bfloat16 is returned as float32.

    Raises:
        UserError: no such file, cut short, altered, not a dict of arrays, or with anything else in it than
            arrays and plain containers; the message gives the first foreign name.
    """
    with pickles.refusing_damage(path, "paddle.save"):
        with open(path, "rb") as file:
            found = pickles.load(file, path)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ValueError("no dict of names")
    arrays = {}
    for name, value in found.items():
        if isinstance(value, tuple) and len(value) == 2:  # a tensor within containers: its name and its array
            value = value[1]
        if isinstance(value, pickles.Array):
            arrays[name] = value

    def fetch(name: str) -> np.ndarray:
        with pickles.refusing_damage(path, "paddle.save"), open(path, "rb") as file:
            array = arrays[name].read(file)
        return widen_bfloat16(array) if array.dtype == np.uint16 else array

    others = [name for name in found if name not in arrays and name != NAMES]
    return Weights(path, {name: array.shape for name, array in arrays.items()}, fetch, others=others)


# The pickle is assembled by hand, because the pickle library would need every array in memory at once.
_ARRAY = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93"  # the name that numpy 1 and 2 both know
_ARRAY += b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"  # (ndarray, (0,), b"b")
_FLOAT32 = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ" + b"\xff" * 4
_FLOAT32 += b"J" + b"\xff" * 4 + b"K\x00tb"


def write(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as float32, one at a time, so that paddle.load reads them. Not atomic.

    Raises:
        OSError: the disk is full, or the file may not be written.
    """
    weights = Weights.of(weights)
    with open(path, "wb") as file:
        file.write(b"\x80\x04}(")
        for name in weights:
            array = np.asarray(weights[name], dtype="<f4", order="C")
            text = name.encode("utf-8")
            shape = b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in array.shape)
            file.write(b"X" + struct.pack("<I", len(text)) + text + _ARRAY)
            file.write(b"(K\x01(" + shape + b"t" + _FLOAT32 + b"\x89\x8e" + struct.pack("<Q", array.nbytes))
            file.write(memoryview(array.reshape(-1)).cast("B") if array.size else b"")
            file.write(b"tb")
        file.write(b"u.")
