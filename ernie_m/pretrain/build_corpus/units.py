"""What workers do with a unit of text: cut it into ids, and later say what becomes of each of its lines.

A document or pair is held out by the hash of its bytes. Equal texts may have other bytes, and a sentence may
stand in several pairs of languages and in text. So each line to train on is compared with all held-out text.
`ernie_m.tokenizer.equal_texts` says which texts are equal.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

from ernie_m.pretrain.build_corpus.duplicates import is_duplicate
from ernie_m.pretrain.build_corpus.inputs import TextSource
from ernie_m.pretrain.build_corpus.options import BuildOptions
from ernie_m.pretrain.build_corpus.text_units import Lines, Unit, read_lines
from ernie_m.pretrain.build_corpus.work_files import HELD_OUT, VOCABULARY_FILES, StreamWork, read_unit, save
from ernie_m.reader.corpus import SPLITS
from ernie_m.tokenizer.equal_texts import hashes_of, text_keys
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file

HELD_OUT_TEXT = "held-out text"
DROPPED = ("empty", "score", "duplicate", "ratio", HELD_OUT_TEXT)  # why lines are left out
FATES = (*SPLITS, *DROPPED)  # what becomes of a line
_BATCH = 2048  # lines given to sentencepiece at a time


def encode_unit(
    path: Path, unit: Unit, source: TextSource, work: StreamWork, options: BuildOptions, digest: str
) -> tuple[TextSource, int, np.ndarray]:
    """Cut a unit into ids and write its file, unless that is done.

    Args:
        path: the file.
        digest: that of the vocabulary, which is in the output folder.

    Returns:
        The source; the bytes on disk that were read for the unit; the `counts` of `_write_unit`.

    Raises:
        UserError: as `read_lines`; the worker does not see the output folder; an earlier file is damaged.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: a worker does not see it; all machines must share the output folder")
    if not path.exists():
        lines = read_lines(unit, source, work.languages, options)
        _write_unit(path, lines, work, options, tokenizer_of(options.output, options.text_rules, digest))
    return source, unit.bytes_read, *read_unit(path, "counts")


def _write_unit(
    path: Path, lines: Lines, work: StreamWork, options: BuildOptions, tokenizer: Tokenizer
) -> None:
    """Write the file of a unit.

    It has `ids` [tokens]; `lengths` uint32 [lines, sides], the tokens of each line; `documents` uint32, the
    lines of each document; `hashes` uint64 [lines], of the document of each line; `keys` uint64
    [lines, sides], of the texts, if any are compared; and `counts`, of lines, documents, lines without text
    and lines that --only leaves out.
    """
    texts = list(itertools.chain.from_iterable(lines.rows))  # both sides of a pair, then of the next one
    ids = [np.zeros(0, id_dtype(tokenizer.vocab_size))]  # `concatenate` takes no empty list
    lengths: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH])
        lengths += map(len, batch)
        ids.append(np.fromiter(itertools.chain.from_iterable(batch), ids[0].dtype))
    sides = len(work.languages)
    keys = np.zeros((len(lines.rows), 0), np.uint64)
    if options.held_out or options.deduplicate:
        keys = text_keys(texts, tokenizer).reshape(-1, sides)
    documents = np.array(lines.documents, np.uint32)
    # Of a pair, the text of one side decides whether it is held out.
    deciding = iter([row[work.held_out_side] for row in lines.rows])
    hashes = hashes_of("\n".join(itertools.islice(deciding, count)).encode() for count in lines.documents)
    with atomic_file(path) as file:
        np.savez(
            file,
            ids=np.concatenate(ids),
            lengths=np.array(lengths, np.uint32).reshape(-1, sides),
            documents=documents,
            hashes=np.repeat(hashes, documents),
            keys=keys,
            counts=[len(lines.rows), len(documents), lines.empty_count, lines.not_wanted_count],
        )


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@functools.lru_cache(maxsize=1)
def tokenizer_of(output: str, text_rules: str, digest: str) -> Tokenizer:
    """The tokenizer of a corpus. It is kept, because a worker cuts many units of one corpus."""
    model_name, vocab_name = VOCABULARY_FILES
    return Tokenizer(Path(output, vocab_name), Path(output, model_name), text_rules)


def held_out_texts(work: StreamWork, number: int, unit: Path) -> tuple[np.ndarray, int]:
    """The keys of the texts of a unit that are held out, and the number of lines that are not.

    Repeated lines are neither.

    Args:
        number: the number of the unit in the stream.
        unit: its file.
    """
    hashes, keys = read_unit(unit, "hashes", "keys")
    is_new = ~is_duplicate(work, number, len(hashes))
    is_held_out = hashes < np.uint64(work.held_out_below)
    return keys[is_new & is_held_out].ravel(), int((is_new & ~is_held_out).sum())


def decide(work: StreamWork, number: int, unit: Path) -> np.ndarray:
    """Write what becomes of each line of a unit: its place in FATES, uint8 [lines].

    Returns:
        How many lines, and how many tokens, have each fate. int64 [2, fates]
    """
    lengths, hashes, keys, counts = read_unit(unit, "lengths", "hashes", "keys", "counts")
    shorter = lengths.min(axis=1)  # the tokens of the shorter side of a pair
    longer = lengths.max(axis=1)  # equal if there is one side
    is_held_out = hashes < np.uint64(work.held_out_below)  # documents are held out as a whole
    has_held_out_text = np.isin(keys, np.load(work.folder.parents[1] / HELD_OUT)).any(axis=1)
    reasons = {  # the first that holds counts
        "duplicate": is_duplicate(work, number, len(lengths)),
        HELD_OUT_TEXT: has_held_out_text & ~is_held_out & (not work.keeps_all),
        "empty": shorter == 0,  # a line of control characters has no ids
        "ratio": (work.max_ratio > 0) & (longer > work.max_ratio * shorter),
        "held_out": is_held_out,
    }
    fates = np.select([*reasons.values()], [*map(FATES.index, reasons)], default=FATES.index("train"))
    save(work.file("fates", number), fates.astype(np.uint8))
    lines = np.bincount(fates, minlength=len(FATES))
    lines[FATES.index("empty")] += counts[2]
    lines[FATES.index("score")] += counts[3]
    tokens = np.bincount(fates, lengths.sum(axis=1), minlength=len(FATES))
    return np.stack([lines, tokens.astype(np.int64)])
