"""Units joined to shards of bounded size: the files of a corpus, with counts and checksums."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.corpus.units import side_of_tokens
from pretrain.corpus.work import write_json
from utils.errors import UserError
from utils.files import atomic_file


class ShardTask(NamedTuple):
    """A shard to be written.

    Args:
        split: train or held_out.
        number: of the shard in its split.
        units: files of `tokenize_unit`, in reading order.
        corpus: folder of the corpus.
        stream: the stream's folder in it, such as mono/en.
        languages: of the stream.
        records: folder for the shard's record.
        vocab_size: V.
        dtype: of the ids.
    """

    split: str
    number: int
    units: Sequence[Path]
    corpus: Path
    stream: str
    languages: tuple[str, ...]
    records: Path
    vocab_size: int
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def group_units(tokens: Sequence[int], shard_tokens: int) -> Iterator[slice]:
    """Runs of consecutive units with at most `shard_tokens` each, or one unit that has more.

    Args:
        tokens: of each unit. A run without tokens is left out.
    """
    first, total = 0, 0
    for number, count in enumerate(tokens):
        if total and total + count > shard_tokens:
            yield slice(first, number)
            first, total = number, 0
        total += count
    if total:
        yield slice(first, len(tokens))


def write_shard(task: ShardTask) -> str:
    """Write a shard's files and then its record, unless that is there.

    The record: name, documents, lines, tokens, unknown; tokens and unknown by language; files with size and
    SHA-256; index, a digest of all files.
    `pieces_file` beside it counts the pieces of each language.

    Returns:
        The stream.

    Raises:
        UserError: a unit's file is damaged.
    """
    record_path = task.records / f"{task.name}.json"
    if record_path.exists():
        return task.stream
    lengths = [_read(unit, f"{task.split}.lengths") for unit in task.units]
    lines, tokens = sum(map(len, lengths)), int(sum(map(np.sum, lengths)))
    contents = {
        "ids": (task.dtype, tokens, _blocks(task, "ids")),
        "lines": ("<u4", lines + 1, _offsets(lengths)),
    }
    if len(task.languages) == 1:
        documents = sum(len(_read(unit, f"{task.split}.documents")) for unit in task.units)
        contents["documents"] = ("<u4", documents + 1, _offsets(_blocks(task, "documents")))
    else:
        documents = lines // 2
    files = {}
    for kind, (dtype, length, blocks) in contents.items():
        name = f"{task.stream}/{task.name}.{kind}.npy"
        files[name] = _write_array(task.corpus / name, np.dtype(dtype), length, blocks)
    pieces = _count_pieces(task)
    with atomic_file(pieces_file(task.records, task.name)) as file:
        np.save(file, pieces)
    unknown = sum(_read(unit, f"{task.split}.unknown") for unit in task.units)
    record = {
        "name": task.name,
        "documents": documents,
        "lines": lines,
        "tokens": tokens,
        "unknown": int(unknown.sum()),
        "by_language": {
            language: {"tokens": int(counts.sum()), "unknown": int(count)}
            for language, counts, count in zip(task.languages, pieces, unknown)
        },
        "index": hashlib.sha256("".join(file["sha256"] for file in files.values()).encode()).hexdigest(),
        "files": files,
    }
    write_json(record_path, record)
    return task.stream


def pieces_file(records: Path, name: str) -> Path:
    """The piece counts of a shard, int64 [languages, V]."""
    return records / f"{name}.pieces.npy"


def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write one .npy file; its size and SHA-256."""
    return _write_array(path, array.dtype, len(array), [array])


def _write_array(path: Path, dtype: np.dtype, length: int, blocks: Iterable[np.ndarray]) -> dict[str, Any]:
    """A one-dimensional .npy file from blocks that have `length` elements together."""
    digest = hashlib.sha256()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    with atomic_file(path) as file:
        tee = _Tee(file, digest)
        np.lib.format.write_array_header_1_0(tee, header)
        for block in blocks:
            tee.write(np.ascontiguousarray(block, dtype))
        size = file.tell()
    return {"bytes": size, "sha256": digest.hexdigest()}


class _Tee:
    def __init__(self, file, digest):
        self.file, self.digest = file, digest

    def write(self, data) -> None:
        self.file.write(data)
        self.digest.update(data)


def _count_pieces(task: ShardTask) -> np.ndarray:
    counts = np.zeros((len(task.languages), task.vocab_size), np.int64)
    for unit in task.units:
        ids = _read(unit, f"{task.split}.ids")
        sides = side_of_tokens(_read(unit, f"{task.split}.lengths").reshape(-1, len(task.languages)))
        for side, count in enumerate(counts):
            count += np.bincount(ids[sides == side], minlength=task.vocab_size)
    return counts


def _blocks(task: ShardTask, kind: str) -> Iterator[np.ndarray]:
    return (_read(unit, f"{task.split}.{kind}") for unit in task.units)


def _offsets(counts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """0, and the running sum of all counts, block by block."""
    total = 0
    yield np.zeros(1, np.int64)
    for block in counts:
        sums = total + np.cumsum(block, dtype=np.int64)
        if sums.size:
            total = int(sums[-1])
        yield sums


def _read(unit: Path, name: str) -> np.ndarray:
    try:
        with np.load(unit) as arrays:
            return arrays[name]
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, FileNotFoundError) as error:
        raise UserError(
            f"{unit}: damaged or gone ({error}); start the build afresh with --overwrite true"
        ) from error
