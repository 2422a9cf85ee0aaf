"""Blocks of consecutive lines of one document."""

import numpy as np
import pytest

from reader.blocks import Blocks, pack_lines
from reader.corpus import Corpus
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from utils.errors import UserError


def pack_one_by_one(lengths, lines_per_document, limit):
    """The definition, line by line."""
    blocks, start, line = [], 0, 0
    for count in lines_per_document:
        block = start
        for length in lengths[line : line + count]:
            if start + length - block > limit and start > block:
                blocks.append((block, start))
                block = start
            start += length
            while start - block > limit:
                blocks.append((block, block + limit))
                block += limit
        if start > block:
            blocks.append((block, start))
        line += count
    return blocks


def offsets(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


def test_by_hand():
    # two documents: lines of 3, 4, 2 and of 9, 1; at most 6 tokens
    blocks = pack_lines(offsets([3, 4, 2, 9, 1]), offsets([3, 2]), 6)
    #        3 (3 + 4 > 6) | 4 + 2 | first 6 of the 9 | its other 3, and the 1
    assert blocks.tolist() == [[0, 3], [3, 9], [9, 15], [15, 19]]


@pytest.mark.parametrize("limit", [1, 5, 17, 1000])
def test_equals_the_definition(limit):
    draw = np.random.default_rng(limit)
    documents = draw.integers(1, 9, 50)
    lengths = draw.integers(1, 40, documents.sum())
    blocks = pack_lines(offsets(lengths), offsets(documents), limit)
    assert blocks.tolist() == [list(block) for block in pack_one_by_one(lengths.tolist(), documents, limit)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    lines = sentences(600)
    documents = [
        line for number, line in enumerate(lines) for line in ([line, ""] if number % 5 == 0 else [line])
    ]
    build(
        folder / "corpus",
        train_pieces(folder / "piece.model"),
        mono={"en": write_lines(folder / "en.txt", documents)},
        documents="blank",
        shard_mib=0.005,
    )
    return Corpus(folder / "corpus").mono["en"]


def test_blocks_tile_the_text(text):
    assert len(text.shards) > 2
    blocks = Blocks(text, 30)
    read = [blocks[number] for number in range(len(blocks))]
    assert max(map(len, read)) <= 30
    lines = [text.line(number) for number in range(text.num_lines)]
    np.testing.assert_array_equal(np.concatenate(read), np.concatenate(lines))
    assert len(blocks) < len(Blocks(text, 30, one_line=True))
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_one_line_each(text):
    blocks = Blocks(text, 10_000, one_line=True)
    assert len(blocks) == text.num_lines
    for number in (0, 57, len(blocks) - 1):
        np.testing.assert_array_equal(blocks[number], text.line(number))


def test_the_cache_gives_the_same_blocks_and_is_used(text, tmp_path):
    fresh = Blocks(text, 30)
    Blocks(text, 30, cache=tmp_path)
    Blocks(text, 30, one_line=True, cache=tmp_path)
    files = sorted(tmp_path.glob("*.blocks.npy"))
    assert len(files) == 2 * len(text.shards)
    again = Blocks(text, 30, cache=tmp_path)
    assert len(again) == len(fresh)
    np.testing.assert_array_equal(again[7], fresh[7])
    for file in files:  # what is read is the file
        np.save(file, np.array([0, 2], np.uint32))
    assert len(Blocks(text, 30, cache=tmp_path)) == len(text.shards)
    files[1].write_bytes(b"x")
    with pytest.raises(UserError, match="blocks.npy: damaged, no array .*; delete it, and the next run"):
        Blocks(text, 30, cache=tmp_path)
