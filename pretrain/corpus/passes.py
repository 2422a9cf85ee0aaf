"""The two passes over the text, one unit at a time: hash its lines, then cut them into ids."""

import functools
import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.corpus.duplicates import is_duplicate, read_counts, write_keys
from pretrain.corpus.lines import Lines, line_hashes, read_lines
from pretrain.corpus.near_duplicates import band_keys, bands_for
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.units import Unit
from pretrain.corpus.work import SCAN, TOKENS, VOCABULARY_FILES, StreamWork
from reader.corpus import SPLITS
from reader.tokenization import Tokenizer
from utils.files import atomic_file

DROPPED = ("empty", "bad_utf8", "score", "duplicate", "near_duplicate", "length", "ratio")
_BATCH = 2048  # lines given to sentencepiece at a time

# A unit without its text, and its counts. First pass: lines, documents. Second pass: ids of each split,
# dropped lines for each reason.
UnitResult = tuple[Unit, list[int]]


def scan_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Count the lines of a unit and write the keys of its lines and documents, unless that is done."""
    path, options = work.unit_path(SCAN, unit.source, unit.number), work.options
    counts = read_counts(path)
    if counts is None:
        text = _read(unit, work)
        keys = text.keys()
        key_sets = [line_hashes(keys)] if options.deduplicate else []
        if options.near_duplicates:
            key_sets += band_keys(text.join_documents(keys), bands_for(options.near_duplicates))
        counts = [len(keys), len(text.documents)]
        write_keys(path, *counts, key_sets)
    return unit._replace(texts=()), counts


def tokenize_unit(unit: Unit, work: StreamWork) -> UnitResult:
    """Filter the lines of a unit, split them into train and held-out, and write their ids, unless it is done.

    The file is an .npz with `counts` (see `UnitResult`) and for each split: `ids` [tokens]; `lengths` uint32,
    the tokens of each line (a pair is two lines); `documents` uint32, the lines of each document; `unknown`
    int64 [sides], the number of unknown ids.
    """
    path = work.unit_path(TOKENS, unit.source, unit.number)
    found = _read_token_counts(path)
    if found is not None:
        return unit._replace(texts=()), found
    text = _read(unit, work)
    sides = len(text.sides)
    document = np.repeat(np.arange(len(text.documents)), text.documents)  # of each line
    held_out = _is_held_out(text, work)[document]
    ordinal = sum(work.units[: unit.source]) + unit.number
    repeated = is_duplicate(work, "line", ordinal, len(document))
    fresh = ~repeated & ~is_duplicate(work, "document", ordinal, len(text.documents))[document]

    tokenizer = _tokenizer(*(str(work.output / name) for name in VOCABULARY_FILES))
    rows = itertools.compress(zip(*text.sides), fresh)
    ids, lengths = _encode(tokenizer, list(itertools.chain.from_iterable(rows)))
    document, held_out, lengths = document[fresh], held_out[fresh], lengths.reshape(-1, sides)
    kept, dropped = _filter(lengths, work.options)
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
    return unit._replace(texts=()), counts


def side_of_tokens(lengths: np.ndarray) -> np.ndarray:
    """The side of each token, int64 [tokens], given the number of tokens of each side [lines, sides]."""
    return np.repeat(np.tile(np.arange(lengths.shape[1]), len(lengths)), lengths.ravel())


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _read(unit: Unit, work: StreamWork) -> Lines:
    stream = work.stream
    return read_lines(unit, stream.sources[unit.source], stream.languages, work.options.text_format)


def _read_token_counts(path: Path) -> list[int] | None:
    """The counts that `tokenize_unit` wrote; None if its file is missing or incomplete."""
    try:
        with np.load(path) as arrays:
            return arrays["counts"].tolist()
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError, KeyError):
        return None


def _filter(lengths: np.ndarray, options: BuildOptions) -> tuple[np.ndarray, dict[str, int]]:
    """Which lines stay, and how many are left out for each reason; the first reason that applies counts."""
    shorter, longer = lengths.min(axis=1, initial=1 << 62), lengths.max(axis=1, initial=0)
    too_long = (longer > options.max_tokens) & (options.max_tokens > 0)
    faults = {
        "empty": shorter == 0,  # a line of control characters has no ids
        "length": (shorter < options.min_tokens) | too_long,
        "ratio": (longer > options.max_ratio * shorter) & (options.max_ratio > 0),
    }
    kept, dropped = np.ones(len(lengths), bool), {}
    for reason, fault in faults.items():
        dropped[reason] = int((kept & fault).sum())
        kept &= ~fault
    return kept, dropped


def _is_held_out(text: Lines, work: StreamWork) -> np.ndarray:
    """Whether each document is held out, bool [documents]. Equal documents go together."""
    if work.held_out_below == 0:
        return np.zeros(len(text.documents), bool)
    hashes = line_hashes(text.join_documents(text.sides[work.held_out_side]))
    return hashes < np.uint64(work.held_out_below)


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
