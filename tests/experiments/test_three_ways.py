"""Retrieval measured three ways: against searches by hand, and the means from other pairs."""

import numpy as np
import pytest

from evaluation.search import unit
from experiments.three_ways import HALVES, HeldOut, found_by_cosine, found_by_margin, retrieval


def made_up(count, seed, direction=0.0, noise=0.6):
    """Vectors of sentences and of their translations, [2, N, 8]; `direction` is that of the first language.

    At layer 1 there is less noise than at layer 0.
    """
    rng = np.random.default_rng(seed)
    tgt = rng.normal(size=(2, count, 8))
    src = tgt + noise * np.array([3.0, 1.0])[:, None, None] * rng.normal(size=tgt.shape)
    src[:, :, 0] += direction
    return src.astype(np.float32), tgt.astype(np.float32)


def margin_by_hand(queries, targets):
    """Whether the best of the four nearest is right: its cosine over the mean of both neighbourhoods."""
    cosines = unit(queries).astype(np.float64) @ unit(targets).astype(np.float64).T
    right = []
    for row, of_row in enumerate(cosines):
        around_query = np.sort(of_row)[-4:].mean()
        scores = {}
        for candidate in np.argsort(-of_row)[:4]:
            around_target = np.sort(cosines[:, candidate])[-4:].mean()
            scores[candidate] = of_row[candidate] / ((around_query + around_target) / 2)
        right.append(max(scores, key=scores.get) == row)
    return np.array(right)


def test_found_in_both_directions():
    src, tgt = (layers[1] for layers in made_up(60, seed=1))
    cosines = unit(src) @ unit(tgt).T
    rows = np.arange(60)
    expected = (cosines.argmax(axis=1) == rows).astype(int) + (cosines.argmax(axis=0) == rows)
    assert found_by_cosine(src, tgt).tolist() == expected.tolist()
    by_margin = margin_by_hand(src, tgt).astype(int) + margin_by_hand(tgt, src)
    assert found_by_margin(src, tgt).tolist() == by_margin.tolist() != expected.tolist()


@pytest.fixture
def held_out():
    return HeldOut({("de", "en"): made_up(80, 2, direction=30.0), ("en", "fr"): made_up(60, 3)[::-1]})


def test_the_means_come_from_other_pairs(held_out):
    even, odd = HALVES[0]
    (de, _), (_, fr) = held_out.pairs.values()
    assert held_out.means().languages == ["de", "en", "fr"]
    before = held_out.means(odd).vectors.copy()
    de[:, even] += 100
    assert (held_out.means(odd).vectors == before).all()
    np.testing.assert_allclose(held_out.means(odd).vectors[2], fr[:, 1::2].mean(axis=1), atol=1e-5)


def test_a_language_direction_hides_translations_until_it_is_removed(held_out):
    accuracies = held_out.accuracies()
    for way in ("centred", "centred margin"):
        assert accuracies[way][1] > accuracies["plain"][1] + 0.2
    bitexts = {"de": made_up(320, 4, direction=30.0), "fr": made_up(200, 5)}
    result = retrieval(held_out, bitexts)
    assert result["layers"] == {"plain": 1, "centred": 1, "centred margin": 1} and result["layer"] == 1
    counts = {key: np.sum(result[key]["de"][0]) for key in result if key.startswith("retrieval 300")}
    assert counts["retrieval 300 centred"] > counts["retrieval 300"] + 50
    assert counts["retrieval 300 centred margin"] > counts["retrieval 300 centred"]
    # By hand: the mean German vector of the held-out pairs is taken off, and the English one of both streams.
    src, tgt = bitexts["de"]
    means = held_out.means()
    centred = found_by_cosine(src[1, :300] - means.vectors[0, 1], tgt[1, :300] - means.vectors[1, 1])
    assert result["retrieval 300 centred"]["de"] == [centred.tolist(), [2] * 300]
    assert len(result["retrieval 1000"]["de"][0]) == 320
    assert result["named"]["de"] == {"right": [320, 320], "sentences": 320}
    assert result["named"]["en"]["sentences"] == 520


def test_each_way_has_its_own_layer():
    """German is only hidden at layer 1, so plain vectors are best at layer 0 and centred ones at layer 1."""
    de, en = made_up(80, 2)
    de[0] = (de[0] + 3 * en[0]) / 4  # less noise
    de[1] = en[1]
    de[1, :, 0] += 300
    held_out = HeldOut({("de", "en"): (de, en)})
    src, tgt = made_up(50, 6)
    result = retrieval(held_out, {"de": (src, tgt)})
    assert result["layers"]["plain"] == 0 and result["layers"]["centred"] == 1
    assert result["retrieval 300"]["de"][0] == found_by_cosine(src[0], tgt[0]).tolist()
    centred = [held_out.means().subtract(*side)[1] for side in ((src, "de"), (tgt, "en"))]
    assert result["retrieval 300 centred"]["de"][0] == found_by_cosine(*centred).tolist()
