"""A page that was altered is noticed when it is read, and the error names the file and the record."""

import json

import numpy as np
import pytest

from reader.blocks import Blocks
from reader.corpus import MANIFEST, PAGE, CheckedArray, Corpus, PageSums, pages
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from utils.errors import UserError


def flip(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def write(path, values, dtype):
    np.save(path, np.asarray(values, dtype))
    sums = PageSums()
    content = path.read_bytes()
    for start in range(0, len(content), 1000):  # in pieces that fit no page
        sums.update(content[start : start + 1000])
    sums.end_file()
    assert len(sums.array()) == pages(path)
    return sums.array()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_every_bit_of_what_is_read_is_checked(tmp_path, dtype):
    path, count = tmp_path / "a.npy", 6000
    sums = write(path, np.arange(count), dtype)
    width, header = np.dtype(dtype).itemsize, path.stat().st_size - count * np.dtype(dtype).itemsize
    draw = np.random.default_rng(0)
    for _ in range(200):
        start, end = sorted(draw.integers(0, count + 1, 2))
        assert (CheckedArray(path, sums).read(start, end, "x") == np.arange(start, end)).all()
        if start < end:
            element = int(draw.integers(start, end))
            byte = header + element * width + int(draw.integers(width))
            flip(path, byte, 3)
            with pytest.raises(UserError, match=rf"a.npy: line 7: bytes {byte // PAGE * PAGE} to \d+ differ"):
                CheckedArray(path, sums).read(start, end, "line 7")
            flip(path, byte, 3)


def test_what_is_not_read_is_not_complained_of(tmp_path):
    path = tmp_path / "a.npy"
    array = CheckedArray(path, write(path, np.arange(5000), "uint32"))
    before = array.read(0, 1000, "x").copy()
    flip(path, 3 * PAGE)
    assert (array.read(0, 1000, "x") == before).all()
    with pytest.raises(UserError, match="differ from their checksum"):
        array.read_all("x")


@pytest.mark.parametrize("start, end", [(4, 6), (3, 2), (-1, 2)])
def test_bounds_are_checked_without_sums_too(tmp_path, start, end):
    np.save(tmp_path / "a.npy", np.arange(5, dtype=np.uint32))
    with pytest.raises(
        UserError, match=f"pair 3 would be elements {start} to {end} of 5: the file is damaged"
    ):
        CheckedArray(tmp_path / "a.npy", None).read(start, end, "pair 3")


def with_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n" + bytes(20)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01",
        b"text that is no array at all",
        b"PK\x03\x04 an archive",
        with_header("{'descr': '<u4', 'fortran_order': False, 'shape': (5,"),
        with_header("{'descr': ')', 'fortran_order': False, 'shape': (5,)}"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        with_header("{'descr': '<u4', 'fortran_order': False, 'shape': (7,)}"),
    ],
)
def test_a_file_that_is_no_array(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="a.npy: damaged, no array"):
        CheckedArray(tmp_path / "a.npy", None)


@pytest.mark.parametrize("array", [np.zeros([2, 3], np.uint32), np.zeros(3, np.float32), np.uint32(3)])
def test_an_array_of_another_kind(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match="a.npy: damaged, not a list of numbers"):
        CheckedArray(tmp_path / "a.npy", None)


# In a corpus


@pytest.fixture
def corpus(tmp_path):
    pieces = train_pieces(tmp_path / "piece.model")
    lines = sentences(900, seed=1)
    mono = {"en": write_lines(tmp_path / "en.txt", lines)}
    pairs = [f"{a}\t{b}" for a, b in zip(lines, sentences(900, seed=2))]
    parallel = {"en-de": write_lines(tmp_path / "en-de.tsv", pairs)}
    build(tmp_path / "corpus", pieces, mono=mono, parallel=parallel)
    return tmp_path / "corpus"


def read_everything(folder, cache=None):
    corpus = Corpus(folder)
    text, pairs = corpus.mono["en"], corpus.parallel["de", "en"]
    blocks = Blocks(text, 40, cache=cache)
    return [blocks[i] for i in range(len(blocks))], [pairs[i] for i in range(len(pairs))]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("mono/en/train-00000.ids.npy", "block"),
        ("mono/en/train-00000.lines.npy", "its lines"),
        ("mono/en/train-00000.documents.npy", "its documents"),
        ("parallel/de-en/train-00000.ids.npy", "pair"),
        ("parallel/de-en/train-00000.lines.npy", "pair"),
    ],
)
@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_flipped_bit_in_any_file_of_a_shard(corpus, name, kind, place):
    read_everything(corpus)
    flip(corpus / name, int((corpus / name).stat().st_size * place))
    with pytest.raises(
        UserError, match=rf"{name}: {kind}( \d+)?: bytes \d+ to \d+ differ .*put back a good copy"
    ):
        read_everything(corpus)


def test_a_flipped_bit_is_seen_by_a_reader_that_has_the_file_open(corpus):
    pairs = Corpus(corpus).parallel["de", "en"]
    pairs[0]
    with open(corpus / "parallel/de-en/train-00000.ids.npy", "r+b") as file:
        file.seek(200)
        byte = file.read(1)[0]
        file.seek(200)
        file.write(bytes([byte ^ 64]))
    with pytest.raises(UserError, match="train-00000.ids.npy: pair 0: bytes 0 to 4095 differ"):
        pairs[0]


def test_a_flipped_bit_in_the_cache_of_blocks(corpus, tmp_path):
    whole = read_everything(corpus, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.blocks.npy")
    flip(file, 200)
    with pytest.raises(
        UserError, match=r"blocks.npy: block \d+: .*delete it, and the next run makes it again"
    ):
        read_everything(corpus, tmp_path / "cache")
    file.unlink()
    again = read_everything(corpus, tmp_path / "cache")
    assert all((a == b).all() for a, b in zip(whole[0], again[0], strict=True))


def test_a_flipped_bit_in_the_counts_of_pieces(corpus):
    assert Corpus(corpus).piece_counts("de").sum()
    flip(corpus / "pieces/de.npy", 300)
    with pytest.raises(UserError, match="pieces/de.npy: its SHA-256 is not the manifest's"):
        Corpus(corpus).piece_counts("de")


def test_a_shard_that_goes_away_while_a_run_reads(corpus):
    text = Corpus(corpus).mono["en"]
    (corpus / "mono/en/train-00000.ids.npy").unlink()
    with pytest.raises(UserError, match="train-00000.ids.npy: missing; put it back"):
        text[0]


def test_a_corpus_of_a_build_without_sums_is_read(corpus):
    whole = read_everything(corpus)
    manifest = json.loads((corpus / MANIFEST).read_text())
    for name in [name for name in manifest["files"] if name.endswith(".sums.npy")]:
        del manifest["files"][name]
        (corpus / name).unlink()
    (corpus / MANIFEST).write_text(json.dumps(manifest))
    again = read_everything(corpus)
    assert all((a == b).all() for a, b in zip(whole[0], again[0], strict=True))
    assert all((a[0] == b[0]).all() for a, b in zip(whole[1], again[1], strict=True))
