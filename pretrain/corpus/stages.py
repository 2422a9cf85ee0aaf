"""The work of the stages: hash the lines of a unit, cut them into ids, join units to shards."""

import functools
import hashlib
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.corpus.duplicates import is_duplicate, read_counts, write_keys
from pretrain.corpus.text import Lines, Unit, read_lines
from pretrain.corpus.work import SCAN, TOKENS, VOCABULARY_FILES, WORK, StreamWork
from reader.corpus import SPLITS
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.files import atomic_file, sha256_of, write_json

DROPPED = ("empty", "score", "duplicate", "ratio")
_BATCH = 2048  # lines given to sentencepiece at a time

# A unit without its text, and its counts. First pass: lines, documents. Second pass: ids of each split,
# dropped lines for each reason.
UnitResult = tuple[Unit, list[int]]


def scan_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Count the lines of a unit and write their keys, unless that is done."""
    path = work.unit_path(SCAN, unit.source, unit.number)
    if not path.exists():
        text = _read(unit, work)
        keys = text.hashes() if work.options.deduplicate else np.zeros(0, np.uint64)
        write_keys(path, len(text.sides[0]), len(text.documents), keys)
    return unit._replace(texts=()), read_counts(path)


def tokenize_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Filter the lines of a unit, split them into train and held-out, and write their ids, unless it is done.

    The file is an .npz with `counts` (see `UnitResult`) and for each split: `ids` [tokens]; `lengths` uint32,
    the tokens of each line (a pair is two lines); `documents` uint32, the lines of each document; `unknown`
    int64 [sides], the number of unknown ids.
    """
    path = work.unit_path(TOKENS, unit.source, unit.number)
    if path.exists():
        (counts,) = _arrays([path], "counts")
        return unit._replace(texts=()), counts.tolist()
    text = _read(unit, work)
    sides = len(text.sides)
    document = np.repeat(np.arange(len(text.documents)), text.documents)  # of each line
    held_out = text.document_hashes(work.held_out_side)[document] < np.uint64(work.held_out_below)
    fresh = ~is_duplicate(work, sum(work.units[: unit.source]) + unit.number, len(document))

    tokenizer = _tokenizer(*(str(work.output / name) for name in VOCABULARY_FILES))
    rows = itertools.compress(zip(*text.sides), fresh)
    ids, lengths = _encode(tokenizer, list(itertools.chain.from_iterable(rows)))
    document, held_out, lengths = document[fresh], held_out[fresh], lengths.reshape(-1, sides)
    shorter, longer = lengths.min(axis=1, initial=1 << 62), lengths.max(axis=1, initial=0)
    empty, most = shorter == 0, work.options.max_ratio  # a line of control characters has no ids
    uneven = ~empty & (longer > most * shorter) & (most > 0)
    kept = ~empty & ~uneven
    dropped = {"empty": text.empty + int(empty.sum()), "score": text.score}
    dropped |= {"duplicate": int((~fresh).sum()), "ratio": int(uneven.sum())}

    arrays: dict[str, Any] = {}
    for split, chosen in zip(SPLITS, (kept & ~held_out, kept & held_out)):
        chosen_ids, chosen_lengths = ids[np.repeat(chosen, lengths.sum(axis=1))], lengths[chosen]
        is_unknown = chosen_ids == tokenizer.unk_id
        lines_of_documents = np.bincount(document[chosen])
        arrays[f"{split}.ids"] = chosen_ids
        arrays[f"{split}.lengths"] = chosen_lengths.ravel().astype(np.uint32)
        arrays[f"{split}.documents"] = lines_of_documents[lines_of_documents > 0].astype(np.uint32)
        arrays[f"{split}.unknown"] = np.bincount(_side_of_tokens(chosen_lengths)[is_unknown], minlength=sides)
    counts = [len(arrays[f"{split}.ids"]) for split in SPLITS] + [dropped[reason] for reason in DROPPED]
    with atomic_file(path) as file:
        np.savez(file, counts=np.array(counts), **arrays)
    return unit._replace(texts=()), counts


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


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
        sides = _side_of_tokens(of_unit.reshape(-1, len(pieces)))
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


def _read(unit: Unit, work: StreamWork) -> Lines:
    if not (work.output / WORK).is_dir():
        raise UserError(f"{work.output}: a worker does not see it; all machines must share the output folder")
    stream = work.stream
    return read_lines(unit, stream.sources[unit.source], stream.languages, work.options.text_format)


def _side_of_tokens(lengths: np.ndarray) -> np.ndarray:
    """The side of each token, int64 [tokens], given the number of tokens of each side [lines, sides]."""
    return np.repeat(np.tile(np.arange(lengths.shape[1]), len(lengths)), lengths.ravel())


def _encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in a row, uint16 or uint32 [tokens], and the number of ids of each text, int64 [texts]."""
    dtype = id_dtype(tokenizer.vocab_size)
    parts, lengths = [np.zeros(0, dtype)], np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH])
        lengths[start : start + _BATCH] = [len(ids) for ids in batch]
        parts.append(np.fromiter(itertools.chain.from_iterable(batch), dtype))
    return np.concatenate(parts), lengths


@functools.lru_cache(maxsize=1)
def _tokenizer(piece_model_path: str, vocab_path: str) -> Tokenizer:
    return Tokenizer(vocab_path, piece_model_path)


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
