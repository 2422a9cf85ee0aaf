"""Joins units to shards of bounded size: the files of a corpus, with counts and checksums."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.corpus.passes import id_dtype, side_of_tokens
from pretrain.corpus.work import StreamWork, write_json
from utils.errors import UserError
from utils.files import atomic_file, sha256_of


def group_units(tokens: Sequence[int], shard_tokens: int) -> Iterator[slice]:
    """Runs of consecutive units that have at most `shard_tokens` together, or one unit that has more.

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


def write_shard(work: StreamWork, split: str, number: int, units: Sequence[Path]) -> int:
    """Write the files of a shard and then its record, unless the record exists.

    The record holds name, documents, lines, tokens and unknown tokens; tokens and unknown by language; files
    with size and SHA-256; index, a digest of all files. The file `pieces_file` beside it counts the pieces of
    each language.

    Args:
        work: of the stream.
        split: train or held_out.
        number: of the shard in its split.
        units: files of `tokenize_unit` in reading order.

    Returns:
        The number of the stream.

    Raises:
        UserError: the file of a unit is damaged.
    """
    name, stream = f"{split}-{number:05d}", work.stream
    record_path = work.folder("shards") / f"{name}.json"
    if record_path.exists():
        return work.number
    lengths = list(_arrays(units, f"{split}.lengths"))
    lines, tokens = sum(map(len, lengths)), int(sum(map(np.sum, lengths)))
    contents = {
        "ids": (id_dtype(work.vocab_size), tokens, _arrays(units, f"{split}.ids")),
        "lines": (np.dtype("<u4"), lines + 1, _offsets(lengths)),
    }
    documents = lines // 2
    if not stream.is_parallel:
        of_documents = list(_arrays(units, f"{split}.documents"))
        documents = sum(map(len, of_documents))
        contents["documents"] = (np.dtype("<u4"), documents + 1, _offsets(of_documents))
    files = {}
    for kind, content in contents.items():
        file = f"{stream.folder}/{name}.{kind}.npy"
        files[file] = write_array(work.output / file, *content)
    pieces = np.zeros((len(stream.languages), work.vocab_size), np.int64)
    for ids, of_unit in zip(_arrays(units, f"{split}.ids"), lengths):
        sides = side_of_tokens(of_unit.reshape(-1, len(pieces)))
        for side, count in enumerate(pieces):
            count += np.bincount(ids[sides == side], minlength=work.vocab_size)
    with atomic_file(pieces_file(work, name)) as file:
        np.save(file, pieces)
    unknown = sum(_arrays(units, f"{split}.unknown"))
    record = {
        "name": name,
        "documents": documents,
        "lines": lines,
        "tokens": tokens,
        "unknown": int(unknown.sum()),
        "by_language": {
            language: {"tokens": int(counts.sum()), "unknown": int(count)}
            for language, counts, count in zip(stream.languages, pieces, unknown)
        },
        "index": hashlib.sha256("".join(file["sha256"] for file in files.values()).encode()).hexdigest(),
        "files": files,
    }
    write_json(record_path, record)
    return work.number


def pieces_file(work: StreamWork, name: str) -> Path:
    """The file with the piece counts of a shard, int64 [languages, V]."""
    return work.folder("shards") / f"{name}.pieces.npy"


def write_array(path: Path, dtype: np.dtype, length: int, blocks: Iterable[np.ndarray]) -> dict[str, Any]:
    """Write a one-dimensional .npy file from blocks with `length` elements in all, and `describe` it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype))
    return describe(path)


def describe(path: Path) -> dict[str, Any]:
    """The size of a file in bytes and its SHA-256, for the manifest."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _arrays(units: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """An array of each unit. UserError: the file of a unit is damaged."""
    for unit in units:
        try:
            with np.load(unit) as arrays:
                yield arrays[name]
        except (zipfile.BadZipFile, EOFError, ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"{unit}: damaged or gone ({error}); start the build afresh with --overwrite true"
            ) from error


def _offsets(counts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """0, and then the running sum of all counts, block by block."""
    total = 0
    yield np.zeros(1, np.int64)
    for block in counts:
        sums = total + np.cumsum(block, dtype=np.int64)
        total += int(block.sum())
        yield sums
