"""What a corpus manifest must hold for a reader of the corpus; everything else in it is for people."""

import hashlib
import itertools
import json
import os
import tokenize
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import read_json, sha256_of

SPLITS = ("train", "held_out")
_MOST = 1 << 48  # tokens, lines, bytes
_LONGEST_NAME = 60  # characters, of a stream or a shard: file systems take 255 bytes


def fault_of(manifest: dict) -> str | None:
    """What is wrong with a manifest, beginning with the key; None: nothing."""
    try:
        vocabulary = _get(manifest, "vocabulary", dict)
        _get(vocabulary, "digest", str, "vocabulary")
        _get(vocabulary, "size", int, "vocabulary")
        files = _get(manifest, "files", dict)
        for name in files:
            entry = _get(files, name, dict, "files")
            _get(entry, "bytes", int, f"files.{name}")
            _get(entry, "sha256", str, f"files.{name}")
            if not _is_within(name):
                raise ValueError(f"files.{name}: no file of the corpus")
        for kind in ("mono", "parallel"):
            streams = _get(manifest, kind, dict)
            for name in streams:
                _check_stream(_get(streams, name, dict, kind), f"{kind}.{name}", paired=kind == "parallel")
                languages = len(name.split("-"))
                fits = _is_within(name) and "/" not in name and len(name) <= _LONGEST_NAME
                if languages != (2 if kind == "parallel" else 1) or not fits:
                    raise ValueError(f"{kind}.{name}: the name of no language or pair")
        pieces = _get(manifest, "pieces", dict)
        for language in pieces:
            if _get(pieces, language, str, "pieces") not in files:
                raise ValueError(f"pieces.{language}: a file that is not among the files")
    except ValueError as error:
        return str(error)
    return None


def _is_within(name: str) -> bool:
    """Whether it may be a file's name below a folder; half a character has no form in bytes."""
    half = any("\ud800" <= character <= "\udfff" for character in name)
    return not (half or "\0" in name or ".." in name.split("/") or name.startswith("/"))


def _check_stream(stream: dict, place: str, paired: bool) -> None:
    for split in SPLITS:
        shards = _get(_get(stream, split, dict, place), "shards", list, f"{place}.{split}")
        for number, shard in enumerate(shards):
            where = f"{place}.{split}.shards[{number}]"
            if not isinstance(shard, dict):
                raise ValueError(f"{where}: no object")
            name = _get(shard, "name", str, where)
            if not name.replace("_", "").replace("-", "").isalnum() or len(name) > _LONGEST_NAME:
                raise ValueError(f"{where}.name: the name of no shard")
            for count in ("tokens", "lines", *([] if paired else ["documents"])):
                _get(shard, count, int, where)
            if paired and shard["lines"] % 2:
                raise ValueError(f"{where}.lines: {shard['lines']}, an odd number of lines in pairs")


def _get(holder: dict, key: str, kind: type, place: str = "") -> Any:
    """ValueError: no such key, or its value is of another type, or a number below 0 or beyond all bounds."""
    where = f"{place}.{key}" if place else key
    if key not in holder:
        raise ValueError(f"{where}: missing")
    value = holder[key]
    if type(value) is not kind or (kind is int and not 0 <= value < _MOST):
        raise ValueError(f"{where}: not {'a size' if kind is int else f'of type {kind.__name__}'}")
    return value


# A .npy file read through a memory map, whose pages are compared with their CRC-32 whenever they are read.
#
# Checksums of whole files are compared before a run, if at all: who reads a page here and there of terabytes
# cannot. A page is what a disk reads anyway, and its CRC-32 costs a few microseconds.

PAGE = 4096  # bytes
# What numpy makes of a header, which is Python's text of a dict, when it is none.
_NO_HEADER = (ValueError, TypeError, LookupError, EOFError, SyntaxError, OverflowError, RecursionError,
              MemoryError, tokenize.TokenError)  # fmt: skip
_REMEDY = "put back a good copy, or delete the corpus and build it again; data.verify true checks all files"


class PageSums:
    """The CRC-32 of every page of one file after another, fed in pieces as to a hashlib object."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._crc, self._filled = 0, 0

    def update(self, data: bytes | np.ndarray) -> None:
        """More bytes of the file."""
        rest = memoryview(data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else data)
        while len(rest):
            part, rest = rest[: PAGE - self._filled], rest[PAGE - self._filled :]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            if self._filled == PAGE:
                self.end_file()

    def end_file(self) -> None:
        """The next bytes are those of another file, or page."""
        if self._filled:
            self._sums.append(self._crc)
            self._crc, self._filled = 0, 0

    def array(self) -> np.ndarray:
        """uint32 [pages]."""
        return np.array(self._sums, np.uint32)


class CheckedArray:
    """A one-dimensional .npy file.

    Args:
        path: the file.
        sums: uint32, of its pages; None: nothing but bounds can be checked.
        remedy: what to do about a damaged file, for the error.

    Attributes:
        array: the whole of it, memory-mapped and unchecked.

    Raises:
        UserError: the file is missing, or no such array.
    """

    def __init__(self, path: Path, sums: np.ndarray | None, remedy: str = _REMEDY):
        self.path, self.sums, self.remedy = path, sums, remedy
        mapped = map_array(path)
        # A plain view of the map: np.memmap's own indexing costs several times as much.
        self.array = mapped.view(np.ndarray)
        self._begin, self._width = mapped.offset, mapped.itemsize  # bytes
        self._bytes = memoryview(np.memmap(path, np.uint8, "r")) if sums is not None else None

    def read(self, start: int, end: int, record: str) -> np.ndarray:
        """Elements start .. end - 1, as they were written.

        Args:
            record: what they are part of ("document 7"), for the error.

        Raises:
            UserError: they are not in the file, or the file was altered; names file and record.
        """
        if not 0 <= start <= end <= len(self.array):
            raise self._damaged(f"{record} would be elements {start} to {end} of {len(self.array)}")
        if self.sums is not None:
            first = (self._begin + start * self._width) // PAGE
            last = (self._begin + end * self._width - 1) // PAGE
            for page in range(first, last + 1):
                if zlib.crc32(self._bytes[page * PAGE : (page + 1) * PAGE]) != self.sums[page]:
                    raise self._damaged(
                        f"{record}: bytes {page * PAGE} to {min((page + 1) * PAGE, len(self._bytes)) - 1} "
                        "differ from their checksum"
                    )
        return self.array[start:end]

    def read_all(self, record: str) -> np.ndarray:
        """The whole array, checked."""
        return self.read(0, len(self.array), record)

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}: the file is damaged; {self.remedy}")


def map_array(path: Path) -> np.memmap:
    """A one-dimensional .npy file, memory-mapped.

    Raises:
        UserError: the file is missing, or no such array.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(
            f"{path}: missing ({error.strerror}); put it back, or build the corpus again"
        ) from error
    except _NO_HEADER as error:
        raise UserError(f"{path}: damaged, no array ({error}); put back a good copy") from error
    if mapped.ndim != 1 or mapped.dtype.kind not in "ui":
        raise UserError(f"{path}: damaged, not a list of numbers; put back a good copy")
    return mapped


def pages(path: str | os.PathLike) -> int:
    """How many pages a file has, the last of which may be a part of one."""
    return -(-os.stat(path).st_size // PAGE)


# A corpus on disk, as pretrain.build_corpus writes it, read through memory maps (docs/corpus.md).
#
#     manifest.json                          languages, pairs, counts, vocabulary digest, checksum of each
# file
#     mono/<language>/<split>-00000.*.npy    split: train or held_out
#     parallel/<a>-<b>/<split>-00000.*.npy   a < b in alphabetical order
#     pieces/<language>.npy                  int64 [V], how often each piece occurs in the language's train
# text
#     piece.model, vocab.txt                 the vocabulary: Tokenizer.from_folder(corpus)
#
# A shard is `ids` (uint16 or uint32 [tokens], no special tokens), `lines` (uint32 [lines + 1], where each
# line
# begins in `ids`) and, for monolingual text, `documents` (uint32 [documents + 1], where each document
# begins in
# `lines`). Pair i of a parallel shard is its lines 2i (language a) and 2i + 1 (language b). `sums`
# (uint32) is
# the CRC-32 of each page of these files, one file after the other in this order; every page that is read is
# compared with it. Corpora of an earlier build have no `sums` and are read without.

FORMAT = 1
MANIFEST = "manifest.json"


class Corpus:
    """A corpus folder. Can be pickled: another process opens it again.

    Args:
        path: the folder.
        expected_digest: `Tokenizer.digest` of the vocabulary in use; None: any.
        verify: read every file and compare its SHA-256, not only its size.

    Attributes:
        manifest: the manifest as a dict.
        mono: language -> `Text` of its train documents.
        parallel: (a, b), a < b -> `Pairs` of its train pairs.
        held_out_mono, held_out_parallel: the same for the part that was set apart; a stream without one is
            missing.
        vocab_size: V.

    Raises:
        UserError: no corpus there, an unfinished one, one of another format or vocabulary, a file that is
            missing, cut short or altered.
    """

    def __init__(self, path: str | os.PathLike, expected_digest: str | None = None, verify: bool = False):
        self.path = Path(path)
        self._expected_digest = expected_digest
        self.manifest = read_manifest(self.path)
        vocabulary = self.manifest["vocabulary"]
        if expected_digest is not None and vocabulary["digest"] != expected_digest:
            raise UserError(
                f"{self.path}: its shards were made with another vocabulary ({vocabulary['digest'][:12]}, "
                "this one is "
                f"{expected_digest[:12]}); give the vocabulary of the corpus, or build a corpus with this one"
            )
        check_files(self.path, self.manifest, checksums=verify)
        self.vocab_size: int = vocabulary["size"]
        self.mono, self.held_out_mono = (self._texts(split) for split in SPLITS)
        self.parallel, self.held_out_parallel = (self._pairs(split) for split in SPLITS)

    def __reduce__(self):
        return type(self), (self.path, self._expected_digest)

    @property
    def languages(self) -> list[str]:
        """Every language with any text, alone or in pairs, in alphabetical order."""
        return sorted(self.manifest["pieces"])

    @property
    def digest(self) -> str:
        """Of every file by name, size and checksum, and of the vocabulary: equal text, wherever it lies."""
        content = {"files": self.manifest["files"], "vocabulary": self.manifest["vocabulary"]["digest"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def piece_counts(self, language: str) -> np.ndarray:
        """How often each piece occurs in the language's train text, alone and in pairs. int64 [V].

        Raises:
            UserError: the corpus has no such language, or the file was altered.
        """
        if language not in self.manifest["pieces"]:
            raise UserError(f"{self.path}: no language '{language}'; it has {', '.join(self.languages)}")
        name = self.manifest["pieces"][language]
        _check_file(self.path, name, self.manifest["files"][name], checksum=True)
        counts = np.asarray(map_array(self.path / name))
        if len(counts) != self.vocab_size:
            raise UserError(f"{self.path / name}: {len(counts)} counts for a vocabulary of {self.vocab_size}")
        return counts

    def _texts(self, split: str) -> dict[str, "Text"]:
        return {
            language: Text(self.path / "mono" / language, stream[split]["shards"])
            for language, stream in self.manifest["mono"].items()
            if stream[split]["shards"]
        }

    def _pairs(self, split: str) -> dict[tuple[str, str], "Pairs"]:
        return {
            tuple(pair.split("-")): Pairs(self.path / "parallel" / pair, stream[split]["shards"])
            for pair, stream in self.manifest["parallel"].items()
            if stream[split]["shards"]
        }


class _Shards:
    """Shards in order as one run of lines."""

    kinds = ("ids", "lines")

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]]):
        self.folder, self.shards = folder, shards
        self.num_tokens = sum(shard["tokens"] for shard in shards)
        self._first_line = _starts(shard["lines"] for shard in shards)
        self._open: dict[int, dict[str, CheckedArray]] = {}
        self.num_lines = int(self._first_line[-1])

    def ids(self, shard: int) -> np.ndarray:
        """All ids of a shard, memory-mapped and unchecked. uint16 or uint32 [tokens]."""
        return self._files(shard)["ids"].array

    def line_offsets(self, shard: int) -> np.ndarray:
        """Where each line of a shard begins in its ids, and where the last one ends. uint32 [lines + 1]."""
        return self._files(shard)["lines"].read_all("its lines")

    def line(self, number: int) -> np.ndarray:
        """The ids of one line. int64 [n]."""
        shard, line = _locate(self._first_line, number)
        return self._lines(shard, line, 1, f"line {line}")[0]

    def read_ids(self, shard: int, start: int, end: int, record: str) -> np.ndarray:
        """A part of a shard's ids, checked; `record` is what it belongs to, for the error. int64 [n]."""
        return self._files(shard)["ids"].read(int(start), int(end), record).astype(np.int64)

    def _lines(self, shard: int, first: int, count: int, record: str) -> list[np.ndarray]:
        """The ids of lines that follow each other, each int64 [n]."""
        bounds = self._files(shard)["lines"].read(first, first + count + 1, record).tolist()
        whole = self.read_ids(shard, bounds[0], bounds[-1], record)
        if any(start > end for start, end in itertools.pairwise(bounds)):
            file = self._files(shard)["lines"].path
            raise UserError(f"{file}: {record}: a line would end before it begins: the file is damaged")
        return [whole[start - bounds[0] : end - bounds[0]] for start, end in itertools.pairwise(bounds)]

    def _files(self, shard: int) -> dict[str, CheckedArray]:
        if shard not in self._open:
            name = self.shards[shard]["name"]
            paths = {kind: self.folder / f"{name}.{kind}.npy" for kind in self.kinds}
            sums = _sums_of(self.folder / f"{name}.sums.npy", paths)
            self._open[shard] = {kind: CheckedArray(path, sums[kind]) for kind, path in paths.items()}
        return self._open[shard]


class Text(_Shards):
    """Documents of one language: `len(text)` of them, `text[i]` the lines of document i, each int64 [n]."""

    kinds = ("ids", "lines", "documents")

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]]):
        super().__init__(folder, shards)
        self._first_document = _starts(shard["documents"] for shard in shards)

    def __len__(self) -> int:
        return int(self._first_document[-1])

    def __getitem__(self, number: int) -> list[np.ndarray]:
        shard, document = _locate(self._first_document, number)
        record = f"document {document}"
        first, last = self._files(shard)["documents"].read(document, document + 2, record).tolist()
        return self._lines(shard, first, last - first, record)

    def document_offsets(self, shard: int) -> np.ndarray:
        """Where each document of a shard begins in its lines, and the last ends. uint32 [documents + 1]."""
        return self._files(shard)["documents"].read_all("its documents")


class Pairs(_Shards):
    """Pairs of two languages a < b: `len(pairs)` of them, `pairs[i]` the ids of both sides, int64 [n]."""

    def __len__(self) -> int:
        return self.num_lines // 2

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shard, line = _locate(self._first_line, 2 * number)
        first, second = self._lines(shard, line, 2, f"pair {line // 2}")
        return first, second

    def lengths(self) -> np.ndarray:
        """Tokens of both sides of every pair. int64 [pairs, 2]."""
        parts = [np.diff(self.line_offsets(shard).astype(np.int64)) for shard in range(len(self.shards))]
        return np.concatenate(parts).reshape(-1, 2)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a corpus folder.

    Raises:
        UserError: none there, not JSON, of another format version, or without what a reader needs.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{path}: no finished corpus there (no {MANIFEST}); build it with python -m "
            "pretrain.build_corpus, or run that again if it was stopped"
        )
    manifest = read_json(file, "build the corpus again")
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{file}: format version {found}, this program reads {FORMAT}; build the corpus again with this "
            "program"
        )
    if fault := fault_of(manifest):
        raise UserError(f"{file}: damaged: {fault}; put back a good copy, or build the corpus again")
    return manifest


def check_files(path: Path, manifest: Mapping[str, Any], checksums: bool) -> None:
    """Compare every file with the manifest, by size, and by SHA-256 where `checksums`.

    Raises:
        UserError: a file is missing, cut short or altered.
    """
    for name, expected in manifest["files"].items():
        _check_file(path, name, expected, checksums)


def _check_file(path: Path, name: str, expected: Mapping[str, Any], checksum: bool) -> None:
    file = path / name
    again = "the corpus is damaged; put back a good copy, or delete the folder and build it again"
    try:
        size = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: missing ({error.strerror}); {again}") from error
    if size != expected["bytes"]:
        raise UserError(
            f"{file}: {size} bytes where the manifest says {expected['bytes']}: cut short or altered; {again}"
        )
    if checksum and sha256_of(file) != expected["sha256"]:
        raise UserError(f"{file}: its SHA-256 is not the manifest's: altered; {again}")


def _sums_of(file: Path, paths: Mapping[str, Path]) -> dict[str, np.ndarray | None]:
    """The sums of each file's pages; None: the corpus is of a build that wrote none."""
    if not file.is_file():
        return dict.fromkeys(paths)
    sums, first = map_array(file).view(np.ndarray), 0
    found: dict[str, np.ndarray | None] = {}
    for kind, path in paths.items():
        if not path.is_file():
            raise UserError(f"{path}: missing; put it back, or build the corpus again")
        found[kind] = sums[first : first + pages(path)]
        first += pages(path)
    if first != len(sums):
        raise UserError(f"{file}: {len(sums)} checksums for {first} pages: damaged; put back good copies")
    return found


def _starts(counts) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(counts), dtype=np.int64)])


def _locate(starts: np.ndarray, number: int) -> tuple[int, int]:
    """Shard and number within it."""
    if not 0 <= number < starts[-1]:
        raise IndexError(f"{number} is not in 0 .. {starts[-1] - 1}")
    shard = int(np.searchsorted(starts, number, side="right")) - 1
    return shard, int(number - starts[shard])
