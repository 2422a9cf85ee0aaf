"""Work on chunks of text: tokenization, deduplication, and the decision which lines are kept.

A document or pair is held out by the hash of its bytes. Equal texts may have different bytes, and a sentence
may occur in several language pairs and in monolingual text. So each training line is compared with all
held-out text. `ernie_m.reader.equal_texts` defines equality.

The key of a line combines the keys of its texts. The keys of each chunk are sorted on disk, and one key range
of all chunks is loaded at a time. Keys are uniform, so a range fits in memory for any number of lines. Of
lines with equal keys, the first in reading order is kept. Among n different lines, about n^2 / 2^65 are
dropped by collision: less than one in a stream of 5 billion lines. The index of a line is the number of its
chunk * 2^32 + its number in the chunk.

The files of an unfinished build:

    <output>/.build/<key>.npz                  a chunk of text as ids, with hashes of its lines
    <output>/.build/mono/en/keys-000000.npy    a chunk: the keys of its lines in ascending order
                            repeated-000000.npy    the duplicate lines of one key range
                            fates-000000.npy   a chunk: the fate of each line
    <output>/.build/held_out.npy               the keys of all held-out texts

A chunk is done when its file exists. Its key is the SHA-256 of the text and of all settings that affect it.
So a build reuses the chunks of an earlier one with the same text, options and vocabulary. The other files are
cheap, and are always rebuilt.
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
from ernie_m.pretrain.build_corpus.source_files import CorpusSource
from ernie_m.pretrain.build_corpus.text_chunks import ChunkLines, TextChunk, read_lines
from ernie_m.reader.corpus import SPLITS
from ernie_m.reader.equal_texts import hash_contents, hash_texts
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file

WORK = ".build"
HELD_OUT = "held_out.npy"
VOCABULARY_FILES = ("piece.model", "vocab.txt")
# Exceptions of `zipfile` and NumPy for a corrupt file.
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
class StreamSettings:
    """Settings of a stream, the text of a language or language pair, for the workers.

    Args:
        folder: folder of the stream in the work directory.
        languages: one language, or the two of a pair.
        held_out_side: side of a pair whose hash decides whether the pair is held out.
        max_ratio: maximum ratio of the token counts of a pair's sides; 0: no limit.
        held_out_below: documents or pairs with a smaller hash are held out.
        ranges: number of key ranges in the search for duplicates.
        keeps_all: whether training lines are kept even if their text is held out elsewhere.
    """

    folder: Path
    languages: tuple[str, ...]
    held_out_side: int
    max_ratio: float
    held_out_below: int = 0
    ranges: int = 0
    keeps_all: bool = False

    def file(self, kind: str, index: int) -> Path:
        """Return the path of a file in the stream's folder.

        Args:
            kind: "keys", "fates" or "repeated".
            index: number of the chunk, or of the key range.
        """
        return self.folder / f"{kind}-{index:06d}.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file atomically."""
    with atomic_file(path) as file:
        np.save(file, array)


def read_chunk(path: Path, *names: str) -> list[np.ndarray]:
    """Read arrays by name from the file of a tokenized chunk.

    Raises:
        UserError: the file is missing or corrupt. It was removed, so that the same command rebuilds it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # Read each member to its end, where its checksum is verified; `np.load` may stop earlier.
            members = [io.BytesIO(file.read(f"{name}.npy")) for name in names]
        return [np.lib.format.read_array(member) for member in members]
    except _OF_DAMAGE as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: corrupt or missing ({error}). Run the same command again") from error


KEYS_IN_MEMORY = 1 << 21  # keys of one range, at about 80 bytes each while in use
_CHUNK = 1 << 32


def count_ranges(num_lines: int) -> int:
    """Return the number of key ranges, each of which fits in memory, for a number of lines."""
    return math.ceil(num_lines / KEYS_IN_MEMORY)


def write_sorted_keys(settings: StreamSettings, chunk_index: int, chunk: Path) -> None:
    """Write the file of a chunk with the keys of its lines, ascending, and their indices: uint64 [2, lines].

    Args:
        chunk_index: number of the chunk in the stream.
        chunk: file of the tokenized chunk.
    """
    (keys_of_texts,) = read_chunk(chunk, "keys")
    keys = hash_contents(line.tobytes() for line in keys_of_texts)
    order = np.argsort(keys, kind="stable")
    write_array(
        settings.file("keys", chunk_index),
        np.stack([keys[order], chunk_index * _CHUNK + order.astype("<u8")]),
    )


def find_duplicates(settings: StreamSettings, range_index: int, num_chunks: int) -> None:
    """Write the file of a key range with the indices of its duplicate lines, ascending: uint64 [repeated].

    Args:
        range_index: number of the key range.
        num_chunks: number of chunks of the stream.
    """
    first_key = np.uint64(range_index * (1 << 64) // settings.ranges)
    last_key = np.uint64((range_index + 1) * (1 << 64) // settings.ranges - 1)
    rows = []  # per chunk: the keys in this range, and their indices
    for chunk in range(num_chunks):
        keys_and_indices = np.load(settings.file("keys", chunk), mmap_mode="r")
        first = np.searchsorted(keys_and_indices[0], first_key)
        end = np.searchsorted(keys_and_indices[0], last_key, side="right")
        rows.append(np.array(keys_and_indices[:, first:end]))
    keys, indices = np.concatenate(rows, axis=1)
    # Chunks are in reading order, and so are equal keys of a chunk: a stable sort keeps the first one first.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    write_array(settings.file("repeated", range_index), np.sort(indices[order[1:][keys[1:] == keys[:-1]]]))


def mark_duplicates(settings: StreamSettings, chunk_index: int, num_lines: int) -> np.ndarray:
    """Return whether each line of a chunk duplicates an earlier line: bool [lines].

    Args:
        chunk_index: number of the chunk in the stream.
        num_lines: number of lines of the chunk.
    """
    is_repeated = np.zeros(num_lines, bool)
    for key_range in range(settings.ranges):
        indices = np.load(settings.file("repeated", key_range), mmap_mode="r")
        first, end = np.searchsorted(
            indices, np.array([chunk_index * _CHUNK, (chunk_index + 1) * _CHUNK], "<u8")
        )
        is_repeated[indices[first:end] % _CHUNK] = True
    return is_repeated


HELD_OUT_TEXT = "held-out text"
DROPPED = ("empty", "score", "duplicate", "ratio", HELD_OUT_TEXT)  # why lines are dropped
FATES = (*SPLITS, *DROPPED)  # the possible fates of a line
_BATCH = 2048  # lines per SentencePiece call


def encode_chunk(
    path: Path,
    chunk: TextChunk,
    source: CorpusSource,
    settings: StreamSettings,
    options: BuildOptions,
    digest: str,
) -> tuple[CorpusSource, int, np.ndarray]:
    """Tokenize a chunk of text and write its file, unless the file exists.

    Args:
        path: file of the tokenized chunk.
        source: source of the chunk.
        digest: digest of the vocabulary in the output directory, a cache key.

    Returns:
        The source, the number of bytes read from disk for the chunk, and the array `counts` of its file.

    Raises:
        UserError: a line is invalid, the output directory does not exist for this worker, or an existing file
            is corrupt.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: not found by a worker. Choose an --output that all machines share")
    if not path.exists():
        lines = read_lines(chunk, source, settings.languages, options)
        _write_chunk(
            path, lines, settings, options, open_tokenizer(options.output, options.text_rules, digest)
        )
    (counts,) = read_chunk(path, "counts")
    return source, chunk.bytes_read, counts


def _write_chunk(
    path: Path, lines: ChunkLines, settings: StreamSettings, options: BuildOptions, tokenizer: Tokenizer
) -> None:
    """Tokenize lines and write the file of their chunk.

    Its arrays are `ids` [tokens]; `lengths` uint32 [lines, sides], number of tokens; `documents` uint32,
    number of lines of each document; `hashes` uint64 [lines], hash of the document of each line; `keys`
    uint64 [lines, sides], keys of the texts if they must be compared, otherwise [lines, 0]; and `counts`,
    the number of lines, documents, blank lines and filtered lines.
    """
    texts = list(itertools.chain.from_iterable(lines.rows))  # both sides of a pair, then of the next one
    ids = [np.zeros(0, select_id_dtype(tokenizer.vocab_size))]  # `concatenate` requires an array
    lengths: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(texts[start : start + _BATCH])
        lengths += map(len, batch)
        ids.append(np.fromiter(itertools.chain.from_iterable(batch), ids[0].dtype))
    sides = len(settings.languages)
    keys = np.zeros((len(lines.rows), 0), np.uint64)
    if options.held_out or options.deduplicate:
        keys = hash_texts(texts, tokenizer).reshape(-1, sides)
    documents = np.array(lines.documents, np.uint32)
    # For a pair, the text of one side decides whether it is held out.
    deciding = iter([row[settings.held_out_side] for row in lines.rows])
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


def select_id_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype of stored token ids: uint16 if all ids fit, otherwise uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@functools.lru_cache(maxsize=1)
def open_tokenizer(output: str, text_rules: str, digest: str) -> Tokenizer:  # noqa: ARG001 - a key of the cache
    """Open the tokenizer of a corpus; cached, because a worker tokenizes many chunks.

    Args:
        output: the corpus directory.
        digest: digest of the vocabulary.
    """
    model_name, vocab_name = VOCABULARY_FILES
    return Tokenizer(Path(output, vocab_name), Path(output, model_name), text_rules)


def collect_held_out_keys(settings: StreamSettings, chunk_index: int, chunk: Path) -> tuple[np.ndarray, int]:
    """Return the keys of a chunk's held-out texts, and the number of its training lines, without duplicates.

    Args:
        chunk_index: number of the chunk in the stream.
        chunk: file of the tokenized chunk.
    """
    hashes, keys = read_chunk(chunk, "hashes", "keys")
    is_new = ~mark_duplicates(settings, chunk_index, len(hashes))
    is_held_out = hashes < np.uint64(settings.held_out_below)
    return keys[is_new & is_held_out].ravel(), int((is_new & ~is_held_out).sum())


def assign_splits(settings: StreamSettings, chunk_index: int, chunk: Path) -> np.ndarray:
    """Assign each line of a chunk to a split or a reason for dropping it, and write the file of fates.

    The file has the index in FATES of each line, uint8 [lines].

    Args:
        chunk_index: number of the chunk in the stream.
        chunk: file of the tokenized chunk.

    Returns:
        Numbers of lines and tokens per split or drop reason, int64 [2, fates].
    """
    lengths, hashes, keys, counts = read_chunk(chunk, "lengths", "hashes", "keys", "counts")
    shorter = lengths.min(axis=1)  # tokens of a pair's shorter side
    longer = lengths.max(axis=1)  # equal for monolingual text
    is_held_out = hashes < np.uint64(settings.held_out_below)  # documents are held out as a whole
    has_held_out_text = np.isin(keys, np.load(settings.folder.parents[1] / HELD_OUT)).any(axis=1)
    reasons = {  # the first true one counts
        "duplicate": mark_duplicates(settings, chunk_index, len(lengths)),
        HELD_OUT_TEXT: has_held_out_text & ~is_held_out & (not settings.keeps_all),
        "empty": shorter == 0,  # a line of control characters only
        "ratio": (settings.max_ratio > 0) & (longer > settings.max_ratio * shorter),
        "held_out": is_held_out,
    }
    fates = np.select([*reasons.values()], [*map(FATES.index, reasons)], default=FATES.index("train"))
    write_array(settings.file("fates", chunk_index), fates.astype(np.uint8))
    lines = np.bincount(fates, minlength=len(FATES))
    lines[FATES.index("empty")] += counts[2]
    lines[FATES.index("score")] += counts[3]
    tokens = np.bincount(fates, lengths.sum(axis=1), minlength=len(FATES))
    return np.stack([lines, tokens.astype(np.int64)])
