"""Memory-mapped reading of a corpus built by `ernie-m build_corpus` (docs/pretraining.md).

    manifest.json                          languages, pairs, counts, vocabulary digest; SHA-256 of each file
                                           and of the rest of the manifest
    mono/<language>/<split>-00000.*.npy    split: train or held_out
    parallel/<a>-<b>/<split>-00000.*.npy   a < b in alphabetical order
    pieces/<language>.npy                  int64 [V], token counts of the language's training text
    piece.model, vocab.txt                 the vocabulary: `open_corpus_tokenizer`

A shard has these files: `ids` (uint16 or uint32 [tokens], no special tokens), `lines` (uint32 [lines + 1],
the offsets of lines in `ids`) and, for monolingual text, `documents` (uint32 [documents + 1], the offsets of
documents in `lines`). Pair i of a parallel shard is its lines 2i (language a) and 2i + 1 (language b).
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_rules import ERNIE_M
from ernie_m.utils.checksums import MANIFEST, check_file, check_format_version, get_manifest_entries
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_object, write_json
from ernie_m.utils.logging import logger

FORMAT = 1
SPLITS = ("train", "held_out")
VERIFIED = ".verified.json"  # the modification times of verified files
_REPAIR = "Restore it from a backup, or delete the corpus and build it again"


class Corpus:
    """A tokenized corpus of monolingual and parallel text, read through memory maps.

    Args:
        path: the corpus directory.
        tokenizer: the tokenizer of the model; None: accept any vocabulary and tokenizer rules.
        verify: whether to compare the SHA-256 of every file with the manifest, not only its size.

    Attributes:
        manifest: the manifest as a dict.
        text_rules: the tokenizer rules with which the corpus was tokenized.
        languages: all languages with monolingual or parallel text, in alphabetical order.
        mono: language -> `CorpusText` of its training documents.
        parallel: (a, b), a < b -> `CorpusPairs` of the training pairs.
        held_out_mono, held_out_parallel: the same for the held-out split; empty without one.
        vocab_size: V, the number of token ids.

    Raises:
        UserError: the corpus is incomplete, its format, vocabulary or text rules differ, or a file is
            missing or corrupt.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        tokenizer: Tokenizer | None = None,
        verify: bool = False,
    ):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        try:
            self._load_manifest()
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{self.path / MANIFEST}: corrupt ({error}). {_REPAIR}") from error
        if tokenizer is not None:
            self._check_tokenizer(tokenizer)
        check_files(self.path, self.manifest["files"], verify_checksums=verify)

    def _check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that the corpus was built with this tokenizer.

        Raises:
            UserError: the vocabulary or the tokenizer rules differ.
        """
        rules = tokenizer.text_rules
        if rules != self.text_rules:
            raise UserError(
                f"{self.path}: tokenized with text_rules {self.text_rules}, but the model uses "
                f"{rules}. Build a corpus with --text_rules {rules}"
            )
        digest = self.manifest["vocabulary"]["digest"]
        if (digest, self.vocab_size) != (tokenizer.digest, tokenizer.vocab_size):
            raise UserError(
                f"{self.path}: built with another vocabulary ({digest[:12]}, {self.vocab_size} ids; not "
                f"{tokenizer.digest[:12]}, {tokenizer.vocab_size} ids). Use the vocabulary of the corpus, or "
                "build a corpus with this one"
            )

    def _load_manifest(self) -> None:
        """Set the attributes from the manifest.

        Raises:
            TypeError, KeyError, AttributeError, ValueError: the manifest is corrupt.
        """
        self.text_rules: str = self.manifest["vocabulary"].get("text_rules", ERNIE_M)
        known = {self.path / name for name in get_manifest_entries(self.manifest, self.path / MANIFEST)}
        self.vocab_size: int = self.manifest["vocabulary"]["size"]
        self.languages = sorted(self.manifest["pieces"])
        _check_files_listed((self.path / name for name in self.manifest["pieces"].values()), known)
        self.mono, self.held_out_mono = (
            {
                name: CorpusText(folder, shards, known)
                for name, folder, shards in self._iter_streams("mono", split)
            }
            for split in SPLITS
        )
        self.parallel, self.held_out_parallel = (
            {
                name.partition("-")[::2]: CorpusPairs(folder, shards, known)
                for name, folder, shards in self._iter_streams("parallel", split)
            }
            for split in SPLITS
        )

    def _iter_streams(self, kind: str, split: str) -> Iterator[tuple[str, Path, list[Mapping[str, Any]]]]:
        """Yield the name, directory and shard entries of each language or language pair with this split.

        Args:
            kind: "mono" or "parallel".
            split: one of `SPLITS`.
        """
        for name, stream in self.manifest[kind].items():
            if stream[split]["shards"]:
                yield name, self.path / kind / name, stream[split]["shards"]

    @property
    def digest(self) -> str:
        """The SHA-256 of the vocabulary digest and all file entries, equal for all copies of a corpus."""
        content = {"files": self.manifest["files"], "vocabulary": self.manifest["vocabulary"]["digest"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def count_subwords(self, language: str) -> np.ndarray:
        """Return the count of each token id in all training text of a language: int64 [V].

        Raises:
            UserError: the language is unknown, or the file is corrupt.
        """
        if language not in self.languages:
            raise UserError(
                f"{self.path}: unknown language '{language}' (found: {', '.join(self.languages)})"
            )
        name = self.manifest["pieces"][language]
        check_files(self.path, {name: self.manifest["files"][name]}, verify_checksums=True)
        return np.asarray(map_array(self.path / name))


def _check_files_listed(files: Iterable[Path], listed_files: Collection[Path]) -> None:
    """Check that files are listed in the manifest.

    Raises:
        ValueError: a file is not listed.
    """
    if others := sorted({*files}.difference(listed_files)):
        raise ValueError(f"{others[0]} is not among its files")


class _Shards:
    """Random access to the tokenized lines of a language or language pair, which are in several shards.

    Args:
        folder: the directory of the shards.
        shards: the entries of the shards in the manifest.
        listed_files: the files that the manifest lists.

    Raises:
        ValueError: a file of a shard is not listed.
    """

    arrays: ClassVar[Sequence[str]] = ("ids", "lines")  # the files of a shard

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]], listed_files: Collection[Path]):
        self.folder = folder
        self.shards = shards
        _check_files_listed(
            (self._get_path(shard, kind) for shard in range(len(shards)) for kind in self.arrays),
            listed_files,
        )
        self.num_tokens = sum(shard["tokens"] for shard in shards)
        # The first line of each shard, and the total number of lines. int64 [shards + 1]
        self._first_line = compute_starts(shard["lines"] for shard in shards)
        self.num_lines = int(self._first_line[-1])
        self._arrays: dict[tuple[int, str], np.ndarray] = {}  # (shard, kind) -> its file, memory-mapped

    def read_line_offsets(self, shard: int) -> np.ndarray:
        """Return the offsets of a shard's lines in its ids: uint32 [lines + 1]."""
        return self._read_offsets(shard, "lines", self.shards[shard]["tokens"])

    def read_line(self, index: int) -> np.ndarray:
        """Return the token ids of line `index` over all shards: int64 [n]."""
        shard, line = locate_item(self._first_line, index)
        return self._read_lines(shard, line, count=1)[0]

    def read_ids(self, shard: int, start: int, end: int) -> np.ndarray:
        """Return the token ids at start .. end - 1 of a shard: int64 [n]."""
        return self._read_slice(shard, "ids", start, end).astype(np.int64)

    def _read_lines(self, shard: int, first: int, count: int) -> list[np.ndarray]:
        """Return the token ids of `count` lines of a shard from line `first` on: int64 [n] each."""
        # The offsets of the lines in the ids of the shard. [count + 1]
        bounds = self._read_slice(shard, "lines", first, first + count + 1).tolist()
        # Corrupt offsets must raise an error, not return other text.
        if bounds != sorted(bounds):
            raise self._make_offset_error(shard, "lines")
        return [self.read_ids(shard, start, end) for start, end in pairwise(bounds)]

    def _read_slice(self, shard: int, kind: str, start: int, end: int) -> np.ndarray:
        """Return elements start .. end - 1 of an array of a shard.

        Args:
            kind: the array: "ids", "lines" or "documents".

        Raises:
            UserError: the range is outside the file.
        """
        array = self._open_array(shard, kind)
        if not 0 <= start <= end <= len(array):
            raise self._make_offset_error(shard, kind)
        return array[start:end]

    def _read_offsets(self, shard: int, kind: str, end: int) -> np.ndarray:
        """Return an array of offsets of a shard, uint32 [n + 1].

        Args:
            kind: the array: "lines" or "documents".
            end: the expected last offset.

        Raises:
            UserError: the offsets are not ascending, or do not end with `end`.
        """
        offsets = self._open_array(shard, kind)
        # Not by np.diff: differences of uint32 are never negative.
        if not len(offsets) or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
            raise self._make_offset_error(shard, kind)
        return offsets

    def _open_array(self, shard: int, kind: str) -> np.ndarray:
        """Return an array of a shard, which is memory-mapped on first access; `kind`: see `_read_slice`."""
        if (shard, kind) not in self._arrays:
            # A plain view of the mapped file: the indexing of np.memmap itself is several times slower.
            self._arrays[shard, kind] = map_array(self._get_path(shard, kind)).view(np.ndarray)
        return self._arrays[shard, kind]

    def _get_path(self, shard: int, kind: str) -> Path:
        """Return the path of an array of a shard; `kind`: see `_read_slice`."""
        return self.folder / f"{self.shards[shard]['name']}.{kind}.npy"

    def _make_offset_error(self, shard: int, kind: str) -> UserError:
        """Return the error for an array of a shard with invalid offsets; `kind`: see `_read_slice`."""
        return UserError(f"{self._get_path(shard, kind)}: corrupt: invalid offsets. {_REPAIR}")


class CorpusText(_Shards):
    """The tokenized documents of one language; `Blocks` divides them into blocks."""

    arrays = ("ids", "lines", "documents")

    def read_document_offsets(self, shard: int) -> np.ndarray:
        """Return the offsets of a shard's documents in its lines: uint32 [documents + 1]."""
        return self._read_offsets(shard, "documents", self.shards[shard]["lines"])


class CorpusPairs(_Shards):
    """The tokenized sentence pairs of two languages a < b.

    `pairs[i]` are the token ids in both languages, int64 [n] each.
    """

    def __len__(self) -> int:
        return self.num_lines // 2

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shard, line = locate_item(self._first_line, 2 * number)
        first, second = self._read_lines(shard, line, count=2)
        return first, second

    def count_truncated(self, max_seq_len: int) -> np.ndarray:
        """Return the number of pairs that exceed the maximum length, and of truncated tokens: int64 [2].

        Args:
            max_seq_len: the maximum length in tokens, including the 4 special tokens of a pair.
        """
        total = np.zeros(2, np.int64)
        for shard in range(len(self.shards)):
            begins = self.read_line_offsets(shard)[::2].astype(np.int64)  # the offsets of pairs
            too_many = np.maximum(np.diff(begins) - (max_seq_len - 4), 0)
            total += np.count_nonzero(too_many), too_many.sum()
        return total


def describe_long_pairs(streams: Mapping[tuple[str, str], CorpusPairs], max_seq_len: int) -> str:
    """Return a message with the number of pairs above the maximum length, and the % of truncated tokens.

    Language pairs with more than 10 % truncated tokens are listed.
    """
    rows = [[len(pairs), *pairs.count_truncated(max_seq_len), pairs.num_tokens] for pairs in streams.values()]
    number, longer, unread, tokens = np.sum(rows, axis=0).tolist()
    named = [
        f", {unread / tokens:.1%} of {'-'.join(pair)}"
        for pair, (_, _, unread, tokens) in zip(streams, rows)
        if unread > 0.1 * tokens
    ]
    return (
        f"{longer:,} of {number:,} pairs exceed data.max_seq_len {max_seq_len}; "
        f"{unread / tokens:.1%} of all tokens are truncated{''.join(named)}"
    )


def pack_lines(line_offsets: np.ndarray, document_offsets: np.ndarray, max_tokens: int) -> np.ndarray:
    """Pack the lines of each document greedily into blocks. A line longer than a block is split.

    All documents advance together, one block per round. 100 million tokens take a fraction of a second, so
    the blocks are not stored.

    Args:
        line_offsets: integer [lines + 1], the offset of each line in tokens, and the number of tokens.
        document_offsets: integer [documents + 1], the offset of each document in lines, and the number of
            lines.
        max_tokens: maximum length of a block, without special tokens.

    Returns:
        uint32 [blocks + 1], the offset of each block in tokens. No block crosses a document boundary.
    """
    line_offsets = line_offsets.astype(np.int64)
    # In each round: where the next block of each unfinished document begins. int64 [unfinished documents]
    begins = line_offsets[document_offsets[:-1]]
    document_ends = line_offsets[document_offsets[1:]]
    bounds = [begins, line_offsets[-1:]]  # where the blocks of all rounds begin, and the last one ends
    while begins.size:
        # Drop the documents whose rest fits into one block.
        limits = begins + max_tokens
        has_more = limits < document_ends
        begins = begins[has_more]
        limits = limits[has_more]
        document_ends = document_ends[has_more]
        # A block ends with the last line that fits, or in the middle of a line that is longer than a block.
        last_lines = np.searchsorted(line_offsets, limits, side="right") - 1
        last_line_ends = line_offsets[last_lines]
        begins = np.where(last_line_ends > begins, last_line_ends, limits)
        bounds.append(begins)
    return np.sort(np.concatenate(bounds), kind="stable").astype(np.uint32)


class Blocks:
    """The blocks of a language's text; `blocks[i]` are the token ids of a block, int64 [n].

    The constructor computes the offsets of the blocks, which take 4 bytes of memory per block.

    Args:
        text: the documents of a language.
        max_tokens: maximum length of a block in tokens, without special tokens.
        one_line: whether each line is a separate block; lines longer than a block are still split.
    """

    def __init__(self, text: CorpusText, max_tokens: int, one_line: bool = False):
        self.text = text
        self._bounds: list[np.ndarray] = []  # for each shard: uint32 [blocks + 1]
        for shard in range(len(text.shards)):
            line_offsets = text.read_line_offsets(shard)
            # With `one_line` each line is a document.
            document_offsets = np.arange(len(line_offsets)) if one_line else text.read_document_offsets(shard)
            self._bounds.append(pack_lines(line_offsets, document_offsets, max_tokens))
        # The first block of each shard, and the total number of blocks. int64 [shards + 1]
        self._first_block = compute_starts(len(bounds) - 1 for bounds in self._bounds)

    def __len__(self) -> int:
        return int(self._first_block[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        shard, block = locate_item(self._first_block, number)
        start = int(self._bounds[shard][block])
        end = int(self._bounds[shard][block + 1])
        return self.text.read_ids(shard, start, end)


def open_corpus_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Load the tokenizer of a corpus.

    Raises:
        UserError: the corpus is incomplete, or a file of the vocabulary is missing or corrupt.
    """
    read_manifest(Path(path))
    return Tokenizer.from_folder(path)


def map_array(path: Path) -> np.memmap:
    """Memory-map a one-dimensional .npy file of integers.

    Raises:
        UserError: the file is missing, or is not a one-dimensional array of integers.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"{path}: missing ({error.strerror}). {_REPAIR}") from error
    except Exception as error:  # a corrupt header, which is Python text, may raise anything
        raise UserError(f"{path}: corrupt, not an array ({error}). {_REPAIR}") from error
    if mapped.ndim != 1 or mapped.dtype.kind not in "ui":
        raise UserError(f"{path}: corrupt, not a list of numbers. {_REPAIR}")
    return mapped


def verify_corpus(path: str | os.PathLike) -> None:
    """Verify the files of a corpus against its manifest, by checksum the first time, later by size and time.

    Only one process needs to call this function. The modification times of the verified files are stored in
    `.verified.json` in the corpus. Checksums are compared again if a file has changed since, or if
    `.verified.json` cannot be written.

    Raises:
        UserError: see `Corpus`.
    """
    corpus = Corpus(path)
    record = corpus.path / VERIFIED
    times = {}
    for name in corpus.manifest["files"]:
        status = (corpus.path / name).stat()
        times[name] = [status.st_mtime_ns, status.st_ctime_ns]  # the latter also changes in a copy
    seen = {"corpus": corpus.digest, "times": times}
    if record.is_file() and read_object(record, "delete it") == seen:
        return
    check_files(corpus.path, corpus.manifest["files"], verify_checksums=True)
    try:
        write_json(record, seen)
    except UserError as error:
        logger.info("%s. Each run will verify all checksums of the corpus; see data.verify", error)


def check_files(path: Path, files: Mapping[str, Any], verify_checksums: bool) -> None:
    """Compare files with their entries in the manifest, by size and, with `verify_checksums`, by SHA-256.

    Args:
        path: the corpus directory.
        files: name -> entry, which has the keys "bytes" and "sha256".

    Raises:
        UserError: a file is missing or corrupt.
    """
    for name, entry in files.items():
        try:
            check_file(path / name, entry, verify_checksums)
        except UserError as error:
            raise UserError(f"{error}. {_REPAIR}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a corpus.

    Raises:
        UserError: the manifest is missing or corrupt, or has another format.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{path}: not a complete corpus (missing {MANIFEST}). Run ernie-m build_corpus; it resumes if "
            "it was interrupted"
        )
    manifest = read_object(file, "build the corpus again")
    check_format_version(file, manifest.get("format"), FORMAT, "build the corpus again")
    if manifest.get("sha256") != compute_checksum(manifest):
        raise UserError(f"{file}: corrupt (its checksum does not match). {_REPAIR}")
    return manifest


def compute_checksum(manifest: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of all keys of a manifest except "sha256"."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def compute_starts(counts: Iterable[int]) -> np.ndarray:
    """Return the cumulative sums of counts, from 0: int64 [parts + 1].

    Args:
        counts: the number of items in each part.
    """
    return np.concatenate([[0], np.cumsum(list(counts), dtype=np.int64)])


def locate_item(starts: np.ndarray, index: int) -> tuple[int, int]:
    """Return the index of the part that contains item `index`, and the item's index in that part.

    Args:
        starts: the offsets of the parts, from `compute_starts`.

    Raises:
        IndexError: there is no such item.
    """
    if not 0 <= index < starts[-1]:
        raise IndexError(f"index {index} out of range (0 to {starts[-1] - 1})")
    part = int(np.searchsorted(starts, index, side="right")) - 1
    return part, int(index - starts[part])
