"""Words to pieces, labels and windows, worked by hand."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from reader.classification import read_label_map
from reader.tagging import (
    IGNORED,
    JOINT,
    EncodeTagged,
    EncodeTaggedOfficially,
    Sentence,
    WordWindow,
    cut_windows,
    expanded,
    read_tagged,
)
from reader.tokenization import Tokenizer
from scripts.data import prepare_conll
from tests.helpers.letters import Letters

INSIDE = [1, 1, 3, 3, 4]  # B-PER I-PER B-LOC I-LOC O
O = 4  # noqa: E741
X = IGNORED


def sentence(text: str, *labels: int) -> Sentence:
    return Sentence(text.replace(" ", JOINT), labels or None)


def encode(text: str, *labels: int, size: int = 512, pieces: str = "first"):
    return EncodeTagged(Letters(), size, INSIDE, pieces)([sentence(text, *labels)])[0]


def ids(text: str) -> list[int]:
    """[CLS], [SEP], ▁ and [UNK] as < > _ ?"""
    return [{"<": 0, ">": 2, "_": 4, "?": 3}.get(c, ord(c)) for c in text]


def test_first_piece():
    feature = encode("ab c", 0, O)
    assert feature.ids == ids("<abc>")
    assert feature.labels == [X, 0, X, O, X]
    assert (feature.widths, feature.words) == ([5], [(1, 1), (3, 1)])


def test_the_first_piece_is_not_a_space_alone():
    feature = encode("_ab _ _c", 0, O, 2)
    assert feature.ids == ids("<_ab__c>")
    assert feature.labels == [X, X, 0, X, O, X, 2, X]


def test_all_pieces():
    feature = encode("abc d ef g", 0, 3, O, 2, pieces="all")
    assert feature.labels == [X, 0, 1, 1, 3, O, O, 2, X]
    assert feature.words == [(1, 3), (4, 1), (5, 2), (7, 1)]


def test_a_word_without_pieces_is_unknown_and_has_a_label():
    feature = encode("a - b", O, 0, 1)
    assert feature.ids == ids("<a?b>") and feature.labels == [X, O, 0, 1, X]


def test_without_labels():
    feature = encode("ab c")
    assert feature.labels == [X] * 5 and feature.words == [(1, 1), (3, 1)]


def test_windows():
    """Room for 8 pieces, overlap of 2; the middle of the overlap parts the words."""
    feature = encode("a b c d e f g h i j k l m n o p", *range(4), *[O] * 12, size=10)
    assert feature.ids == ids("<abcdefgh>" + "<ghijklmn>" + "<mnop>")
    assert feature.widths == [10, 10, 6]
    assert [place for place, _ in feature.words] == [*range(1, 8), *range(12, 18), *range(22, 25)]
    assert [feature.ids[place] for place, _ in feature.words] == ids("abcdefghijklmnop")
    assert [feature.labels[place] for place, _ in feature.words] == [0, 1, 2, 3, *[O] * 12]
    assert sum(label != X for label in feature.labels) == 16  # each word once


def test_a_word_longer_than_a_window_is_cut_and_has_a_label():
    feature = encode("a bcdefghijkl m", O, 2, O, size=10, pieces="all")
    assert feature.ids == ids("<a>" + "<bcdefghi>" + "<m>")
    assert feature.labels == [X, O, X, X, 2, *[3] * 7, X, X, O, X]


@pytest.mark.parametrize("seed", range(40))
def test_windows_of_random_sentences(seed):
    rng = np.random.default_rng(seed)
    room = int(rng.integers(6, 40))
    sizes = rng.integers(1, min(room, int(rng.integers(2, 40))) + 1, rng.integers(1, 200)).tolist()
    windows = cut_windows(sizes, room)
    assert [n for w in windows for n in range(w.own_first, w.own_last)] == [*range(len(sizes))]
    for window in windows:
        assert window.first <= window.own_first < window.own_last <= window.last
        assert sum(sizes[window.first : window.last]) <= room
    for before, after in pairwise(windows):
        assert before.first < after.first <= before.last < after.last
        assert sum(sizes[before.first : before.last + 1]) > room  # not one word more would fit
        shared = sizes[after.first : before.last]
        assert sum(shared) <= room // 4
        # in the overlap each word is where it stands farther from the edge, by pieces
        for n in range(after.first, before.last):
            left, right = sum(sizes[after.first : n]), sum(sizes[n + 1 : before.last])
            assert (right >= left) if n < before.own_last else (left >= right)


def test_short_sentences_have_one_window():
    assert cut_windows([3, 2, 3], 8) == [WordWindow(0, 3, 0, 3)]


def test_batch():
    task = EncodeTagged(Letters(), 10, INSIDE, "all")
    sentences = [sentence("ab c", 0, O), sentence("a b c d e f g h i", *[O] * 9), sentence("d", 2)]
    features = task(sentences)
    assert task.count(features) == 3 + 9 + 1
    batch = task.collate(features, np.array([5, 3, 8]), 13)
    assert batch.input_ids.tolist() == [
        ids("<abc>") + [1] * 5, ids("<abcdefgh>"), ids("<ghi>") + [1] * 5, ids("<d>") + [1] * 7
    ]  # fmt: skip
    assert batch.labels[0].tolist() == [X, 0, 1, O, *[X] * 6]
    assert (batch.labels != X).sum() == 13
    assert batch.sentences.tolist() == [0, 1, 1, 2]
    assert batch.lengths.tolist() == [2, 9, 1]
    assert batch.words.tolist() == [
        [0, 1, 2], [0, 3, 1], *([1, i, 1] for i in range(1, 8)), [2, 2, 1], [2, 3, 1], [3, 1, 1]
    ]  # fmt: skip
    assert batch.indices.tolist() == [5, 3, 8] and batch.count == 13


def test_batches_in_multiples():
    task = EncodeTagged(Letters(), 10, INSIDE, multiple=4)
    features = task([sentence("ab c", 0, O), sentence("d", 2)])
    batch = task.collate(features, np.arange(2), 3)
    assert batch.input_ids.tolist() == [ids("<abc>") + [1] * 3, ids("<d>") + [1] * 5]
    assert batch.labels.shape == (2, 8) and (batch.labels != X).sum() == 3


def test_official():
    task = EncodeTaggedOfficially(Letters(), 8, INSIDE)
    features = task([sentence("ab - cde fg h", 0, O, 2, 1, O), sentence("a", O), sentence("ab")])
    assert features[0].ids == ids("<abcdef>")
    assert features[0].labels == [O, 0, 1, 2, 3, 3, 1, O]
    assert features[0].words == [(1, 2), (0, 0), (3, 3), (6, 1), (0, 0)]
    assert features[1].labels == [O, O, O]
    assert features[2].labels == [O] * 4  # no labels, no loss asked for
    assert task.count(features) == 3 * 8
    batch = task.collate(features, np.arange(3), 24)
    assert (batch.labels != X).sum(1).tolist() == [8, 3, 4]
    assert batch.words[:, 2].tolist() == [2, 0, 3, 1, 0, 1, 2]


def test_expanded():
    assert [expanded(0, n, INSIDE) for n in range(4)] == [[], [0], [0, 1], [0, 1, 1]]


def test_real_tokenizer(tokenizer):
    """Each word by itself, and the encoder can go to another process."""
    task = pickle.loads(pickle.dumps(EncodeTagged(tokenizer, 64, INSIDE, "first")))
    words = ["The", "quick", "fox", "\u200b", "1,000"]
    feature = task([Sentence(JOINT.join(words), (O, 0, 1, O, O))])[0]
    pieces = [tokenizer.encode(word) or [tokenizer.unk_id] for word in words]
    assert feature.ids == [tokenizer.cls_id, *(id_ for word in pieces for id_ in word), tokenizer.sep_id]
    assert [label for label in feature.labels if label != X] == [O, 0, 1, O, O]


def test_every_word_of_real_chinese_has_a_place(data_dir, tmp_path):
    """Sentences of up to 421 words; each word is labelled once, in a window that holds it."""
    prepare_conll.main([f"dev.zh={data_dir / 'ner/panx/dev-zh.tsv'}", "--output", str(tmp_path)])
    labels = read_label_map(tmp_path / "label_map.json", 7)
    sentences = read_tagged(tmp_path / "dev/dev.zh.tsv", labels)
    tokenizer = Tokenizer(None, data_dir / "vocab" / "xnli15-32k.model")
    features = EncodeTagged(tokenizer, 512, [1, 1, 3, 3, 5, 5, 6])(sentences)
    assert sum(len(feature.widths) > 1 for feature in features) == 8
    for one, feature in zip(sentences, features):
        assert len(feature.words) == len(one.words) == sum(label != X for label in feature.labels)
        assert max(feature.widths) <= 512
        assert tuple(feature.labels[start] for start, _ in feature.words) == one.labels
