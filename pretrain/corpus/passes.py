"""The two passes over the text, one unit at a time: hash its lines, then cut them into ids."""

import functools
import itertools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.corpus.duplicates import KeySets, duplicate_rows, read_counts, write_keys
from pretrain.corpus.inputs import Stream
from pretrain.corpus.lines import Lines, line_hashes, read_lines
from pretrain.corpus.near_duplicates import band_keys, bands_for
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.units import Unit
from pretrain.corpus.work import VOCABULARY_FILES, WorkFolder, unit_path
from reader.corpus import SPLITS
from reader.tokenization import Tokenizer
from utils.files import atomic_file

SCAN, TOKENS = "scan", "tokens"  # the stages and their folders
DROPPED = ("empty", "bad_utf8", "score", "duplicate", "near_duplicate", "length", "ratio")
_BATCH = 2048  # lines given to sentencepiece at a time


class StreamScan(NamedTuple):
    """What the first pass found in a stream.

    Args:
        units: number of units of each source.
        lines: the hashes of the lines; None if equal lines stay.
        documents: the keys of the documents; None if near-duplicates stay.
        held_out_below: a document or pair with a smaller hash is held out.
        held_out_side: the side of a pair that is hashed for it.
    """

    units: list[int]
    lines: KeySets | None
    documents: KeySets | None
    held_out_below: int
    held_out_side: int


class UnitTask(NamedTuple):
    """A unit with all that its work needs.

    Args:
        unit: the text.
        stream: the stream of the unit.
        work: for the result.
        options: of the build.
        scan: of the stream; None during the first pass.
    """

    unit: Unit
    stream: Stream
    work: WorkFolder
    options: BuildOptions
    scan: StreamScan | None = None

    def path(self, stage: str) -> Path:
        """The file of the unit's result."""
        return unit_path(self.work.of(self.stream, stage), self.unit.source, self.unit.number)

    def read(self) -> Lines:
        """The lines of the unit."""
        source = self.stream.sources[self.unit.source]
        return read_lines(self.unit, source, self.stream.languages, self.options.text_format)


# Key of a unit and its counts. First pass: lines, documents. Second pass: ids of each split, dropped lines.
UnitResult = tuple[tuple[int, int, int], list[int]]


def scan_unit(task: UnitTask) -> UnitResult:
    """Count the lines of a unit and write the keys of its lines and documents, unless that is done."""
    path, options = task.path(SCAN), task.options
    counts = read_counts(path)
    if counts is None:
        text = task.read()
        keys = text.keys()
        key_sets = [line_hashes(keys)] if options.deduplicate else []
        if options.near_duplicates:
            key_sets += band_keys(text.join_documents(keys), bands_for(options.near_duplicates))
        counts = len(keys), len(text.documents)
        write_keys(path, *counts, key_sets)
    return task.unit.key, list(counts)


def tokenize_unit(task: UnitTask) -> UnitResult:
    """Filter the lines of a unit, split them into train and held-out, and write their ids, unless it is done.

    The file is an .npz with `counts` (see `UnitResult`) and for each split: `ids` [tokens]; `lengths` uint32,
    the tokens of each line (a pair is two lines); `documents` uint32, the lines of each document; `unknown`
    int64 [sides], the number of unknown ids.
    """
    path, scan = task.path(TOKENS), task.scan
    found = read_token_counts(path)
    if found is not None:
        return task.unit.key, found
    text = task.read()
    sides = len(text.sides)
    document = np.repeat(np.arange(len(text.documents)), text.documents)  # of each line
    held_out = _is_held_out(text, scan)[document]
    ordinal = sum(scan.units[: task.unit.source]) + task.unit.number
    repeated, near = np.zeros(len(document), bool), np.zeros(len(text.documents), bool)
    if scan.lines is not None:
        repeated[duplicate_rows(scan.lines, ordinal)] = True
    if scan.documents is not None:
        near[duplicate_rows(scan.documents, ordinal)] = True
    fresh = ~repeated & ~near[document]

    tokenizer = _tokenizer(*(str(task.work.output / name) for name in VOCABULARY_FILES))
    rows = itertools.compress(zip(*text.sides), fresh)
    ids, lengths = _encode(tokenizer, list(itertools.chain.from_iterable(rows)))
    document, held_out, lengths = document[fresh], held_out[fresh], lengths.reshape(-1, sides)
    kept, dropped = _filter(lengths, task.options)
    dropped |= {"bad_utf8": text.bad_utf8, "score": text.score, "duplicate": int(repeated.sum())}
    dropped["near_duplicate"] = int((~fresh & ~repeated).sum())
    dropped["empty"] += text.empty

    arrays: dict[str, Any] = {}
    for split, chosen in zip(SPLITS, (kept & ~held_out, kept & held_out)):
        chosen_ids, chosen_lengths = ids[np.repeat(chosen, lengths.sum(axis=1))], lengths[chosen]
        is_unknown = chosen_ids == tokenizer.unk_id
        lines_of_documents = np.bincount(document[chosen])
        arrays[f"{split}.ids"] = chosen_ids
        arrays[f"{split}.lengths"] = chosen_lengths.ravel().astype(np.uint32)
        arrays[f"{split}.documents"] = lines_of_documents[lines_of_documents > 0].astype(np.uint32)
        arrays[f"{split}.unknown"] = np.bincount(side_of_tokens(chosen_lengths)[is_unknown], minlength=sides)
    counts = [len(arrays[f"{split}.ids"]) for split in SPLITS] + [dropped[reason] for reason in DROPPED]
    with atomic_file(path) as file:
        np.savez(file, counts=np.array(counts), **arrays)
    return task.unit.key, counts


def read_token_counts(path: Path) -> list[int] | None:
    """The counts that `tokenize_unit` wrote; None if its file is missing or incomplete."""
    try:
        with np.load(path) as arrays:
            return arrays["counts"].tolist()
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError, KeyError):
        return None


def side_of_tokens(lengths: np.ndarray) -> np.ndarray:
    """The side of each token, int64 [tokens], given the number of tokens of each side [lines, sides]."""
    return np.repeat(np.tile(np.arange(lengths.shape[1]), len(lengths)), lengths.ravel())


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _filter(lengths: np.ndarray, options: BuildOptions) -> tuple[np.ndarray, dict[str, int]]:
    """Which lines stay, and how many are left out for each reason; the first reason that applies counts."""
    shorter, longer = lengths.min(axis=1, initial=1 << 62), lengths.max(axis=1, initial=0)
    too_long = (longer > options.max_tokens) & (options.max_tokens > 0)
    faults = {
        "empty": shorter == 0,  # a line of control characters has no ids
        "length": (shorter < options.min_tokens) | too_long,
        "ratio": (longer > options.max_ratio * shorter) & (options.max_ratio > 0),
    }
    kept = np.ones(len(lengths), bool)
    dropped = {}
    for reason, fault in faults.items():
        dropped[reason] = int((kept & fault).sum())
        kept &= ~fault
    return kept, dropped


def _is_held_out(lines: Lines, scan: StreamScan) -> np.ndarray:
    """Whether each document is held out, bool [documents]. Equal documents go together."""
    if scan.held_out_below == 0:
        return np.zeros(len(lines.documents), bool)
    texts = lines.join_documents(lines.sides[scan.held_out_side])
    return line_hashes(texts) < np.uint64(scan.held_out_below)


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
