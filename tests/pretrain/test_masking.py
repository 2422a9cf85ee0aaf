"""Which tokens are chosen, by what they are replaced, and that each draw belongs to its sequence alone."""

import itertools

import numpy as np
import pytest

from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.masking import ObjectiveContext, Text, Vocabulary, count_selected, make_rng
from ernie_m.pretrain.objectives import get_objective_class
from tests.launching import error_of

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=49, size=50)
LONGEST = 200_000
OBJECTIVE = get_objective_class("mmlm")(ObjectiveContext(ObjectiveConfig(), VOCABULARY, LONGEST))


@pytest.mark.parametrize("n, count", [(0, 0), (1, 1), (3, 1), (9, 1), (10, 2), (20, 3), (100, 15), (510, 76)])
def test_fifteen_per_cent_and_at_least_one(n, count):
    """Of n tokens, `count` different ones are chosen, in ascending order."""
    assert count_selected(n, 0.15) == count
    chosen = OBJECTIVE.select_tokens(np.full(n, 7), make_rng(0, 0, 0))
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert (chosen >= 0).all() and (chosen < n).all()


@pytest.mark.parametrize(
    ("selected", "counts"),
    [
        (np.array([3]), "1 positions of an example (1 different)"),
        (np.array([2, 2]), "2 positions of an example (1 different)"),
        (np.array([], int), "0 positions of an example (0 different)"),
        (np.arange(10) < 3, "10 positions of an example (2 different)"),
    ],
)
def test_an_own_rule_selects_as_many_tokens_as_losses(monkeypatch, selected, counts):
    """Of ten tokens two are counted: one, a repeated one, none and a mask are refused, two are masked."""
    monkeypatch.setattr(OBJECTIVE, "select_tokens", lambda ids, rng: selected)
    assert counts in error_of(OBJECTIVE.make_batch, [Text(np.full(10, 7), 0)], [make_rng(0, 0, 0)])
    monkeypatch.setattr(OBJECTIVE, "select_tokens", lambda ids, rng: np.array([0, 9]))
    assert OBJECTIVE.make_batch([Text(np.full(10, 7), 0)], [make_rng(0, 0, 0)]).targets.tolist() == [1, 10]


def test_eighty_ten_ten():
    """200,000 times token 7: the shares are right within 0.005, more than five standard deviations."""
    tokens = np.full(LONGEST, 7)
    sequence = OBJECTIVE.replace_selected(
        tokens, np.zeros_like(tokens), np.arange(LONGEST), make_rng(1, 0, 0)
    )
    inputs = sequence.input_ids
    is_random = (inputs != 7) & (inputs != VOCABULARY.mask_id)
    shares = [(inputs == VOCABULARY.mask_id).mean(), is_random.mean(), (inputs == 7).mean()]
    # A random token is one of the 45 ordinary ones, and may be the token itself.
    assert shares == pytest.approx([0.8, 0.1 * 44 / 45, 0.1 + 0.1 / 45], abs=0.005)
    # Every ordinary token comes up, about equally often, and no special one.
    counts = np.bincount(inputs[is_random], minlength=50)
    assert counts[VOCABULARY.special_ids].sum() == 0
    counts = np.delete(counts, [*VOCABULARY.special_ids, 7])
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()


def test_a_sequence_has_its_own_numbers():
    """Each seed, step and index gives other draws, and always the same."""
    numbers = itertools.product((0, 1, 2**40), (0, 1, 150_000), (0, 1, 2047))
    draws = {make_rng(seed, step, index).random(4).tobytes() for seed, step, index in numbers}
    assert len(draws) == 3 * 3 * 3
    assert make_rng(1, 2, 3).random(4).tobytes() == make_rng(1, 2, 3).random(4).tobytes()
