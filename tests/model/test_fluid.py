"""The official file format: its bytes, by hand and against Paddle's own, and every kind of damage."""

import struct

import numpy as np
import paddle
import pytest

from model.checkpoint.formats import fluid
from utils.errors import UserError

DATA = np.arange(6, dtype="<f4").reshape(3, 2) / 7


def file_bytes(description, data, lod=(), lod_version=0, tensor_version=0, length=None):
    """A LoDTensor file put together by hand."""
    levels = b"".join(
        struct.pack("<Q", len(level) * 8) + struct.pack(f"<{len(level)}Q", *level) for level in lod
    )
    length = len(description) if length is None else length
    head = struct.pack("<IQ", lod_version, len(lod)) + levels + struct.pack("<Ii", tensor_version, length)
    return head + description + data


FLOAT_3_2 = bytes.fromhex("08051003 1002")
GOOD = file_bytes(FLOAT_3_2, DATA.tobytes())


def test_writes_the_documented_bytes(tmp_path):
    array = np.arange(2100, dtype=np.float32).reshape(300, 7)
    fluid.write(tmp_path / "v", array)
    written = (tmp_path / "v").read_bytes()
    assert written[:27].hex() == "00000000" + "00" * 8 + "00000000" + "07000000" + "0805" + "10ac02" + "1007"
    assert written[27:] == array.tobytes()


@pytest.mark.parametrize(
    "dtype", ["bool", "int16", "int32", "int64", "float16", "float32", "float64", "uint8", "int8"]
)
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (300, 7), (2, 1, 130)])
def test_same_bytes_as_paddle(tmp_path, dtype, shape):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    paddle.save(paddle.to_tensor(array), str(tmp_path / "theirs"), use_binary_format=True)
    fluid.write(tmp_path / "ours", array)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = fluid.read(tmp_path / "theirs")
    assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array)
    assert np.array_equal(paddle.load(str(tmp_path / "ours")).numpy(), array)


def test_a_strided_or_big_endian_array_is_written_in_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    fluid.write(tmp_path / "strided", array.T)
    fluid.write(tmp_path / "big", array.astype(">f4"))
    assert np.array_equal(fluid.read(tmp_path / "strided"), array.T)
    assert np.array_equal(fluid.read(tmp_path / "big"), array)


def test_bfloat16_is_read_as_float32(tmp_path):
    values = paddle.to_tensor([1.0, -2.5, 3.0e38, 1e-40, float("inf")], dtype="bfloat16")
    paddle.save(values, str(tmp_path / "v"), use_binary_format=True)
    read = fluid.read(tmp_path / "v")
    assert read.dtype == np.float32 and np.array_equal(read, values.astype("float32").numpy())


def test_size_t_is_read_as_uint64(tmp_path):
    (tmp_path / "v").write_bytes(file_bytes(bytes.fromhex("08131001"), struct.pack("<Q", 2**63 + 1)))
    assert fluid.read(tmp_path / "v").tolist() == [2**63 + 1]


def test_reads_packed_dims(tmp_path):
    (tmp_path / "v").write_bytes(file_bytes(bytes.fromhex("0805 12 02 03 02"), DATA.tobytes()))
    assert np.array_equal(fluid.read(tmp_path / "v"), DATA)
    two_byte_dims = np.arange(300, dtype="<f4").reshape(300, 1)
    (tmp_path / "w").write_bytes(file_bytes(bytes.fromhex("0805 12 03 ac02 01"), two_byte_dims.tobytes()))
    assert np.array_equal(fluid.read(tmp_path / "w"), two_byte_dims)


def test_reads_lod_levels(tmp_path):
    (tmp_path / "v").write_bytes(file_bytes(FLOAT_3_2, DATA.tobytes(), lod=[(0, 1, 3), (0, 2, 2, 3)]))
    assert np.array_equal(fluid.read(tmp_path / "v"), DATA)


def test_parts_are_the_whole(tmp_path):
    fluid.write_parts(tmp_path / "parts", np.float32, (3, 2), [DATA[:1], DATA[1:2], DATA[2:]])
    assert (tmp_path / "parts").read_bytes() == GOOD
    with pytest.raises(ValueError, match="4 elements"):
        fluid.write_parts(tmp_path / "short", np.float32, (3, 2), [DATA[:2]])
    with pytest.raises(TypeError, match="complex64"):
        fluid.write(tmp_path / "complex", np.zeros(2, np.complex64))


@pytest.mark.parametrize("kept", range(len(GOOD)))
def test_cut_anywhere_is_said(tmp_path, kept):
    (tmp_path / "v").write_bytes(GOOD[:kept])
    with pytest.raises(UserError, match=f"{tmp_path / 'v'}: cut short"):
        fluid.read(tmp_path / "v")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b"x", "1 bytes more than its header announces"),
        (file_bytes(FLOAT_3_2, DATA.tobytes(), lod_version=1), "LoDTensor version 1"),
        (file_bytes(FLOAT_3_2, DATA.tobytes(), tensor_version=7), "tensor version 7"),
        (file_bytes(FLOAT_3_2, DATA.tobytes(), length=-1), "a tensor description of -1 bytes"),
        (file_bytes(FLOAT_3_2, DATA.tobytes(), length=5000), "a tensor description of 5000 bytes"),
        (file_bytes(bytes.fromhex("08071003"), DATA.tobytes()), "dtype 7"),
        (file_bytes(bytes.fromhex("10031002"), DATA.tobytes()), "dtype None"),
        (file_bytes(bytes.fromhex("08051a03"), DATA.tobytes()), "tag 0x1a"),
        (file_bytes(bytes.fromhex("080510ff"), DATA.tobytes()), "a broken tensor description"),
        (
            file_bytes(bytes.fromhex("0805") + b"\x10" + b"\xff" * 9 + b"\x01", DATA.tobytes()),
            "a dimension below 0",
        ),
        (file_bytes(b"\x08\x05" + b"\x10\x01" * 400, DATA[:1, :1].tobytes()), "400 dimensions"),
        (file_bytes(bytes.fromhex("0805 12 03 ac02"), DATA.tobytes()), "a broken tensor description"),
        (
            struct.pack("<IQ", 0, 2**63) + b"\x00" * 30,
            "a tensor description of 0 bytes|cut short within its header",
        ),
        (struct.pack("<IQQ", 0, 1, 2**60) + b"\x00" * 30, "cut short within its header"),
        (b"\x80\x04\x95pickled", "cut short within its header|not a parameter file"),
        (b"word\tid\n" * 20, "not a parameter file of the official format .LoDTensor version"),
    ],
)
def test_a_foreign_file_is_one_line(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        fluid.read(tmp_path / "v")
    assert str(error.value).startswith(f"{tmp_path / 'v'}: ") and "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path / 'absent'}: cannot be read"):
        fluid.read_header(tmp_path / "absent")
