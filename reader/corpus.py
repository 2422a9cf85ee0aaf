"""A corpus on disk, as `pretrain.build_corpus` writes it, read through memory maps (docs/corpus.md).

    manifest.json                          languages, pairs, counts, vocabulary digest, SHA-256 of each file
    mono/<language>/<split>-00000.*.npy    split: train or held_out
    parallel/<a>-<b>/<split>-00000.*.npy   a < b in alphabetical order
    pieces/<language>.npy                  int64 [V], how often each piece occurs in the language's train text
    piece.model, vocab.txt                 the vocabulary: Tokenizer.from_folder(corpus)

A shard has these files: `ids` (uint16 or uint32 [tokens], no special tokens), `lines` (uint32 [lines + 1],
where each line begins in `ids`) and, for monolingual text, `documents` (uint32 [documents + 1], where each
document begins in `lines`). Pair i of a parallel shard is its lines 2i (language a) and 2i + 1 (language b).
Corpora of earlier versions also have `sums` files, which are not read.
"""

import hashlib
import json
import os
import re
import tokenize
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import read_json, sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "held_out")
_MAX_SIZE = 1 << 48  # tokens, lines, bytes
# Names of languages, shards and files. File systems allow 255 bytes, and no lone surrogates.
_LANGUAGE = r"(?!\.\.?$)[^-/\0\ud800-\udfff]{1,29}"
_LANGUAGES, _PAIR = re.compile(_LANGUAGE), re.compile(f"{_LANGUAGE}-{_LANGUAGE}")
_SHARD_NAME = re.compile(r"[\w-]{1,60}")
_FILE = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[^\0\ud800-\udfff]+")
_SHARD = {"name": _SHARD_NAME, "tokens": int, "lines": int, "index": str}
# What a reader needs of a manifest. A pattern as a key stands for all keys that are there.
_FORM = {
    "vocabulary": {"digest": str, "size": int},
    "files": {_FILE: {"bytes": int, "sha256": str}},
    "mono": {_LANGUAGES: {split: {"shards": [_SHARD | {"documents": int}]} for split in SPLITS}},
    "parallel": {_PAIR: {split: {"shards": [_SHARD]} for split in SPLITS}},
    "pieces": {_LANGUAGES: str},
}
_REPAIR = "put back a good copy, or delete the corpus and build it again"
# What numpy raises for a bad .npy header, which is the Python text of a dict.
_BAD_HEADER = (ValueError, TypeError, LookupError, EOFError, SyntaxError, OverflowError, RecursionError,
               MemoryError, tokenize.TokenError)  # fmt: skip


class Corpus:
    """A corpus folder. Can be pickled: the other process opens the folder again.

    Args:
        path: the folder.
        expected_digest: `Tokenizer.digest` of the vocabulary in use; None accepts any.
        verify: compare the SHA-256 of every file with the manifest, not only its size.

    Attributes:
        manifest: the manifest as a dict.
        mono: language -> `CorpusText` of its train documents.
        parallel: (a, b), a < b -> `Pairs` of its train pairs.
        held_out_mono, held_out_parallel: the same for the held-out part; streams without one are missing.
        vocab_size: V.

    Raises:
        UserError: there is no finished corpus, it has another format or vocabulary, or a file is missing, cut
            short or altered.
    """

    def __init__(self, path: str | os.PathLike, expected_digest: str | None = None, verify: bool = False):
        self.path = Path(path)
        self._expected_digest = expected_digest
        self.manifest = read_manifest(self.path)
        vocabulary = self.manifest["vocabulary"]
        if expected_digest is not None and vocabulary["digest"] != expected_digest:
            raise UserError(
                f"{self.path}: its shards were made with another vocabulary ({vocabulary['digest'][:12]}, "
                f"this one is {expected_digest[:12]}); use the vocabulary of the corpus, or build a corpus "
                "with this one"
            )
        check_files(self.path, self.manifest["files"], checksums=verify)
        self.vocab_size: int = vocabulary["size"]
        self.mono, self.held_out_mono = (self._streams("mono", split, CorpusText) for split in SPLITS)
        pairs = (self._streams("parallel", split, Pairs) for split in SPLITS)
        self.parallel, self.held_out_parallel = (
            {tuple(name.split("-")): stream for name, stream in streams.items()} for streams in pairs
        )

    def __reduce__(self):
        return type(self), (self.path, self._expected_digest)

    @property
    def languages(self) -> list[str]:
        """Every language with any text, alone or in pairs, in alphabetical order."""
        return sorted(self.manifest["pieces"])

    @property
    def digest(self) -> str:
        """A digest of the vocabulary and of all files: equal for copies of one corpus in different places."""
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
        check_files(self.path, {name: self.manifest["files"][name]}, checksums=True)
        counts = np.asarray(map_array(self.path / name))
        if len(counts) != self.vocab_size:
            raise UserError(f"{self.path / name}: {len(counts)} counts for a vocabulary of {self.vocab_size}")
        return counts

    def _streams(self, kind: str, split: str, cls: type) -> dict[str, Any]:
        return {
            name: cls(self.path / kind / name, stream[split]["shards"])
            for name, stream in self.manifest[kind].items()
            if stream[split]["shards"]
        }


class _Shards:
    """Several shards, read as one sequence of lines."""

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]]):
        self.folder, self.shards = folder, shards
        self.num_tokens = sum(shard["tokens"] for shard in shards)
        self._first_line = starts(shard["lines"] for shard in shards)
        self._open: dict[tuple[int, str], np.ndarray] = {}
        self.num_lines = int(self._first_line[-1])

    def line_offsets(self, shard: int) -> np.ndarray:
        """Where each line of a shard begins in its ids, and where the last one ends. uint32 [lines + 1]."""
        return self._offsets(shard, "lines", self.shards[shard]["tokens"])

    def line(self, number: int) -> np.ndarray:
        """The ids of one line. int64 [n]."""
        shard, line = locate(self._first_line, number)
        return self._lines(shard, line, 1, f"line {line}")[0]

    def read_ids(self, shard: int, start: int, end: int, record: str) -> np.ndarray:
        """Ids start .. end - 1 of a shard. int64 [n]. UserError: there are no such ids; it names `record`."""
        return self._read(shard, "ids", int(start), int(end), record).astype(np.int64)

    def _lines(self, shard: int, first: int, count: int, record: str) -> list[np.ndarray]:
        """The ids of consecutive lines, each int64 [n]."""
        bounds = self._read(shard, "lines", first, first + count + 1, record).tolist()
        whole = self.read_ids(shard, bounds[0], bounds[-1], record)
        if any(start > end for start, end in pairwise(bounds)):
            raise self._damaged(shard, "lines", f"{record}: a line would end before it begins")
        return [whole[start - bounds[0] : end - bounds[0]] for start, end in pairwise(bounds)]

    def _read(self, shard: int, kind: str, start: int, end: int, record: str) -> np.ndarray:
        array = self._array(shard, kind)
        if not 0 <= start <= end <= len(array):
            raise self._damaged(shard, kind, f"{record}: elements {start} to {end} of {len(array)}")
        return array[start:end]

    def _offsets(self, shard: int, kind: str, end: int) -> np.ndarray:
        offsets = self._array(shard, kind)
        if not len(offsets) or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
            raise self._damaged(shard, kind, f"its numbers do not ascend to {end}")
        return offsets

    def _array(self, shard: int, kind: str) -> np.ndarray:
        if (shard, kind) not in self._open:
            # A plain view: the indexing of np.memmap itself is several times slower.
            file = self.folder / f"{self.shards[shard]['name']}.{kind}.npy"
            self._open[shard, kind] = map_array(file).view(np.ndarray)
        return self._open[shard, kind]

    def _damaged(self, shard: int, kind: str, fault: str) -> UserError:
        file = self.folder / f"{self.shards[shard]['name']}.{kind}.npy"
        return UserError(f"{file}: {fault}: the file is damaged; {_REPAIR}")


class CorpusText(_Shards):
    """Documents of one language: `len(text)` of them, `text[i]` the lines of document i, each int64 [n]."""

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]]):
        super().__init__(folder, shards)
        self._first_document = starts(shard["documents"] for shard in shards)

    def __len__(self) -> int:
        return int(self._first_document[-1])

    def __getitem__(self, number: int) -> list[np.ndarray]:
        shard, document = locate(self._first_document, number)
        record = f"document {document}"
        first, last = self._read(shard, "documents", document, document + 2, record).tolist()
        if last < first:
            raise self._damaged(shard, "documents", f"{record} would end before it begins")
        return self._lines(shard, first, last - first, record)

    def document_offsets(self, shard: int) -> np.ndarray:
        """Where each document of a shard begins in its lines, and the last ends. uint32 [documents + 1]."""
        return self._offsets(shard, "documents", self.shards[shard]["lines"])


class Pairs(_Shards):
    """Pairs of two languages a < b: `len(pairs)` of them, `pairs[i]` the ids of both sides, int64 [n]."""

    def __len__(self) -> int:
        return self.num_lines // 2

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shard, line = locate(self._first_line, 2 * number)
        first, second = self._lines(shard, line, 2, f"pair {line // 2}")
        return first, second

    def lengths(self) -> np.ndarray:
        """Tokens of both sides of every pair. int64 [pairs, 2]."""
        parts = [np.diff(self.line_offsets(shard).astype(np.int64)) for shard in range(len(self.shards))]
        return np.concatenate(parts).reshape(-1, 2)


def map_array(path: Path, repair: str = _REPAIR) -> np.memmap:
    """A one-dimensional .npy file of integers, memory-mapped.

    Raises:
        UserError: the file is missing, or holds no such array; says how to repair it.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"{path}: missing ({error.strerror}); {repair}") from error
    except _BAD_HEADER as error:
        raise UserError(f"{path}: damaged, no array ({error}); {repair}") from error
    if mapped.ndim != 1 or mapped.dtype.kind not in "ui":
        raise UserError(f"{path}: damaged, not a list of numbers; {repair}")
    return mapped


def check_files(path: Path, files: Mapping[str, Any], checksums: bool) -> None:
    """Compare files with their entries in the manifest, by size and, with `checksums`, by SHA-256.

    Raises:
        UserError: a file is missing, cut short or altered.
    """
    repair = f"the corpus is damaged; {_REPAIR}"
    for name, expected in files.items():
        file = path / name
        try:
            size = file.stat().st_size
        except OSError as error:
            raise UserError(f"{file}: missing ({error.strerror}); {repair}") from error
        if size != expected["bytes"]:
            raise UserError(
                f"{file}: {size} bytes where the manifest says {expected['bytes']}: cut short or altered; "
                f"{repair}"
            )
        if checksums and sha256_of(file) != expected["sha256"]:
            raise UserError(f"{file}: its SHA-256 is not the manifest's: altered; {repair}")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a corpus folder.

    Raises:
        UserError: the folder has no manifest, or it is not JSON, has another format version, or lacks a key
            that a reader needs.
    """
    file, again = path / MANIFEST, "build the corpus again"
    if not file.is_file():
        raise UserError(
            f"{path}: no finished corpus there (no {MANIFEST}); build it with python -m "
            "pretrain.build_corpus, or run that again if it was stopped"
        )
    manifest = read_json(file, again)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(f"{file}: format version {found}, this program reads {FORMAT}; {again}")
    try:
        _check_form(manifest, _FORM, "")
        for name, stream in manifest["parallel"].items():
            if any(shard["lines"] % 2 for split in SPLITS for shard in stream[split]["shards"]):
                raise ValueError(f"parallel.{name}: an odd number of lines in pairs")
        for language, name in manifest["pieces"].items():
            if name not in manifest["files"]:
                raise ValueError(f"pieces.{language}: a file that is not among the files")
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}; {_REPAIR}") from error
    return manifest


def _check_form(value: Any, form: Any, place: str) -> None:
    """Check keys and values against a form such as `_FORM`. ValueError: the first fault, with its place."""
    kind = str if isinstance(form, re.Pattern) else form if isinstance(form, type) else type(form)
    if type(value) is not kind or (kind is int and not 0 <= value < _MAX_SIZE):
        raise ValueError(f"{place}: not {'a size' if kind is int else f'of type {kind.__name__}'}")
    if isinstance(form, re.Pattern) and not form.fullmatch(value):
        raise ValueError(f"{place}: not a name in a corpus")
    if isinstance(form, list):
        for number, item in enumerate(value):
            _check_form(item, form[0], f"{place}[{number}]")
    elif isinstance(form, dict):
        for key, inner in form.items():
            names = value if isinstance(key, re.Pattern) else [key]
            for name in names:
                where = f"{place}.{name}".lstrip(".")
                if name not in value:
                    raise ValueError(f"{where}: missing")
                if isinstance(key, re.Pattern):
                    _check_form(name, key, where)
                _check_form(value[name], inner, where)


def starts(counts: Iterable[int]) -> np.ndarray:
    """Where each of several parts begins, and the last one ends. int64 [parts + 1]."""
    return np.concatenate([[0], np.cumsum(list(counts), dtype=np.int64)])


def locate(starts: np.ndarray, number: int) -> tuple[int, int]:
    """The part (from `starts`) that holds an item, and the item's number in that part."""
    if not 0 <= number < starts[-1]:
        raise IndexError(f"{number} is not in 0 .. {starts[-1] - 1}")
    shard = int(np.searchsorted(starts, number, side="right")) - 1
    return shard, int(number - starts[shard])
