"""Draws: a sequence that a seed decides, resumes anywhere and divides among any number of processes."""

import itertools
import json
from dataclasses import fields

import numpy as np
import pytest

from ernie_m.reader.sampling import Draws, Sampler, apply_temperature, permute
from tests.launching import error_of

# stream -> how many items it has, and the amount of text by which it is weighed against the others
ITEMS = {"en": 1000, "de": 333, "sw": 7}
AMOUNTS = {"en": 50_000, "de": 20_000, "sw": 300}


def sampler(seed=1, purpose="mono", items=ITEMS, alpha=0.3):
    """A sampler of three streams, or of those in `items`."""
    return Sampler(items, {name: AMOUNTS[name] for name in items}, alpha, seed, purpose)


def assert_equal(draws: Draws, expected: Draws):
    for field in fields(Draws):
        np.testing.assert_array_equal(getattr(draws, field.name), getattr(expected, field.name))


def joined(parts: list[Draws]) -> Draws:
    """Several draws as one."""
    return Draws(
        stream=np.concatenate([part.stream for part in parts]),
        item=np.concatenate([part.item for part in parts]),
        reverse=np.concatenate([part.reverse for part in parts]),
    )


def items_at(positions, size, key=5):
    """The items at some positions of one stream, which has `size` items; `key` decides their order."""
    count = len(positions)
    return permute(np.asarray(positions), np.full(count, size), np.full(count, key, np.uint64))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_each_epoch_has_every_item_once_in_another_order(size):
    epochs = items_at(np.arange(4 * size), size).reshape(4, size)  # a row for each of four epochs
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    if size >= 63:  # a few items have only a few orders
        for first, second in itertools.combinations(epochs, 2):
            assert (first == second).mean() < 0.1  # in two random orders, 1 of `size` on average


def test_streams_have_their_own_orders_and_may_have_a_trillion_items():
    positions = np.arange(10**12, 10**12 + 1000)  # in the second epoch
    items = items_at(positions, 10**12)
    assert ((items >= 0) & (items < 10**12)).all() and len(set(items.tolist())) == 1000
    assert (items != items_at(positions, 10**12, key=2)).all()  # of another stream


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, {"a": 0.2, "b": 0.8}), (0.0, {"a": 0.5, "b": 0.5})])
def test_temperature_equals_hand_computed_shares(alpha, expected):
    assert apply_temperature({"a": 1, "b": 16}, alpha) == expected  # 1^(1/2) : 16^(1/2) = 1 : 4


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"en": 3, "sw": 0, "de": -1}, "nothing to sample from sw, de"),
        ({"en": float("nan")}, "nothing to sample from en"),
        ({}, "no streams"),
    ],
)
def test_streams_without_text_are_refused(sizes, message):
    assert error_of(apply_temperature, sizes, 0.3).startswith(message)
    assert error_of(sampler, items=sizes).startswith(message)


def test_streams_come_as_often_as_the_temperature_says():
    """Within four standard deviations; and half of the pairs come in reverse."""
    count = 40_000
    drawn = sampler(alpha=0.3).draw(count)
    weights = np.array([AMOUNTS[name] ** 0.3 for name in ITEMS])
    expected = weights / weights.sum()
    frequency = np.bincount(drawn.stream) / count
    assert (abs(frequency - expected) < 4 * np.sqrt(expected * (1 - expected) / count)).all()
    assert abs(drawn.reverse.mean() - 0.5) < 4 * np.sqrt(0.5 * 0.5 / count)


@pytest.mark.parametrize("cut", [0, 1, 13, 64, 199])
def test_resumes_at_any_cut(cut):
    """The draws before and after the cut are those of a sampler that was not stopped."""
    stopped = sampler()
    before = stopped.draw(cut)
    state = json.loads(json.dumps(stopped.state()))
    resumed = sampler()
    resumed.draw(50)  # `restore` forgets what the sampler did before
    resumed.restore(state)
    assert_equal(joined([before, resumed.draw(1), resumed.draw(199 - cut)]), sampler().draw(200))


@pytest.mark.parametrize("unrelated", [{"seed": 2}, {"purpose": "pairs"}])
def test_seed_and_purpose_set_draws_apart(unrelated):
    """Independent draws agree in half of the sides, and in less than half of the streams.

    With 500 draws, 0.6 is more than four standard deviations away.
    """
    draws = sampler(seed=1, purpose="mono").draw(500)
    unrelated_draws = sampler(**unrelated).draw(500)
    assert (draws.stream == unrelated_draws.stream).mean() < 0.6
    assert (draws.reverse == unrelated_draws.reverse).mean() < 0.6
    english, others = (each.item[each.stream == 0][:100] for each in (draws, unrelated_draws))
    assert (english == others).mean() < 0.1
