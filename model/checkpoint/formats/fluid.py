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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.checkpoint.formats import tables, translation
from model.checkpoint.formats.weights import Weights, widen_bfloat16
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
_MAX_DESC = 1 << 12  # bytes; a description of 8 dims takes under 100


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
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _parse_header(file, size, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
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
    write_parts(path, np.asarray(array).dtype, np.shape(array), [array])


def write_parts(
    path: str | os.PathLike, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> None:
    """Write one variable from arrays whose data, concatenated in C order, is the variable's.

    Raises:
        TypeError: a dtype that the format does not have.
        ValueError: the parts do not add up to `shape`.
    """
    dtype = np.dtype(dtype).newbyteorder("<")
    if dtype not in _CODES:
        raise TypeError(f"{path}: the LoDTensor format has no dtype {dtype.name}")
    description = b"\x08" + _varint(_CODES[dtype]) + b"".join(b"\x10" + _varint(dim) for dim in shape)
    written = 0
    with open(path, "wb") as file:
        file.write(struct.pack("<IQIi", 0, 0, 0, len(description)) + description)
        for part in parts:
            data = np.asarray(part, dtype=dtype, order="C")
            file.write(memoryview(data.reshape(-1)).cast("B") if data.size else b"")
            written += data.size
    if written != math.prod(shape):
        raise ValueError(f"{path}: parts of {written} elements in all for a variable of shape {list(shape)}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _parse_header(file, size: int, path: Path) -> Header:
    def take(count: int) -> bytes:
        # A foreign file may announce any number, so it is compared with the size first.
        data = file.read(count) if 0 <= count <= size - file.tell() else b""
        if len(data) != count:
            raise UserError(f"{path}: cut short within its header; copy or download the file again")
        return data

    def foreign(why: str) -> UserError:
        return UserError(f"{path}: not a parameter file of the official format ({why})")

    version, levels = struct.unpack("<IQ", take(12))
    if version != 0:
        raise foreign(f"LoDTensor version {version}, only 0 is known")
    for _ in range(min(levels, size)):  # offsets of sequences, which weights do not have
        take(struct.unpack("<Q", take(8))[0])
    version, length = struct.unpack("<Ii", take(8))
    if version != 0:
        raise foreign(f"tensor version {version}, only 0 is known")
    if not 2 <= length <= _MAX_DESC:
        raise foreign(f"a tensor description of {length} bytes")
    try:
        code, shape = _parse_description(take(length))
    except ValueError as error:
        raise foreign(str(error)) from None
    return Header(code, shape, file.tell())


def _parse_description(data: bytes) -> tuple[int, tuple[int, ...]]:
    """`VarType.TensorDesc`: field 1 the dtype, field 2 the dims, one by one or packed; else ValueError."""
    code, dims, at = None, [], 0

    def varint(at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                break
            value |= (data[at] & 0x7F) << shift
            at += 1
            if data[at - 1] < 0x80:
                return value, at
        raise ValueError("a broken tensor description")

    while at < len(data):
        tag, at = varint(at)
        if tag == 0x08:
            code, at = varint(at)
        elif tag == 0x10:
            dim, at = varint(at)
            dims.append(dim)
        elif tag == 0x12:
            length, at = varint(at)
            end = at + length
            while at < end:
                dim, at = varint(at)
                dims.append(dim)
            if at != end:
                raise ValueError("a broken tensor description")
        else:
            raise ValueError(f"a tensor description with tag 0x{tag:02x}")
    if code not in DTYPES:
        raise ValueError(f"dtype {code}")
    if len(dims) > _MOST_AXES:
        raise ValueError(f"{len(dims)} dimensions")
    if any(dim >= 1 << 62 for dim in dims):  # negative int64, or absurd
        raise ValueError("a dimension below 0")
    return code, tuple(dims)


def find(path: str | os.PathLike) -> tuple[Path, Path | None] | None:
    """The parameter directory that `path` is or holds as `params/`, and its config file; None: neither.

    The config is looked for in the directory and beside it, and is None if there is none.
    """
    for folder in (Path(path), Path(path) / "params"):
        if (folder / MARK).is_file():
            configs = (folder / CONFIG, folder.resolve().parent / CONFIG)
            return folder, next((config for config in configs if config.is_file()), None)
    return None


def read_directory(folder: str | os.PathLike) -> tuple[Weights, str | None]:
    """Open a directory. Headers are read now, the data of a variable when it is accessed.

    Returns:
        The weights under their official names, whose `others` are the names of all other files; the task
        whose head is there, or None.

    Raises:
        UserError: a file is cut short, over-long or foreign; there are heads of several tasks.
    """
    folder = Path(folder)
    files = {file.name for file in folder.iterdir() if file.is_file()}
    heads = translation.heads_of(tables.OFFICIAL, files)
    if len(heads) > 1:
        held = ", ".join(_head_name(head) for head in heads)
        raise UserError(
            f"{folder}: heads of {len(heads)} tasks ({held}); move the files of all but one elsewhere"
        )
    head = heads[0] if heads else None
    table = _rows(tables.count_layers(files), head)
    headers = {row.theirs: read_header(folder / row.theirs) for row in table if row.theirs in files}
    shapes = {name: header.shape for name, header in headers.items()}
    others = sorted(files - headers.keys() - {CONFIG})
    return Weights(folder, shapes, lambda name: read(folder / name, headers[name]), others=others), head


def write_fluid(
    folder: str | os.PathLike,
    weights: Mapping[str, np.ndarray],
    config: dict | None = None,
    head: str = CLASSIFICATION,
) -> list[str]:
    """Write `folder/params/` (float32) and, with a config, `folder/ernie_config.json`.

    Args:
        folder: created if needed; a `params/` in it is replaced as a whole.
        weights: canonical name -> array.
        config: the keys of our config; those that the official code reads are written.
        head: the task whose name `classifier.*` gets, of `model.task_names`.

    Returns:
        The names that the official format has no place for; they are not written.

    Raises:
        UserError: a feed-forward size other than 4 x hidden_size, which the official code cannot express; a
            full disk.
    """
    folder = Path(folder)
    if config and config.get("intermediate_size") not in (None, 4 * config["hidden_size"]):
        raise UserError(
            f"{folder}: intermediate_size {config['intermediate_size']} cannot be written in the official "
            f"format, which always uses 4 x hidden_size = {4 * config['hidden_size']}"
        )
    official = {row.ours: row.theirs for row in _rows(tables.count_layers(weights), task_named(head))}
    with atomic_dir(folder / "params") as params:
        for name in weights:
            if name in official:
                write(params / official[name], np.asarray(weights[name], dtype=np.float32))
    if config:
        write_config(folder / CONFIG, config)
    return [name for name in weights if name not in official]


def write_config(path: str | os.PathLike, config: dict) -> None:
    """Write those keys of a config that the official code reads, as JSON."""
    with atomic_file(path, "w") as file:
        json.dump({key: config[key] for key in CONFIG_KEYS if key in config}, file, indent=2)
        file.write("\n")


def _rows(num_layers: int, head: str | None) -> list[tables.Row]:
    always = tables.head_rows(tables.OFFICIAL, tables.ALWAYS[tables.OFFICIAL])
    return tables.rows_of(tables.OFFICIAL, num_layers, head) + always


def _head_name(head: str) -> str:
    return tables.head_rows(tables.OFFICIAL, tables.CLASSES[tables.OFFICIAL][head].head)[0].theirs
