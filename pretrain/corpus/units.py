"""The two passes over the text, one unit at a time: hash its lines; cut them into ids."""

import functools
import itertools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.corpus.duplicates import Bands, Duplicates, band_keys, read_counts, rows_to_drop, write_scan
from pretrain.corpus.files import Unit
from pretrain.corpus.inputs import Source
from pretrain.corpus.lines import Lines, Reading, documents_of, keys, line_hashes, read_lines
from reader.corpus import SPLITS
from reader.tokenization import Tokenizer
from utils.files import atomic_file

_BATCH = 2048  # lines given to sentencepiece at a time
DROPPED = ("empty", "bad_utf8", "score", "duplicate", "near_duplicate", "length", "ratio")


class UnitTask(NamedTuple):
    """A unit with what it belongs to.

    Args:
        unit: the text.
        source: where it is from.
        languages: of its stream.
        reading: how its lines are read.
        path: where the result goes.
    """

    unit: Unit
    source: Source
    languages: tuple[str, ...]
    reading: Reading
    path: Path


class Rules(NamedTuple):
    """What is done to every line of a build.

    Args:
        vocab_path, piece_model_path: of the tokenizer.
        min_tokens, max_tokens: of a line, or of each side of a pair; 0: no limit.
        max_ratio: tokens of a pair's longer side to those of the shorter; 0: no limit.
    """

    vocab_path: str | None
    piece_model_path: str
    min_tokens: int
    max_tokens: int
    max_ratio: float


class TokenizeTask(NamedTuple):
    """A unit to be cut into ids.

    Args:
        unit: the text and what it belongs to.
        rules: of the build.
        duplicates: equal lines of the stream; None: lines may repeat.
        near_duplicates: documents of the stream that nearly equal an earlier one; None: they stay.
        ordinal: number of the unit in its stream.
        held_out_below: a document or pair with a smaller hash is held out.
        held_out_side: the side of a pair that decides.
    """

    unit: UnitTask
    rules: Rules
    duplicates: Duplicates | None
    near_duplicates: Duplicates | None
    ordinal: int
    held_out_below: int
    held_out_side: int


class ScanTask(NamedTuple):
    """A unit to be counted.

    Args:
        unit: the text and what it belongs to.
        hashes: write the hashes of its lines too.
        near: where the keys of its documents go; None: near-duplicates stay.
        bands: how their signatures are cut.
    """

    unit: UnitTask
    hashes: bool
    near: Path | None
    bands: Bands | None


class Scanned(NamedTuple):
    """What a unit holds."""

    key: tuple[int, int, int]
    last: bool
    lines: int
    documents: int


class Tokenized(NamedTuple):
    """What was written of a unit: `tokens`, ids of each split; `dropped`, lines left out, by DROPPED."""

    key: tuple[int, int, int]
    tokens: tuple[int, ...]
    dropped: tuple[int, ...]


def scan_unit(task: ScanTask) -> Scanned:
    """Count a unit's lines, hash them and its documents if asked, write its files, unless they are there."""
    unit = task.unit.unit
    found = read_counts(task.unit.path)
    if found is not None:
        return Scanned(unit.key, unit.last, *found)
    text = read_lines(unit, task.unit.source, task.unit.languages, task.unit.reading)
    lines, documents = len(text.sides[0]), len(text.documents)
    if task.near is not None and task.bands is not None:  # before the file that says that all is written
        write_scan(task.near, lines, documents, band_keys(documents_of(text, keys(text)), task.bands))
    write_scan(task.unit.path, lines, documents, [line_hashes(keys(text))] if task.hashes else [])
    return Scanned(unit.key, unit.last, lines, documents)


def tokenize_unit(task: TokenizeTask) -> Tokenized:
    """Cut a unit's lines into ids, filter and divide them, write its file, unless that is there.

    The file has `dropped` int64 [DROPPED], `tokens` int64 [splits], and per split: `ids` [tokens]; `lengths`
    uint32, the tokens of each line (a pair is two lines, side after side); `documents` uint32, the lines of
    each; `unknown` int64 [sides], unknown ids.
    """
    unit = task.unit.unit
    found = written(task.unit.path, unit.key)
    if found is not None:
        return found
    text = read_lines(unit, task.unit.source, task.unit.languages, task.unit.reading)
    sides = len(text.sides)
    document = np.repeat(np.arange(len(text.documents)), text.documents)  # of each line
    held_out = _is_held_out(text, task)[document]
    repeated, near = np.zeros(len(document), bool), np.zeros(len(text.documents), bool)
    if task.duplicates is not None:
        repeated[rows_to_drop(task.duplicates, task.ordinal)] = True
    if task.near_duplicates is not None:
        near[rows_to_drop(task.near_duplicates, task.ordinal)] = True
    fresh = ~repeated & ~near[document]

    tokenizer = _tokenizer(task.rules.vocab_path, task.rules.piece_model_path)
    rows = itertools.compress(zip(*text.sides), fresh)
    ids, lengths = _encode(tokenizer, list(itertools.chain.from_iterable(rows)))
    document, held_out, lengths = document[fresh], held_out[fresh], lengths.reshape(-1, sides)
    kept, dropped = _filter(lengths, task.rules)
    dropped |= {"bad_utf8": text.bad_utf8, "score": text.score, "duplicate": int(repeated.sum())}
    dropped["near_duplicate"] = int((~fresh & ~repeated).sum())
    dropped["empty"] += text.empty

    arrays: dict[str, Any] = {}
    for split, chosen in zip(SPLITS, (kept & ~held_out, kept & held_out)):
        chosen_ids = ids[np.repeat(chosen, lengths.sum(axis=1))]
        chosen_lengths = lengths[chosen]
        is_unknown = chosen_ids == tokenizer.unk_id
        counts = np.bincount(document[chosen])
        arrays[f"{split}.ids"] = chosen_ids
        arrays[f"{split}.lengths"] = chosen_lengths.ravel().astype(np.uint32)
        arrays[f"{split}.documents"] = counts[counts > 0].astype(np.uint32)
        arrays[f"{split}.unknown"] = np.bincount(side_of_tokens(chosen_lengths)[is_unknown], minlength=sides)
    arrays["tokens"] = np.array([len(arrays[f"{split}.ids"]) for split in SPLITS])
    arrays["dropped"] = np.array([dropped[reason] for reason in DROPPED])
    with atomic_file(task.unit.path) as file:
        np.savez(file, **arrays)
    return Tokenized(unit.key, tuple(arrays["tokens"].tolist()), tuple(arrays["dropped"].tolist()))


def side_of_tokens(lengths: np.ndarray) -> np.ndarray:
    """The side of each token, int64 [tokens], given the tokens of each line's sides [lines, sides]."""
    return np.repeat(np.tile(np.arange(lengths.shape[1]), len(lengths)), lengths.ravel())


def written(path: Path, key: tuple[int, int, int]) -> Tokenized | None:
    """What `tokenize_unit` wrote; None if its file is not there, or not whole."""
    try:
        with np.load(path) as arrays:
            return Tokenized(key, tuple(arrays["tokens"].tolist()), tuple(arrays["dropped"].tolist()))
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError, KeyError):
        return None


def _filter(lengths: np.ndarray, rules: Rules) -> tuple[np.ndarray, dict[str, int]]:
    """Which lines stay, and how many went for which reason; the first that applies counts."""
    shorter, longer = lengths.min(axis=1, initial=1 << 62), lengths.max(axis=1, initial=0)
    faults = {
        "empty": shorter == 0,  # a line of control characters has no ids
        "length": (shorter < rules.min_tokens) | ((longer > rules.max_tokens) & (rules.max_tokens > 0)),
        "ratio": (longer > rules.max_ratio * shorter) & (rules.max_ratio > 0),
    }
    kept = np.ones(len(lengths), bool)
    dropped = {}
    for reason, fault in faults.items():
        dropped[reason] = int((kept & fault).sum())
        kept &= ~fault
    return kept, dropped


def _is_held_out(lines: Lines, task: TokenizeTask) -> np.ndarray:
    """Whether each document is held out, bool [documents]. Its text alone decides: equal ones go together."""
    if task.held_out_below == 0:
        return np.zeros(len(lines.documents), bool)
    texts = documents_of(lines, lines.sides[task.held_out_side])
    return line_hashes(texts) < np.uint64(task.held_out_below)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in a row, and how many each text has: uint16 or uint32 [tokens], int64 [texts]."""
    dtype = id_dtype(tokenizer.vocab_size)
    parts, lengths = [np.zeros(0, dtype)], np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH])
        lengths[start : start + _BATCH] = [len(ids) for ids in batch]
        parts.append(np.fromiter(itertools.chain.from_iterable(batch), dtype))
    return np.concatenate(parts), lengths


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@functools.lru_cache(maxsize=1)
def _tokenizer(vocab_path: str | None, piece_model_path: str) -> Tokenizer:
    return Tokenizer(vocab_path, piece_model_path)
