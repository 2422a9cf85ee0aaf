"""Texts that a corpus is built from, and the corpus that comes of them."""

import bz2
import functools
import gzip
import itertools
import json
import lzma
import shutil
import tempfile
from pathlib import Path

import numpy as np

from pretrain.corpus.inputs import TextSource
from pretrain.corpus.lines import TextFormat, read_lines
from pretrain.corpus.units import read_units
from reader.corpus import Corpus
from tests.fuzz.attempt import Target, each
from tests.fuzz.edits import json_edit
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from utils.files import sha256_of

TEXT = "\n".join(sentences(40)) + "\n\nx\n\n" + "नमस्ते दुनिया\r\n"
PAIRS = "".join(f"{a}\t{b}\n" for a, b in zip(sentences(30, 1), sentences(30, 2)))
TMX = """<?xml version="1.0"?><tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en"><seg>One <ph>x</ph>&amp; two</seg></tuv>
<tuv xml:lang="de-AT"><seg>Eins</seg></tuv></tu>
<tu tuid="2"><tuv lang="EN-us"><seg>a</seg></tuv><tuv lang="fr"><seg>b</seg></tuv></tu>
</body></tmx>
"""
TMX_WORDS = (b"<tu>", b"</tu>", b"<tuv>", b"</tuv>", b"<seg>", b"</seg>", b"<ph>", b"<hi>", b"&lol;", b"&#0;",
             b"<![CDATA[", b"<!--", b"<!DOCTYPE x>", b"<?xml?>", b'xml:lang="de"')  # fmt: skip


MOST_UNITS = 2000


def _read(path: Path, form: str, languages: tuple[str, ...], beside: str | None = None) -> None:
    """All lines of a source, in small units, in both ways of documents and of bad bytes."""
    paths = (str(path),) if beside is None else (str(path), str(path.with_name(beside)))
    source = TextSource(paths, form, languages)

    def read(documents: str, columns: tuple[int, ...], skip: bool) -> None:
        units = read_units(0, 0, source, 512, documents == "blank")
        # A small archive may hold a thousand times its size, which is read in units, however long that takes.
        for unit in itertools.islice(units, MOST_UNITS):
            read_lines(
                unit, source, tuple(sorted(languages)), TextFormat(documents, columns, skip_bad_utf8=skip)
            )

    each(lambda: read("line", (), False), lambda: read("blank", (2, 1), True))


def _text(path: Path) -> None:
    _read(path, "text", ("en",))


def _aligned_seeds(folder: Path) -> list[bytes]:
    (folder / "x.de").write_text("".join(f"{line}\n" for line in sentences(30, 2)))
    return ["".join(f"{line}\n" for line in sentences(30, 1)).encode(), b"a\n" * 30, "\u2028\n".encode() * 30]


def _zstandard(data: bytes) -> bytes:
    import zstandard

    return zstandard.compress(data)


@functools.cache
def _built() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    lines = [part for line in sentences(30) for part in (line, "")[: 1 + len(line) % 2]]
    mono, parallel = write_lines(folder / "en", lines), write_lines(folder / "x.tsv", [PAIRS[:-1]])
    build(
        folder / "corpus", train_pieces(folder / "piece.model"), documents="blank", held_out=2,
        shard_mib=0.001, mono={"en": mono}, parallel={"de-en": parallel},
    )  # fmt: skip
    return folder / "corpus"


def _corpus_seeds(file: str):
    def make(folder: Path) -> list[bytes]:
        shutil.copytree(_built(), folder / "corpus", dirs_exist_ok=True)
        return [(folder / file).read_bytes()]

    return make


def _corpus(path: Path, folder: Path) -> None:
    """Everything in a corpus whose manifest has the size of the file at `path`."""
    if path.name != "manifest.json":
        manifest = json.loads((_built() / "manifest.json").read_text())
        manifest["files"][str(path.relative_to(folder))] = {
            "bytes": path.stat().st_size, "sha256": sha256_of(path)
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
    corpus = Corpus(folder)
    for texts in (*corpus.mono.values(), *corpus.held_out_mono.values()):
        for number in range(len(texts)):
            texts[number]
        for number in range(texts.num_lines):
            texts.line(number)
    for pairs in (*corpus.parallel.values(), *corpus.held_out_parallel.values()):
        for number in range(len(pairs)):
            pairs[number]
        pairs.lengths()
    for language in corpus.languages:
        corpus.piece_counts(language)


def _shard_edit(rng, data: bytes) -> bytes:
    """One number of an array, or its header's shape or type."""
    if rng.random() < 0.5:
        kinds = (b"<u2", b"<u4", b"<i8", b"|O", b"<f4", b">u4", b"<u1", b"<m8", b"<U4")
        return data.replace(
            rng.choice((b"<u4", b"<u2", b"False", b", )")), rng.choice((*kinds, b"True ", b", 1)")), 1
        )
    array = np.frombuffer(data[128:], np.uint8).copy()
    if array.size >= 4:
        place = rng.randrange(array.size // 4) * 4
        array[place : place + 4] = list(rng.choice((0, 1, 1 << 16, (1 << 32) - 1)).to_bytes(4, "little"))
    return data[:128] + array.tobytes()


def _shard(name: str, edit=_shard_edit) -> Target:
    return Target(
        f"corpus/{name}", _corpus_seeds(f"corpus/{name}"), lambda path: _corpus(path, _root(path)), edit
    )


def _root(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.name == "corpus")


def _texts(*texts: str):
    return lambda folder: [text.encode() for text in texts]


TARGETS = {
    "text": Target("en.txt", _texts(TEXT, "one line"), _text),
    "text_gz": Target(
        "en.gz", lambda _: [gzip.compress(TEXT.encode()) * 2, gzip.compress(b"x\n" * 5000)], _text
    ),
    "text_bz2": Target("en.bz2", lambda _: [bz2.compress(TEXT.encode()), bz2.compress(b"x\n" * 9000)], _text),
    "text_xz": Target("en.xz", lambda _: [lzma.compress(TEXT.encode()), lzma.compress(b"x\n" * 9000)], _text),
    "text_zst": Target("en.zst", lambda _: [_zstandard(TEXT.encode()), _zstandard(b"x\n" * 9000)], _text),
    "text_tsv": Target("x.tsv", _texts(PAIRS, "a\tb\r\n\n"), lambda path: _read(path, "tsv", ("en", "de"))),
    "text_aligned": Target("x.en", _aligned_seeds, lambda path: _read(path, "aligned", ("en", "de"), "x.de")),
    "text_tmx": Target(
        "x.tmx",
        lambda _: [TMX.encode(), TMX.encode("utf-16"), TMX.replace("\n", "\r\n").encode("utf-8-sig")],
        lambda path: _read(path, "tmx", ("en", "de")),
        words=TMX_WORDS,
    ),
    "corpus_index": _shard("manifest.json", json_edit),
    "corpus_ids": _shard("mono/en/train-00000.ids.npy"),
    "corpus_lines": _shard("parallel/de-en/train-00000.lines.npy"),
    "corpus_documents": _shard("mono/en/train-00000.documents.npy"),
    "corpus_pieces": _shard("pieces/en.npy"),
}
