"""The work of the stages: hash the lines of a unit, cut them into ids, join units to shards."""

import functools
import hashlib
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.duplicates import read_counts, write_hashes
from ernie_m.pretrain.build_corpus.held_out import shares_held_out_text, texts_of_unit
from ernie_m.pretrain.build_corpus.text_units import Lines, Unit, read_lines
from ernie_m.pretrain.build_corpus.work_folder import SCAN, TOKENS, VOCABULARY_FILES, WORK, StreamWork
from ernie_m.reader.corpus import SPLITS, check_files
from ernie_m.tokenizer.equal_texts import text_keys
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.checksums import describe, is_whole, write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, read_json, write_json

HELD_OUT_TEXT = "held-out text"
DROPPED = ("empty", "score", "duplicate", "ratio", HELD_OUT_TEXT)  # why lines are left out
_BATCH = 2048  # lines given to sentencepiece at a time

# A unit without its text, and its counts. `scan_unit` counts lines and documents. `tokenize_unit` counts the
# ids of each of SPLITS, then the dropped lines for each reason of DROPPED.
UnitResult = tuple[Unit, list[int]]


def scan_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Count the lines of a unit and write their hashes, unless that is done."""
    path = work.unit_path(SCAN, unit.source, unit.number)
    if not is_whole(path):  # a build that was killed may have written it
        text = _read(unit, work)
        documents = [text.document_hashes(side) for side in range(len(text.sides))]
        keys = [text_keys(side, tokenizer_of(work.output, work.options.text_rules)) for side in text.sides]
        write_hashes(path, len(text.documents), np.column_stack(documents), np.column_stack(keys))
    return _without_text(unit), read_counts(path)


def tokenize_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Filter the lines of a unit, split them into train and held-out, and write their ids, unless it is done.

    The file is an .npz with `counts` (see `UnitResult`) and for each split: `ids` [tokens]; `lengths` uint32,
    the tokens of each line (a pair is two lines); `documents` uint32, the lines of each document.
    """
    path = work.unit_path(TOKENS, unit.source, unit.number)
    if is_whole(path):
        (counts,) = _arrays([path], "counts")
        return _without_text(unit), counts.tolist()
    # Duplicates and held-out text are dropped before the text is cut into ids. A pair is one line here.
    text = _read(unit, work)
    number_in_stream = sum(work.units_per_source[: unit.source]) + unit.number
    scanned = work.unit_path(SCAN, unit.source, unit.number)
    is_new, is_held_out, keys = texts_of_unit(work, number_in_stream, scanned)
    is_left_out = shares_held_out_text(work, keys) & is_new & ~is_held_out & (not work.keeps_all)
    is_taken = is_new & ~is_left_out  # bool [lines]
    rows = zip(*text.sides)  # for each line the text of each side
    lines = itertools.compress(rows, is_taken)
    texts = list(itertools.chain.from_iterable(lines))  # both sides of a pair, then of the next one
    tokenizer = tokenizer_of(work.output, work.options.text_rules)
    ids, lengths = _encode(tokenizer, texts)  # [tokens], [texts]
    lengths = lengths.reshape(-1, len(text.sides))  # [taken lines, sides]

    # Lines without ids and uneven pairs are dropped after the text was cut into ids. The number of ids of the
    # shorter and of the longer side of a pair, [taken lines]; they are equal if there is one side.
    shorter = lengths.min(axis=1)
    longer = lengths.max(axis=1)
    is_empty = shorter == 0  # a line of control characters has no ids
    is_uneven = np.zeros(len(shorter), bool)
    if work.options.max_ratio:
        is_uneven = ~is_empty & (longer > work.options.max_ratio * shorter)
    is_usable = ~is_empty & ~is_uneven

    # Documents are held out as a whole.
    document_of_line = np.repeat(np.arange(len(text.documents)), text.documents)  # [lines]
    document = document_of_line[is_taken]  # [taken lines]
    is_held_out = is_held_out[is_taken]  # bool [taken lines]
    arrays: dict[str, np.ndarray] = {}
    for split, is_in_split in zip(SPLITS, (~is_held_out, is_held_out), strict=True):
        is_chosen = is_usable & is_in_split
        arrays |= _arrays_of_split(split, ids, lengths, document, is_chosen)

    dropped = {
        "empty": text.empty_count + int(is_empty.sum()),
        "score": text.not_wanted_count,  # left out when the lines were read
        "duplicate": int((~is_new).sum()),
        "ratio": int(is_uneven.sum()),
        HELD_OUT_TEXT: int(is_left_out.sum()),
    }
    counts = [len(arrays[f"{split}.ids"]) for split in SPLITS]
    counts += [dropped[reason] for reason in DROPPED]
    with atomic_file(path) as file:
        np.savez(file, counts=np.array(counts), **arrays)
    write_digest(path)
    return _without_text(unit), counts


def _arrays_of_split(
    split: str,
    ids: np.ndarray,
    lengths: np.ndarray,
    document: np.ndarray,
    is_chosen: np.ndarray,
) -> dict[str, np.ndarray]:
    """The arrays of a split in the file of a unit.

    Args:
        ids: the ids of all lines, [tokens]; for a pair, the ids of one side and then those of the other.
        lengths: the number of ids of each line, int64 [lines, sides].
        document: the number of each line's document in the unit, int64 [lines].
        is_chosen: the lines of the split, bool [lines].
    """
    is_chosen_token = np.repeat(is_chosen, lengths.sum(axis=1))
    chosen_ids = ids[is_chosen_token]
    chosen_lengths = lengths[is_chosen]
    # The chosen lines of each document; the file has no entry for a document without any.
    lines_of_documents = np.bincount(document[is_chosen])
    return {
        f"{split}.ids": chosen_ids,
        f"{split}.lengths": chosen_lengths.ravel().astype(np.uint32),
        f"{split}.documents": lines_of_documents[lines_of_documents > 0].astype(np.uint32),
    }


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def group_units(tokens: Sequence[int], shard_tokens: int) -> Iterator[slice]:
    """Divide units into shards: consecutive ones with at most `shard_tokens` together, or one that has more.

    Args:
        tokens: the number of tokens of each unit.

    Returns:
        The units of each shard. If no unit has a token, there is no shard.
    """
    first = 0
    total = 0
    for number, count in enumerate(tokens):
        if total and total + count > shard_tokens:
            yield slice(first, number)
            first = number
            total = 0
        total += count
    if total:
        yield slice(first, len(tokens))


def write_shard(work: StreamWork, split: str, number: int, units: Sequence[Path], unk_id: int) -> None:
    """Write the files of a shard and then its record, unless that is done.

    The record holds name, documents, lines, tokens and unknown tokens; tokens and unknown by language; files
    with size and SHA-256; index, a digest of all files. The file `pieces_file` beside it counts the pieces of
    each language.

    Args:
        work: the work of the stream.
        split: train or held_out.
        number: the number of the shard in its split.
        units: files of `tokenize_unit` in reading order.
        unk_id: the id of [UNK].

    Raises:
        UserError: the file of a unit is damaged.
    """
    name = f"{split}-{number:05d}"
    record_path = work.folder("shards") / f"{name}.json"
    if _is_written(work, name, record_path):
        return
    languages = work.stream.languages
    line_lengths = list(_arrays(units, f"{split}.lengths"))  # an array for each unit
    lines = sum(len(lengths) for lengths in line_lengths)
    tokens = sum(int(lengths.sum()) for lengths in line_lengths)

    # The arrays: ids, and where lines and documents begin.
    path = f"{work.stream.folder}/{name}"
    ids_file = f"{path}.ids.npy"
    lines_file = f"{path}.lines.npy"
    documents_file = f"{path}.documents.npy"
    files = {}  # name -> size and SHA-256
    ids = _arrays(units, f"{split}.ids")
    files[ids_file] = write_array(work.output / ids_file, id_dtype(work.vocab_size), tokens, ids)
    files[lines_file] = _write_offsets(work.output / lines_file, line_lengths)
    if work.stream.is_parallel:
        documents = lines // 2  # each pair is a document, of two lines
    else:
        document_lines = list(_arrays(units, f"{split}.documents"))  # an array for each unit
        documents = sum(len(counts) for counts in document_lines)
        files[documents_file] = _write_offsets(work.output / documents_file, document_lines)

    # The counts, and last the record, which says that the shard is complete.
    pieces = _count_pieces(_arrays(units, f"{split}.ids"), line_lengths, len(languages), work.vocab_size)
    with atomic_file(pieces_file(work, name)) as file:
        np.save(file, pieces)
    write_digest(pieces_file(work, name))
    unknown = pieces[:, unk_id]  # int64 [sides]
    by_language = {
        language: {"tokens": int(pieces[side].sum()), "unknown": int(unknown[side])}
        for side, language in enumerate(languages)
    }
    # One digest stands for all files of the shard.
    digests = "".join(file["sha256"] for file in files.values())
    record = {
        "name": name,
        "documents": documents,
        "lines": lines,
        "tokens": tokens,
        "unknown": int(unknown.sum()),
        "by_language": by_language,
        "index": hashlib.sha256(digests.encode()).hexdigest(),
        "files": files,
    }
    write_json(record_path, record)
    write_digest(record_path)


def _is_written(work: StreamWork, name: str, record_path: Path) -> bool:
    """Whether a shard, its record and its piece counts are as they were written."""
    if not is_whole(record_path) or not is_whole(pieces_file(work, name)):
        return False
    try:
        check_files(work.output, read_json(record_path)["files"], checksums=True)
    except UserError:
        return False
    return True


def _count_pieces(
    ids: Iterable[np.ndarray], line_lengths: Iterable[np.ndarray], sides: int, vocab_size: int
) -> np.ndarray:
    """How often each piece occurs on each side, int64 [sides, V].

    Args:
        ids: the ids of each unit, [tokens].
        line_lengths: for each unit, the number of tokens of each line; a pair is two lines.
    """
    counts = np.zeros((sides, vocab_size), np.int64)
    for unit_ids, lengths in zip(ids, line_lengths):
        side_of_lines = np.arange(len(lengths)) % sides  # 0 1 0 1 ...
        side_of_tokens = np.repeat(side_of_lines, lengths)
        for side in range(sides):
            counts[side] += np.bincount(unit_ids[side_of_tokens == side], minlength=vocab_size)
    return counts


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


def _write_offsets(path: Path, counts: Sequence[np.ndarray]) -> dict[str, Any]:
    """Write where each item (line, document) begins and the last one ends, and `describe` the file.

    Args:
        counts: the sizes of the items, in blocks.
    """

    def offsets() -> Iterator[np.ndarray]:
        """0, and then the running sums over all counts, in blocks like those of `counts`."""
        total = 0
        yield np.zeros(1, np.int64)
        for block in counts:
            sums = total + np.cumsum(block, dtype=np.int64)
            total += int(block.sum())
            yield sums

    items = sum(len(block) for block in counts)
    return write_array(path, np.dtype("<u4"), items + 1, offsets())


def _without_text(unit: Unit) -> Unit:
    """The unit as a worker returns it: its text need not travel back."""
    return unit._replace(texts=())


def _read(unit: Unit, work: StreamWork) -> Lines:
    """The lines of a unit.

    Raises:
        UserError: as `read_lines`, or the worker does not see the output folder.
    """
    if not (work.output / WORK).is_dir():
        raise UserError(f"{work.output}: a worker does not see it; all machines must share the output folder")
    source = work.stream.sources[unit.source]
    return read_lines(unit, source, work.stream.languages, work.options)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in a row, uint16 or uint32 [tokens], and the number of ids of each text, int64 [texts]."""
    dtype = id_dtype(tokenizer.vocab_size)
    parts = [np.zeros(0, dtype)]  # `concatenate` takes no empty list
    lengths = np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH])
        lengths[start : start + _BATCH] = [len(ids) for ids in batch]
        parts.append(np.fromiter(itertools.chain.from_iterable(batch), dtype))
    return np.concatenate(parts), lengths


@functools.lru_cache(maxsize=1)
def tokenizer_of(output: Path, text_rules: str) -> Tokenizer:
    """The tokenizer of a corpus. It is kept, because a worker cuts many units of one corpus."""
    model_name, vocab_name = VOCABULARY_FILES
    return Tokenizer(output / vocab_name, output / model_name, text_rules)


def _arrays(units: Sequence[Path], name: str) -> Iterator[np.ndarray]:
    """The array `name` in the file of each unit.

    Raises:
        UserError: the file of a unit is damaged.
    """
    for unit in units:
        try:
            with np.load(unit) as arrays:
                yield arrays[name]
        except (zipfile.BadZipFile, EOFError, ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{unit}: damaged or gone ({error}); the same command makes it again") from error
