"""What workers do with units of text: cut them into ids, find lines that occurred before, and say what stays.

A document or pair is held out by the hash of its bytes. Equal texts may have other bytes, and a sentence may
stand in several pairs of languages and in text. So each line to train on is compared with all held-out text.
`ernie_m.reader.equal_texts` says which texts are equal.

The key of a line is made of those of its texts. The keys of each unit are sorted on disk, and one range of
keys of all units is loaded at a time. Keys are spread evenly, so the ranges fit in memory however many lines
there are. Among lines with equal keys, the first in reading order stays. Among n different lines, about
n^2 / 2^65 are dropped by a chance collision: less than one in a stream of 5 billion lines. The place of a
line is one number: that of its unit * 2^32 + that of the line in the unit.

The files of a build that is not finished:

    <output>/.build/<key>.npz                  a unit of text as ids, with hashes of its lines
    <output>/.build/mono/en/keys-000000.npy    a unit: the keys of its lines in ascending order
                            repeated-000000.npy    the repeated lines, for one range of the keys
                            fates-000000.npy   a unit: what becomes of each line
    <output>/.build/held_out.npy               the keys of all held-out texts

A unit is done when its file is there: its key is the SHA-256 of the text and of all that decides what is made
of it. So a build goes on with the units of an earlier one where text, options and vocabulary are the same.
The other files take little time, and are made anew.
"""

import functools
import io
import itertools
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.build_corpus.source_files import TextSource
from ernie_m.pretrain.build_corpus.text_units import Lines, Unit, read_lines
from ernie_m.reader.corpus import SPLITS
from ernie_m.reader.equal_texts import hash_contents, text_ids
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file

WORK = ".build"
HELD_OUT = "held_out.npy"
VOCABULARY_FILES = ("piece.model", "vocab.txt")
# What `zipfile` and numpy raise for a corrupt file.
_OF_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


@dataclass
class StreamWork:
    """What workers need to know of a language or pair.

    Args:
        folder: for its files in the work folder.
        languages: one, or the two of a pair.
        held_out_side: the side of a pair whose hash decides whether it is held out.
        max_ratio: see `BuildOptions`.
        held_out_below: a document or pair with a smaller hash is held out.
        ranges: the number of ranges in which the keys of its lines are compared.
        keeps_all: whether lines are trained on although their text is held out elsewhere.
    """

    folder: Path
    languages: tuple[str, ...]
    held_out_side: int
    max_ratio: float
    held_out_below: int = 0
    ranges: int = 0
    keeps_all: bool = False

    def file(self, kind: str, number: int) -> Path:
        """Return the file of a unit, or of a range of keys, by its number."""
        return self.folder / f"{kind}-{number:06d}.npy"


def save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, whole or not at all."""
    with atomic_file(path) as file:
        np.save(file, array)


def read_unit(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of the file of a unit.

    Raises:
        UserError: it is gone or corrupt, and was removed, so that the same command makes it again.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # Each member is read to its end, where its checksum is compared; `np.load` may stop before.
            members = [io.BytesIO(file.read(f"{name}.npy")) for name in names]
        return [np.lib.format.read_array(member) for member in members]
    except _OF_DAMAGE as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: corrupt or missing ({error}). Run the same command again") from error


KEYS_IN_MEMORY = 1 << 21  # the keys of one range, each of which takes about 80 bytes while it is processed
_UNIT = 1 << 32


def count_ranges(lines: int) -> int:
    """Return the number of ranges in which the keys of so many lines are compared."""
    return math.ceil(lines / KEYS_IN_MEMORY)


def sort_keys(work: StreamWork, number: int, unit: Path) -> None:
    """Write the keys of a unit's lines, ascending, and their places. uint64 [2, lines].

    Args:
        number: the number of the unit in the stream.
        unit: its file.
    """
    (keys_of_texts,) = read_unit(unit, "keys")
    keys = hash_contents(line.tobytes() for line in keys_of_texts)
    order = np.argsort(keys, kind="stable")
    save(work.file("keys", number), np.stack([keys[order], number * _UNIT + order.astype("<u8")]))


def find_duplicates(work: StreamWork, number: int, units: int) -> None:
    """Write the places of the repeated lines of a range, uint64 [repeated], ascending.

    Args:
        number: the number of the range.
        units: how many units the stream has.
    """
    first_key = np.uint64(number * (1 << 64) // work.ranges)
    last_key = np.uint64((number + 1) * (1 << 64) // work.ranges - 1)
    rows = []  # of each unit: the keys in this range, and their places
    for unit in range(units):
        keys_and_places = np.load(work.file("keys", unit), mmap_mode="r")
        first = np.searchsorted(keys_and_places[0], first_key)
        end = np.searchsorted(keys_and_places[0], last_key, side="right")
        rows.append(np.array(keys_and_places[:, first:end]))
    keys, indices = np.concatenate(rows, axis=1)
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    save(work.file("repeated", number), np.sort(indices[order[1:][keys[1:] == keys[:-1]]]))


def is_duplicate(work: StreamWork, number: int, lines: int) -> np.ndarray:
    """Return whether each of the `lines` of a unit occurred before. bool [lines]."""
    is_repeated = np.zeros(lines, bool)
    for key_range in range(work.ranges):
        indices = np.load(work.file("repeated", key_range), mmap_mode="r")
        first, end = np.searchsorted(indices, np.array([number * _UNIT, (number + 1) * _UNIT], "<u8"))
        is_repeated[indices[first:end] % _UNIT] = True
    return is_repeated


HELD_OUT_TEXT = "held-out text"
DROPPED = ("empty", "score", "duplicate", "ratio", HELD_OUT_TEXT)  # why lines are left out
FATES = (*SPLITS, *DROPPED)  # what becomes of a line
_BATCH = 2048  # lines given to SentencePiece at a time


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
        UserError: as `read_lines`; the worker does not see the output folder; an earlier file is corrupt.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: not found by a worker. All machines must share the output folder")
    if not path.exists():
        lines = read_lines(unit, source, work.languages, options)
        _write_unit(path, lines, work, options, open_tokenizer(options.output, options.text_rules, digest))
    (counts,) = read_unit(path, "counts")
    return source, unit.bytes_read, counts


def _write_unit(
    path: Path, lines: Lines, work: StreamWork, options: BuildOptions, tokenizer: Tokenizer
) -> None:
    """Write the file of a unit.

    It has `ids` [tokens]; `lengths` uint32 [lines, sides], the tokens of each line; `documents` uint32, the
    lines of each document; `hashes` uint64 [lines], of the document of each line; `keys` uint64
    [lines, sides], of the texts, if any are compared; and `counts`, of lines, documents, lines without text
    and lines that --filter leaves out.
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
        keys = text_ids(texts, tokenizer).reshape(-1, sides)
    documents = np.array(lines.documents, np.uint32)
    # Of a pair, the text of one side decides whether it is held out.
    deciding = iter([row[work.held_out_side] for row in lines.rows])
    hashes = hash_contents("\n".join(itertools.islice(deciding, count)).encode() for count in lines.documents)
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
    """Return the narrowest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@functools.lru_cache(maxsize=1)
def open_tokenizer(output: str, text_rules: str, digest: str) -> Tokenizer:
    """Return the tokenizer of a corpus. It is kept, because a worker cuts many units of one corpus."""
    model_name, vocab_name = VOCABULARY_FILES
    return Tokenizer(Path(output, vocab_name), Path(output, model_name), text_rules)


def held_out_texts(work: StreamWork, number: int, unit: Path) -> tuple[np.ndarray, int]:
    """Return the keys of the texts of a unit that are held out, and the number of lines that are not.

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
