"""The official file format: its bytes, by hand and against Paddle's own, and every kind of damage."""

import re
import struct

import numpy as np
import paddle
import pytest

from ernie_m.model.checkpoint import lod_tensors
from tests.launching import error_of

DATA = (np.arange(6, dtype="<f4") / 7).tobytes()  # of an array [3, 2]


def file_bytes(description, data=DATA, version=0, levels=0, length=None):
    """A LoDTensor file put together by hand.

    Args:
        description: of the tensor, in protocol buffers.
        levels: number of LoD levels, which would follow.
        length: what the file says of the description's length; None: the truth.
    """
    if length is None:
        length = len(description)
    # 0: the version of the tensor.
    return struct.pack("<IQIi", version, levels, 0, length) + description + data


# Field 1 (08), the dtype: 5, which is float32. Field 2 (10), once for each axis: 3 and 2.
FLOAT_3_2 = bytes.fromhex("0805 1003 1002")
GOOD = file_bytes(FLOAT_3_2)


@pytest.mark.parametrize(
    "dtype", ["bool", "int16", "int32", "int64", "float16", "float32", "float64", "uint8", "int8"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (300, 7)])
def test_same_bytes_as_paddle(tmp_path, dtype, shape):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    paddle.save(paddle.to_tensor(array), str(tmp_path / "by_paddle"), use_binary_format=True)
    lod_tensors.write(tmp_path / "by_us", array)
    assert (tmp_path / "by_us").read_bytes() == (tmp_path / "by_paddle").read_bytes()
    np.testing.assert_array_equal(lod_tensors.read(tmp_path / "by_paddle"), array, strict=True)


def test_write_other_memory_orders(tmp_path):
    array = np.arange(21, dtype=np.float32).reshape(3, 7)
    for same_values in (np.asfortranarray(array), array.astype(">f4")):
        lod_tensors.write(tmp_path / "v", same_values)
        assert np.array_equal(lod_tensors.read(tmp_path / "v"), array)


def test_bfloat16_is_read_as_float32(tmp_path):
    values = paddle.to_tensor([1.0, -2.5, 3.0e38, 1e-40, float("inf")], dtype="bfloat16")
    paddle.save(values, str(tmp_path / "v"), use_binary_format=True)
    np.testing.assert_array_equal(lod_tensors.read(tmp_path / "v"), values.astype("float32"), strict=True)


# The content of a file, and a part of the message. numpy and struct have made those about buffers and
# dimensions.
FOREIGN = [
    (GOOD + b"x", "25 data bytes .expected 24"),
    (file_bytes(FLOAT_3_2, version=1), "unknown version 1"),
    (GOOD[:12] + b"\1" + GOOD[13:], "tensors of version 1"),
    (file_bytes(FLOAT_3_2, levels=2), "2 LoD levels"),
    # The axes as one packed field of two bytes.
    (file_bytes(bytes.fromhex("0805 1202 0302")), "corrupt tensor description"),
    # A third field.
    (file_bytes(FLOAT_3_2 + bytes.fromhex("1801")), "corrupt tensor description"),
    (file_bytes(FLOAT_3_2, length=-1), "tensor description of -1 bytes"),
    (file_bytes(bytes.fromhex("0807 1003")), "dtype 7"),
    # An axis whose number continues after the end: in each byte but the last one, the highest bit is set.
    (file_bytes(bytes.fromhex("0805 10ff")), "Error parsing message"),
    # An axis of 2^64 - 1.
    (file_bytes(b"\x08\x05\x10" + b"\xff" * 9 + b"\x01"), "too large|Maximum allowed"),
    # 400 axes of 1.
    (file_bytes(b"\x08\x05" + b"\x10\x01" * 400, bytes(4)), "maximum supported dimension"),
    # A text.
    (b"word\tid\n" * 20, "version [0-9]+ with "),
    # The beginnings of a file.
    *(
        (GOOD[:length], "requires a buffer|corrupt tensor|data bytes .expected")
        for length in range(len(GOOD))
    ),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=range(len(FOREIGN)))
def test_a_cut_or_foreign_file_is_one_line(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    line = error_of(lod_tensors.read, tmp_path / "v")
    assert line.startswith(
        (f"{tmp_path / 'v'}: cannot be read", f"{tmp_path / 'v'}: corrupt, truncated")
    ) and re.search(message, line)
