"""The hardest-negative loss against numbers worked out with loops, its gradient, and what is no negative."""

import numpy as np
import paddle
import pytest

from finetune.pair_losses import hardest_negative_bce
from finetune.sentence_pairs import negatives

SCALE, OFFSET = 5.0, 0.3


def by_hand(sources, translations, negative):
    """-2 log m(pair) - log(1 - m(hardest other translation)) - log(1 - m(hardest other source)), summed."""

    def match(a, b):
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return 1 / (1 + np.exp(-SCALE * (cosine - OFFSET)))

    total, won = 0.0, 0
    count = len(sources)
    for i in range(count):
        matched = match(sources[i], translations[i])
        other_translations = [match(sources[i], translations[j]) for j in range(count) if negative[i, j]]
        other_sources = [match(sources[j], translations[i]) for j in range(count) if negative[j, i]]
        total -= 2 * np.log(matched)
        total -= sum(np.log(1 - max(matches)) for matches in (other_translations, other_sources) if matches)
        won += matched > max([0.0, *other_translations, *other_sources])
    return total, won


def vectors(count, seed=0):
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(count, 6))
    return sources, sources + rng.normal(scale=0.7, size=sources.shape)


@pytest.mark.parametrize("drop", [[], [(0, 1), (1, 0), (2, 4)]])
def test_the_value(drop):
    sources, translations = vectors(7)
    negative = ~np.eye(7, dtype=bool)
    for place in drop:
        negative[place] = False
    expected, expected_won = by_hand(sources, translations, negative)
    loss, won = hardest_negative_bce(*map(paddle.to_tensor, (sources, translations, negative)), SCALE, OFFSET)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert won.item() == expected_won and expected_won > 0


def test_pairs_with_a_common_sentence_are_no_negatives():
    """Pairs 0 and 2 have a source in common, 1 and 2 a translation; 0's source is 3's translation."""
    sources = [np.array(ids) for ids in ([0, 7, 2], [0, 8, 2], [0, 7, 2], [0, 7, 8, 2])]
    translations = [np.array(ids) for ids in ([0, 4, 2], [0, 5, 2], [0, 5, 2], [0, 7, 2])]
    expected = np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    np.testing.assert_array_equal(negatives(sources, translations), expected)
