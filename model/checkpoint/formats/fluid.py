"""The official parameter directory: one LoDTensor file per variable, read and written without Paddle.

The directory is `params/`, beside `ernie_config.json`. A file contains, in little endian: uint32 0 (LoDTensor
version), uint64 number of lod levels, each level as uint64 size and that many bytes; uint32 0 (tensor
version), int32 length of a protobuf `VarType.TensorDesc` and that many bytes (field 1 the dtype, field 2 the
dims); then the data in C order. Source: Paddle's framework/lod_tensor.cc and tensor_util.cc.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoint.formats import configs, tables, translation
from model.checkpoint.formats.weights import Weights, widen_bfloat16
from model.config import ErnieMConfig
from model.task_names import CLASSIFICATION, task_named
from utils.errors import UserError
from utils.files import atomic_dir, atomic_file

BFLOAT16 = 22
DTYPES = {
    code: np.dtype(name) for code, name in enumerate(("bool", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"))
} | {19: np.dtype("<u8"), 20: np.dtype("u1"), 21: np.dtype("i1"), BFLOAT16: np.dtype("<u2")}
CONFIG = "ernie_config.json"
CONFIG_KEYS = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size",
)  # fmt: skip
MARK = "word_embedding"  # the one variable that every official directory has
_CODES = {dtype: code for code, dtype in DTYPES.items() if code not in (19, BFLOAT16)}
_MOST_AXES = 8
_MOST_HEADER = 1 << 16  # bytes; without lod levels a header of 8 dims takes under 100


class Header(NamedTuple):
    """The header of a file. `offset`: where the data begins, in bytes."""

    code: int
    shape: tuple[int, ...]
    offset: int


def read_header(path: str | os.PathLike) -> Header:
    """Read the header of one variable and check that the file holds exactly the data it announces.

    Raises:
        UserError: no such file, or it is cut short, over-long or not a LoDTensor file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_MOST_HEADER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = _parse_header(start)
    except struct.error as error:
        raise UserError(f"{path}: cut short within its header; copy or download the file again") from error
    except ValueError as error:
        raise UserError(f"{path}: not a parameter file of the official format ({error})") from error
    needed = math.prod(header.shape) * DTYPES[header.code].itemsize
    held = size - header.offset
    if held < needed:
        raise UserError(f"{path}: cut short: {held} of {needed} data bytes; copy or download the file again")
    if held > needed:
        raise UserError(
            f"{path}: {held - needed} bytes more than its header announces; "
            "not one variable in one file, copy or download it again"
        )
    return header


def _parse_header(data: bytes) -> Header:
    """struct.error: the header ends too early. ValueError: it is of another kind."""
    version, levels = struct.unpack_from("<IQ", data)
    if version != 0:
        raise ValueError(f"LoDTensor version {version}, only 0 is known")
    at = 12
    for _ in range(min(levels, len(data))):  # offsets of sequences, which weights do not have
        at += 8 + struct.unpack_from("<Q", data, min(at, len(data)))[0]
    version, length = struct.unpack_from("<Ii", data, min(at, len(data)))
    if version != 0:
        raise ValueError(f"tensor version {version}, only 0 is known")
    if length < 2:
        raise ValueError(f"a tensor description of {length} bytes")
    (description,) = struct.unpack_from(f"{length}s", data, at + 8)
    code, dims = _parse_description(_varints(description))
    if code not in DTYPES:
        raise ValueError(f"dtype {code}")
    if len(dims) > _MOST_AXES:
        raise ValueError(f"{len(dims)} dimensions")
    if any(dim >= 1 << 62 for dim in dims):  # negative int64, or absurd
        raise ValueError("a dimension below 0")
    return Header(code, tuple(dims), at + 8 + length)


def _parse_description(numbers: list[int]) -> tuple[int | None, list[int]]:
    """The dtype and the dims. A field is a tag and a number; packed dims are a tag, their bytes, the dims."""
    code, dims = None, []
    fields = iter(numbers)
    for tag, number in zip(fields, fields):
        if tag == 0x12:
            dims += fields
            if sum(len(_varint(dim)) for dim in dims) != number:
                raise ValueError("a broken tensor description")
        elif tag == 0x10:
            dims.append(number)
        elif tag == 0x08:
            code = number
        else:
            raise ValueError(f"a tensor description with tag 0x{tag:02x}")
    return code, dims


def _varints(data: bytes) -> list[int]:
    """Protobuf's numbers of seven bits a byte, the lowest first."""
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    if shift or len(numbers) < 2 or (len(numbers) % 2 and 0x12 not in numbers):
        raise ValueError("a broken tensor description")
    return numbers


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read(path: str | os.PathLike, header: Header | None = None) -> np.ndarray:
    """Read one variable. bfloat16 is returned as float32, every other dtype as it is stored.

    Args:
        path: the file.
        header: the result of `read_header`, if it has been read already.

    Raises:
        UserError: as `read_header`.
    """
    header = header or read_header(path)
    count = math.prod(header.shape)
    array = np.fromfile(path, dtype=DTYPES[header.code], count=count, offset=header.offset)
    if array.size != count:
        raise UserError(f"{path}: changed while it was read; copy or download the file again")
    if header.code == BFLOAT16:
        array = widen_bfloat16(array)
    return array.reshape(header.shape)


def write(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one variable, byte for byte what `paddle.save(tensor, path, use_binary_format=True)` writes.

    Raises:
        TypeError: a dtype that the format does not have.
    """
    data = np.asarray(array)
    data = np.asarray(data, data.dtype.newbyteorder("<"), order="C")
    if data.dtype not in _CODES:
        raise TypeError(f"{path}: the LoDTensor format has no dtype {data.dtype.name}")
    dims = b"".join(b"\x10" + _varint(dim) for dim in data.shape)
    description = b"\x08" + _varint(_CODES[data.dtype]) + dims
    with open(path, "wb") as file:
        file.write(struct.pack("<IQIi", 0, 0, 0, len(description)) + description)
        file.write(memoryview(data.reshape(-1)).cast("B") if data.size else b"")


def find(path: str | os.PathLike) -> tuple[Path, Path | None] | None:
    """The parameter directory that `path` is or holds as `params/`, and its config file; None: neither.

    The config is looked for in the directory and beside it, and is None if there is none.
    """
    for folder in (Path(path), Path(path) / "params"):
        if (folder / MARK).is_file():
            places = (folder / CONFIG, folder.resolve().parent / CONFIG)
            return folder, next((config for config in places if config.is_file()), None)
    return None


def read_directory(folder: Path) -> Weights:
    """Open a directory. Headers are read now, the data of a variable when it is accessed.

    Returns:
        The weights under their official names; `others` are the names of all other files.

    Raises:
        UserError: a file is cut short, over-long or foreign.
    """
    files = {file.name for file in folder.iterdir() if file.is_file()}
    known = tables.names_of(tables.OFFICIAL, tables.count_layers(files))
    headers = {name: read_header(folder / name) for name in known if name in files}
    shapes = {name: header.shape for name, header in headers.items()}
    others = sorted(files - headers.keys() - {CONFIG})
    return Weights(folder, shapes, lambda name: read(folder / name, headers[name]), others=others)


def write_fluid(
    folder: str | os.PathLike, weights: Mapping[str, np.ndarray], config: dict | None = None,
    head: str = CLASSIFICATION,
) -> list[str]:  # fmt: skip
    """Write `folder/params/` (float32) and, with a config, `folder/ernie_config.json`.

    Args:
        folder: created if needed; a `params/` in it is replaced as a whole.
        weights: canonical name -> array.
        config: the keys of our config; those that the official code reads are written.
        head: the task whose name `classifier.*` gets, of `model.task_names`.

    Returns:
        The names that the official format has no place for; they are not written.

    Raises:
        UserError: a size that the official code cannot express; a full disk.
    """
    folder = Path(folder)
    if config:
        configs.check_fixed_sizes(ErnieMConfig.from_dict(config), "the official format")
    found = translation.to_theirs(tables.OFFICIAL, Weights.of(weights), task_named(head))
    with atomic_dir(folder / "params") as params:
        for name in found.weights:
            write(params / name, np.asarray(found.weights[name], np.float32))
    if config:
        write_config(folder / CONFIG, config)
    return found.left_out


def write_config(path: str | os.PathLike, config: dict) -> None:
    """Write those keys of a config that the official code reads, as JSON."""
    with atomic_file(path, "w") as file:
        json.dump({key: config[key] for key in CONFIG_KEYS if key in config}, file, indent=2)
        file.write("\n")
