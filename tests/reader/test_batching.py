"""Batches: every example once, in an order that (seed, epoch) decides, for any number of processes."""

import pickle
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pytest

from ernie_m.reader import batching
from ernie_m.reader.batching import Batches, batch_by_length, split_by_work
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.text_featurizer import Feature, TextFeaturizer

PAD = 9  # no other id, nor the usual pad
LONGEST = 60  # tokens


class Item(NamedTuple):
    """An example: its number in the data set, and its length in tokens."""

    number: int
    length: int


class Tokenizer(NamedTuple):
    """As much of a tokenizer as making batches needs."""

    pad_id: int = PAD


class Encode(TextFeaturizer):
    """Makes features: item i has as many ids as its length says; the second is 100 + i. Its label is i % 3.

    Attributes:
        encoded: the numbers of all items so far.
    """

    def __init__(self):
        super().__init__(Tokenizer(), LONGEST)
        self.encoded: list[int] = []

    def __call__(self, items):
        self.encoded += [item.number for item in items]
        return [Feature([0, 100 + number, *[7] * (length - 2)], label=number % 3) for number, length in items]


def items(count: int) -> list[Item]:
    """Items of random lengths, the same ones each time."""
    lengths = np.random.default_rng(0).integers(2, LONGEST, count)
    return [Item(number, int(length)) for number, length in enumerate(lengths)]


def batches(count: int = 203, batch_size: int = 8, **options) -> Batches:
    """Batches of some items. By default the last batch and the last window are not full."""
    return Batches(items(count), Encode(), batch_size, **options)


def numbers(global_batch) -> list[int]:
    """The numbers of the items in this process's part of a global batch."""
    return [number for micro_batch in global_batch.micro_batches for number in micro_batch.indices.tolist()]


def all_numbers(global_batches) -> list[int]:
    """The numbers of the items in several global batches, or in several parts of one."""
    return [number for global_batch in global_batches for number in numbers(global_batch)]


@pytest.fixture
def small_windows(monkeypatch):
    """An epoch has several windows: 4 batches of 8 in each."""
    monkeypatch.setattr(batching, "WINDOW_EXAMPLES", 32)


def test_micro_batch_arrays():
    """Types and shapes; every row has the ids, the label and the length of its own item."""
    examples = items(203)
    for step in batches(micro_batch_size=4).stream():
        for micro in step.micro_batches:
            assert micro.input_ids.dtype == micro.labels.dtype == micro.indices.dtype == np.int64
            assert micro.input_ids.shape[0] == len(micro.labels) == len(micro.indices) <= 4
            for row, label, index in zip(micro.input_ids, micro.labels, micro.indices):
                length = examples[index].length
                assert row[1] == 100 + index and label == index % 3
                assert (row[:length] != PAD).all() and (row[length:] == PAD).all()
            assert (micro.input_ids != PAD).sum(1).max() == micro.input_ids.shape[1]  # no column of pads
            assert micro.count == step.count


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_divide_the_loss_by_the_count_of_the_step(rank):
    """Of three examples, one process has two, and the other has one."""
    (step,) = batches(3, 3, rank=rank, world_size=2, micro_batch_size=1).stream()
    assert [micro.count for micro in step.micro_batches] == [3] * (2 - rank)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("in_tokens", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_example_once_in_each_epoch(small_windows, in_tokens, shuffle, epoch):
    data = batches(batch_size=200 if in_tokens else 8, in_tokens=in_tokens, shuffle=shuffle)
    steps = list(data.stream(epochs=epoch + 1, epoch=epoch))  # this epoch alone
    assert sorted(all_numbers(steps)) == list(range(203))
    assert [step.index for step in steps] == list(range(data.count_batches(epoch)))
    assert [step.progress for step in steps] == list(accumulate(step.count for step in steps))


def test_seed_and_epoch_decide_the_order(small_windows):
    def order(seed, epoch):
        return [numbers(step) for step in batches(seed=seed).stream(epochs=epoch + 1, epoch=epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0) != order(1, 1)
    assert order(1, 0) != order(1, 1)
    assert [numbers(step) for step in batches(seed=1).stream(epochs=2)] == order(1, 0) + order(1, 1)
    # Two epochs differ in which examples meet, not only in the order of the same batches.
    assert {frozenset(batch) for batch in order(1, 0)} != {frozenset(batch) for batch in order(1, 1)}


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("in_tokens", [False, True])
def test_batches_do_not_depend_on_world_size(small_windows, in_tokens, world_size):
    """The parts of 2, 3 or 5 processes make up the global batches of one process.

    The last batch has 3 examples, too few for 5 processes.
    """
    options = {"batch_size": 200 if in_tokens else 8, "in_tokens": in_tokens, "seed": 3}
    alone = list(batches(**options).stream())
    of_ranks = [batches(**options, rank=rank, world_size=world_size).stream() for rank in range(world_size)]
    for step, *parts in zip(alone, *of_ranks, strict=True):
        assert sorted(numbers(step)) == sorted(all_numbers(parts))
        assert {part.count for part in parts} == {step.count} == {len(numbers(step))}
        assert {(part.epoch, part.index) for part in parts} == {(step.epoch, step.index)}


def test_a_window_ends_with_a_batch(monkeypatch):
    """Windows of 30 examples would leave a batch of 6 at the end of each."""
    monkeypatch.setattr(batching, "WINDOW_EXAMPLES", 30)
    assert [step.count for step in batches(batch_size=8).stream()] == [*[8] * 25, 3]  # 203 items


def test_in_tokens_fills_its_budget():
    """3 x 20 tokens are full; a fourth example would make 80. One of 70 tokens is alone."""
    examples = [Item(number, length) for number, length in enumerate([70, 20, 5, 20, 20, 20, 20, 70, 5])]
    data = Batches(examples, Encode(), batch_size=60, in_tokens=True, shuffle=False)
    assert [sorted(numbers(step)) for step in data.stream()] == [[0], [1, 2, 3], [4, 5, 6], [7], [8]]


def test_in_tokens_holds_its_budget(small_windows):
    """At most 200 tokens in a global batch, padded to its longest example, and 100 in a micro-batch."""
    for step in batches(batch_size=200, in_tokens=True, micro_batch_size=100).stream():
        assert step.count * max(micro.input_ids.shape[1] for micro in step.micro_batches) <= 200
        assert all(micro.input_ids.size <= 100 for micro in step.micro_batches)


@pytest.mark.parametrize("in_tokens", [False, True])
def test_resume_is_exact(small_windows, in_tokens):
    """From any position in two epochs the same batches follow as without the interruption."""
    options = {"batch_size": 130 if in_tokens else 8, "in_tokens": in_tokens}
    steps = list(batches(**options).stream(epochs=2))
    for position in (0, 1, 5, len(steps) // 2, len(steps) - 3, len(steps) - 1):
        first = steps[position]
        resumed = batches(**options).stream(epochs=2, epoch=first.epoch, index=first.index)
        assert [*map(pickle.dumps, resumed)] == [*map(pickle.dumps, steps[position:])]


def test_nothing_is_tokenized_before_its_window(small_windows):
    data = batches()
    next(data.stream())
    assert len(data.encode.encoded) == 32  # one window
    assert data.count_batches() == 26  # 203 items in batches of 8
    assert len(data.encode.encoded) == 32  # nothing was tokenized to count them
    data.encode.encoded.clear()
    next(data.stream(index=8))  # the first of the third window
    assert len(data.encode.encoded) == 32


def test_the_same_batches_from_a_copy(tokenizer, tmp_path):
    """As the reader process has it."""
    path = tmp_path / "x.tsv"
    rows = [f"the {'lazy ' * (i % 7)}fox\tdog {i}\t{i % 3}\n" for i in range(100)]
    path.write_text("text_a\ttext_b\tlabel\n" + "".join(rows))
    data = Batches(read_classification(path), TextFeaturizer(tokenizer, 16), 8, seed=1)
    copy = pickle.loads(pickle.dumps(data))
    for step, sent in zip(data.stream(2, index=3), copy.stream(2, index=3), strict=True):
        assert pickle.dumps(step) == pickle.dumps(sent)


@pytest.mark.parametrize(
    ("lengths", "tokens", "batches"),
    [
        ([5, 1, 3, 20, 3], 9, [[1, 2, 4], [0], [3]]),  # 3 rows of 3 tokens are 9
        ([5, 1, 3, 20, 3], 1, [[1], [2], [4], [0], [3]]),
        ([3, 3, 3, 3], 9, [[0, 1, 2], [3]]),
        ([], 9, []),
    ],
)
def test_batches_by_length(lengths, tokens, batches):
    """Rows are sorted by length. A batch, padded to its longest row, has at most 9 tokens, or one row."""
    assert batch_by_length(lengths, tokens) == batches


@pytest.mark.parametrize(
    ("share", "parts"),
    [(None, [[4, 1, 3]]), (1000, [[4, 1, 3]]), (150, [[4, 3], [1]]), (10, [[4], [1], [3]])],
)
def test_a_worker_has_no_empty_part(share, parts):
    """Three examples of 100 tokens."""
    assert [*map(list, split_by_work(np.array([4, 1, 3]), np.full(5, 100), share))] == parts
