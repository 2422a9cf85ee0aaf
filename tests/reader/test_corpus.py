"""A corpus and its blocks: what is read is what was built, and a corrupt corpus is refused."""

import json
import os
import pickle
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

from ernie_m.reader import corpus
from ernie_m.reader.corpus import (
    Blocks,
    Corpus,
    describe_long_pairs,
    map_array,
    open_corpus_tokenizer,
    pack_lines,
    read_manifest,
    verify_corpus,
)
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils import checksums, files
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError
from tests.helpers.files import flip_last_bit
from tests.launching import check_error, error_of
from tests.toys import make_corpus, sentences, train_piece_model, write_lines

ENGLISH = sentences(400, seed=1)
# 50 documents of 1 to 7 sentences.
DOCUMENTS = [ENGLISH[7 * number : 7 * number + 1 + number % 7] for number in range(50)]
PAIRS = list(zip(sentences(300, seed=2), sentences(300, seed=3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(piece_model_path=train_piece_model(folder / "piece.model"))


@pytest.fixture(scope="module")
def path(folder, tokenizer):
    """A corpus of DOCUMENTS in English and of PAIRS given as English, German; several shards of each."""
    blank_lines = [line for document in DOCUMENTS for line in [*document, ""]]
    make_corpus(
        folder / "corpus",
        tokenizer.piece_model_path,
        mono={"en": write_lines(folder / "en.txt", blank_lines)},
        parallel={"en-de": write_lines(folder / "en-de.tsv", ["\t".join(pair) for pair in PAIRS])},
        documents="blank",
        shard_mib=0.003,
        chunk_mib=0.002,
    )
    return folder / "corpus"


@pytest.fixture
def copy(path, tmp_path):
    """A copy of the corpus, which a test may damage."""
    return shutil.copytree(path, tmp_path / "corpus")


def test_documents_and_lines_in_order(path, tokenizer):
    text = Corpus(path).mono["en"]
    assert len(text.shards) > 1
    counts = np.concatenate([np.diff(text.read_document_offsets(shard)) for shard in range(len(text.shards))])
    assert counts.tolist() == [len(document) for document in DOCUMENTS]
    ids = tokenizer.encode_batch([line for document in DOCUMENTS for line in document])
    assert [text.read_line(number).tolist() for number in range(len(ids))] == ids
    assert (text.num_lines, text.num_tokens) == (len(ids), sum(map(len, ids)))


def test_pairs_are_sorted_by_language(path, tokenizer):
    pairs = Corpus(path).parallel["de", "en"]  # given as en-de
    assert len(pairs.shards) > 1 and len(pairs) == len(PAIRS)
    assert [[line.tolist() for line in pairs[number]] for number in range(len(pairs))] == [
        [tokenizer.encode(german), tokenizer.encode(english)] for english, german in PAIRS
    ]
    for number in (len(pairs), -1):
        with pytest.raises(IndexError):
            pairs[number]


@pytest.mark.parametrize("longest", [4, 20, 24, 99])
def test_pairs_that_are_too_long(path, longest):
    """Counted one by one; an input of a pair has four special tokens."""
    (pairs,) = Corpus(path).parallel.values()
    streams = {("de", "en"): pairs, ("de", "fr"): pairs}
    lengths = np.array([sum(map(len, pairs[number])) for number in range(len(pairs))])
    too_many = np.maximum(lengths + 4 - longest, 0)
    share = f"{too_many.sum() / lengths.sum():.1%}"
    named = f", {share} of de-en, {share} of de-fr" if too_many.sum() > 0.1 * lengths.sum() else ""
    line = describe_long_pairs(streams, longest)
    assert line.startswith(f"{2 * np.count_nonzero(too_many)} of 600 pairs exceed ")
    assert line.endswith(f" {longest}; {share} of all tokens are truncated{named}")


def test_subword_counts_cover_all_text_in_the_language(path, tokenizer):
    corpus = Corpus(path)
    english = [line for document in DOCUMENTS for line in document] + [source for source, _ in PAIRS]
    for language, lines in {"en": english, "de": [target for _, target in PAIRS]}.items():
        counts = corpus.count_subwords(language)
        expected = np.bincount(np.concatenate(tokenizer.encode_batch(lines)), minlength=len(counts))
        np.testing.assert_array_equal(counts, expected)
    assert corpus.languages == ["de", "en"]
    assert "unknown language 'fr'" in error_of(corpus.count_subwords, "fr")


def test_ids_are_mapped_not_read_and_as_narrow_as_the_vocabulary_allows(path):
    corpus = Corpus(path)
    ids = map_array(path / "mono/en/train-00000.ids.npy")
    assert ids.dtype == np.uint16 and corpus.manifest["dtype"] == "uint16"
    assert not ids.flags.writeable and isinstance(ids, np.memmap)


def test_another_vocabulary_is_refused(path, tokenizer):
    corpus = Corpus(path, tokenizer)
    assert pickle.loads(pickle.dumps(corpus)).languages == ["de", "en"]  # as in another process
    Corpus(path, Tokenizer.from_folder(path))  # the vocabulary that lies in the corpus
    other = Tokenizer(None, tokenizer.piece_model_path, added_tokens={"<e1>": tokenizer.vocab_size})
    assert "built with another vocabulary" in error_of(Corpus, path, other)


def test_a_vocabulary_of_another_size_is_refused(copy, tokenizer):
    """The digest of the vocabulary is right, and so is the checksum of the manifest."""
    rewrite_manifest(copy, lambda manifest: manifest["vocabulary"].update(size=tokenizer.vocab_size - 1))
    assert f"{copy}: built with another vocabulary" in error_of(Corpus, copy, tokenizer)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: "{", "not JSON"),
        (lambda text: '{"format": 7}', "unsupported format"),
        (lambda text: "{}", "unsupported format"),
        (lambda text: '{"format": 1, "files": {}}', "corrupt"),
        # Without a checksum, pairs would be left out.
        (lambda text: re.sub(r'("lines": )(\d)', r"\g<1>1\2", text, count=1), "corrupt "),
    ],
)
def test_folders_that_are_no_corpus_are_refused(copy, tmp_path, change, message):
    manifest = copy / MANIFEST
    manifest.write_text(change(manifest.read_text()))
    check_error(error_of(Corpus, copy), str(manifest), message)
    assert "not a complete corpus" in error_of(Corpus, tmp_path / "nowhere")


def rewrite_manifest(folder, change):
    """Change a manifest, with a checksum that fits."""
    manifest = read_manifest(folder)
    change(manifest)
    contents = ({}, {"a": None}, {"a": 0}, {"a": False}, {"b": 0})
    assert len({corpus.compute_checksum(manifest | content) for content in contents}) == len(contents)
    manifest["sha256"] = corpus.compute_checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rename(manifest):
    shard = manifest["mono"]["en"]["train"]["shards"][0]
    shard["name"] = f"../../../corpus/mono/en/{shard['name']}"


@pytest.mark.parametrize(
    "change",
    [
        rename,
        lambda manifest: manifest["pieces"].update(en="../corpus/pieces/en.npy"),
        lambda manifest: manifest["files"]["pieces/en.npy"].pop("sha256"),
        lambda manifest: manifest["files"].update({"../a.npy": manifest["files"]["pieces/en.npy"]}),
        *(
            lambda manifest, kind=kind: manifest["files"].pop(f"mono/en/train-00001.{kind}.npy")
            for kind in ("ids", "lines", "documents")
        ),
        lambda manifest: manifest["files"].pop("parallel/de-en/train-00000.lines.npy"),
        lambda manifest: manifest["files"].pop("pieces/en.npy"),
        lambda manifest: manifest["mono"].update(en=[]),
        lambda manifest: manifest["mono"]["en"]["train"]["shards"][0].update(tokens="7"),
        lambda manifest: manifest.pop("vocabulary"),
    ],
)
def test_reject_tampered_manifest(copy, change):
    """Its checksum fits. No file elsewhere is read, and each that is read has a checksum."""
    rewrite_manifest(copy, change)
    assert error_of(Corpus, copy).startswith(f"{copy / MANIFEST}: ")


@pytest.mark.parametrize(
    "name", ["mono/en/train-00001.ids.npy", "parallel/de-en/train-00000.lines.npy", "pieces/de.npy"]
)
def test_truncated_altered_or_missing_file(copy, name):
    file = copy / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert error_of(Corpus, copy).startswith(f"{file}: corrupt (expected {len(content)} bytes, got ")
    file.write_bytes(content)
    flip_last_bit(file)
    opened = Corpus(copy)  # the sizes are right
    if name == "pieces/de.npy":  # which is read as a whole
        assert f"{name}: corrupt " in error_of(opened.count_subwords, "de")
    assert error_of(Corpus, copy, verify=True).startswith(f"{file}: corrupt ")
    file.write_bytes(content)
    Corpus(copy, verify=True)
    file.unlink()
    assert error_of(Corpus, copy).startswith(f"{file}: missing")


def test_every_byte_is_compared_once(copy, monkeypatch):
    """Then sizes and times are, until a file is written or copied, whatever its time says."""
    read = []

    def compute_sha256(path):
        read.append(path.name)
        return files.compute_sha256(path)

    monkeypatch.setattr(checksums, "compute_sha256", compute_sha256)
    verify_corpus(copy)
    assert len(read) == len(read_manifest(copy)["files"])
    read.clear()
    verify_corpus(copy)
    assert read == []
    # Nor is a manifest of other checksums remembered.
    entry = read_manifest(copy)["files"]["pieces/en.npy"]
    other = {**entry, "sha256": "0" * 64}
    rewrite_manifest(copy, lambda manifest: manifest["files"].update({"pieces/en.npy": other}))
    assert "pieces/en.npy: corrupt" in error_of(verify_corpus, copy)
    rewrite_manifest(copy, lambda manifest: manifest["files"].update({"pieces/en.npy": entry}))
    shard = next(copy.glob("mono/*/train-00000.ids.npy"))
    status = shard.stat()
    flip_last_bit(shard)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):  # a corrupt corpus is not remembered as complete
        assert f"{shard}: corrupt" in error_of(verify_corpus, copy)


def test_a_corpus_that_cannot_be_written_is_compared_each_time(copy, monkeypatch, caplog, info_log):
    def refuse(path, value):
        raise UserError(f"{path}: Read-only file system")

    monkeypatch.setattr(corpus, "write_json", refuse)
    for _ in range(2):
        verify_corpus(copy)
    assert [line.partition(".v")[0] for line in caplog.messages] == [f"{copy}/"] * 2


# Files of the right size with wrong numbers, of which the .npy header has 128 bytes.
OFFSETS = {
    "outside of the shard": lambda data: data[:128].ljust(len(data), b"\xff"),
    "that do not ascend": lambda data: data[:132] + data[136:140] + data[132:136] + data[140:],
    "that are none": lambda data: b"x" * len(data),
    "that are fractions": lambda data: data.replace(b"<u4", b"<f4"),
    "of no number": lambda data: (
        data[:8]
        + (len(data) - 10).to_bytes(2, "little")
        + b"{'descr': '<u4', 'fortran_order': False, 'shape': (0,)}".ljust(len(data) - 11)
        + b"\n"
    ),
    "that end early": lambda data: data[:-4] + bytes([data[-4] - 1]) + data[-3:],
}


@pytest.mark.parametrize("damage", OFFSETS)
@pytest.mark.parametrize("kind", ["lines", "documents"])
def test_reject_wrong_offsets_instead_of_other_text(copy, kind, damage):
    """They give an error, and never other text."""
    file = copy / f"mono/en/train-00000.{kind}.npy"
    file.write_bytes(OFFSETS[damage](file.read_bytes()))
    text = Corpus(copy).mono["en"]
    assert f"en/train-00000.{kind}.npy: corrupt" in error_of(Blocks, text, max_tokens=30)
    if kind == "lines" and damage != "that end early":  # where they are outside, they do not fit the ids
        file = "ids" if "outside" in damage else "lines"
        assert f"en/train-00000.{file}.npy: corrupt" in error_of(text.read_line, 1)


def pack_one_by_one(lengths, lines_per_document, limit):
    """The definition of `pack_lines`: a block ends with the last line that fits, or within a long line.

    Args:
        lengths: tokens of each line.
        lines_per_document: lines of each document.
        limit: tokens of the longest block.

    Returns:
        (first token, the token after the last one) of each block.
    """
    blocks = []
    begin = 0
    for line_ends in np.split(np.cumsum(lengths), np.cumsum(lines_per_document)[:-1]):
        while begin < line_ends[-1]:
            fitting = [end for end in line_ends.tolist() if begin < end <= begin + limit]
            blocks.append((begin, max(fitting, default=begin + limit)))
            begin = blocks[-1][1]
    return blocks


def offsets(counts):
    """Where parts of these sizes begin, and the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


@pytest.mark.parametrize("limit", [1, 5, 17, 1000])
def test_pack_lines_equals_the_definition(limit):
    rng = np.random.default_rng(limit)
    lines_per_document = rng.integers(1, 9, 50)
    lengths = rng.integers(1, 40, lines_per_document.sum())
    bounds = pack_lines(offsets(lengths), offsets(lines_per_document), limit).tolist()
    assert list(pairwise(bounds)) == pack_one_by_one(lengths, lines_per_document, limit)


def test_blocks_tile_the_text(path):
    """The blocks one after the other are the lines one after the other; with `one_line` each is a line."""
    text = Corpus(path).mono["en"]
    blocks = Blocks(text, max_tokens=30)
    read = [blocks[number] for number in range(len(blocks))]
    assert max(map(len, read)) <= 30
    lines = [text.read_line(number) for number in range(text.num_lines)]
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate(lines))
    assert len(blocks) < text.num_lines == len(Blocks(text, 10_000, one_line=True))
    with pytest.raises(IndexError):
        blocks[len(blocks)]


@pytest.mark.parametrize(("rules", "other"), [("ernie-m", "none"), ("none", "ernie-m")])
def test_corpus_with_other_text_rules(tmp_path, rules, other):
    """Its manifest names them, unless they are ERNIE-M's; other ones are refused."""
    piece_model = train_piece_model(tmp_path / "piece.model")
    text = write_lines(tmp_path / "en.txt", sentences(50, seed=1))
    manifest = make_corpus(tmp_path / "corpus", piece_model, mono={"en": text}, text_rules=rules)
    assert manifest["vocabulary"].get("text_rules", "ernie-m") == rules
    tokenizer = open_corpus_tokenizer(tmp_path / "corpus")
    assert Corpus(tmp_path / "corpus", tokenizer).text_rules == tokenizer.text_rules == rules
    check_error(
        error_of(Corpus, tmp_path / "corpus", Tokenizer(None, piece_model, other)),
        f"--text_rules {other}",
        start=f"{tmp_path / 'corpus'}: ",
    )
