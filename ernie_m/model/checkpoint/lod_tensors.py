"""The official parameter directory: one LoDTensor file per variable, read and written without Paddle.

The directory is `params/`, next to `ernie_config.json`. A file contains, in little endian: uint32 0
(LoDTensor version), uint64 0 (LoD levels, which weights do not have); uint32 0 (tensor version), int32 length
of a protobuf `VarType.TensorDesc` and that many bytes (field 1 the dtype, field 2 the dims); then the data in
C order.
"""

import math
import os
import struct
from functools import cache, partial
from typing import IO, Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint.weights import (
    WeightsFile,
    check_shape,
    read_numbers,
    widen_bfloat16,
    write_data,
)

BFLOAT16 = 22
# Protobuf number of a dtype -> dtype in the file. bfloat16 is stored as its bits.
DTYPES = {
    0: np.dtype("bool"),
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<i8"),
    4: np.dtype("<f2"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    19: np.dtype("<u8"),
    20: np.dtype("u1"),
    21: np.dtype("i1"),
    BFLOAT16: np.dtype("<u2"),
}
_LONGEST_DESCRIPTION = 1 << 16  # bytes; one of 8 dims takes under 100


class LoDTensorHeader(NamedTuple):
    """The parsed header of a LoDTensor file."""

    code: int  # protobuf number of the dtype, a key of `DTYPES`
    shape: tuple[int, ...]
    offset: int  # start of the data, in bytes
    file: WeightsFile

    def read_data(self) -> np.ndarray:
        """Read the data of the variable. bfloat16 is returned as float32.

        Raises:
            UserError: the file has changed since its header was read.
        """
        with self.file.open_binary() as file:
            numbers = read_numbers(file, DTYPES[self.code], math.prod(self.shape), self.offset)
        return (widen_bfloat16(numbers) if self.code == BFLOAT16 else numbers).reshape(self.shape)


def read_header(path: str | os.PathLike) -> LoDTensorHeader:
    """Read the header of a LoDTensor file, and check that the size of the data matches the header.

    Raises:
        UserError: the file is missing, truncated, too long or not a LoDTensor file.
    """
    opened = WeightsFile(path, "a parameter file of the official format")
    with opened.open_binary() as file:
        header = LoDTensorHeader(*_parse_header(file), opened)
        data_bytes = os.fstat(file.fileno()).st_size - header.offset
        check_shape(header.shape, DTYPES[header.code])
        announced_bytes = math.prod(header.shape) * DTYPES[header.code].itemsize
        if data_bytes != announced_bytes:
            raise ValueError(f"{data_bytes} data bytes (expected {announced_bytes})")
    return header


def _parse_header(file: IO[bytes]) -> tuple[int, tuple[int, ...], int]:
    """Parse the header of a LoDTensor file.

    Returns:
        Dtype code, shape, and the offset of the data in bytes.

    Raises:
        struct.error, ValueError, OverflowError: the header is truncated or invalid.
    """

    def read_values(struct_format: str) -> tuple:
        """Read the next values of the file in a format of the `struct` module."""
        return struct.unpack(struct_format, file.read(struct.calcsize(struct_format)))

    version, levels, tensor_version, length = read_values("<IQIi")
    if version != 0 or tensor_version != 0:
        raise ValueError(f"unknown version {version} with tensors of version {tensor_version} (expected 0)")
    if levels:  # offsets of sequences
        raise ValueError(f"{levels} LoD levels (expected 0 for weights)")
    if length <= 0 or length >= _LONGEST_DESCRIPTION:
        raise ValueError(f"invalid tensor description of {length} bytes")
    (description,) = read_values(f"{length}s")
    message = _get_tensor_desc_class().FromString(description)
    message.DiscardUnknownFields()
    if message.SerializeToString() != description:
        raise ValueError("corrupt tensor description")
    if message.dtype not in DTYPES:
        raise ValueError(f"tensor description with unknown dtype {message.dtype}")
    return message.dtype, tuple(message.dims), file.tell()


@cache
def _get_tensor_desc_class() -> Any:
    """Return the class of the protobuf message `VarType.TensorDesc`."""
    from google.protobuf import descriptor_pb2, message_factory  # few commands read such files

    field = partial(descriptor_pb2.FieldDescriptorProto, type="TYPE_UINT64")
    fields = [field(name="dtype", number=1, label="LABEL_REQUIRED")]
    fields.append(field(name="dims", number=2, label="LABEL_REPEATED"))
    message = descriptor_pb2.DescriptorProto(name="TensorDesc", field=fields)
    file = descriptor_pb2.FileDescriptorProto(name="ernie_m_tensor.proto", message_type=[message])
    return message_factory.GetMessages([file])["TensorDesc"]


def read(path: str | os.PathLike) -> np.ndarray:
    """Read the array of a LoDTensor file. bfloat16 is returned as float32.

    Raises:
        UserError: the file is missing, truncated, too long or not a LoDTensor file.
    """
    return read_header(path).read_data()


def write(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array to a LoDTensor file, byte for byte like `paddle.save(..., use_binary_format=True)`."""
    data = np.asarray(array)
    data = np.asarray(data, data.dtype.newbyteorder("<"), order="C")  # little endian
    code = next(code for code, dtype in DTYPES.items() if dtype == data.dtype)
    description = _get_tensor_desc_class()(dtype=code, dims=data.shape).SerializeToString()
    with open(path, "wb") as file:
        # Both versions are 0, and there are no LoD levels.
        file.write(struct.pack("<IQIi", 0, 0, 0, len(description)))
        file.write(description)
        write_data(file, data)
