"""Retrieval measured three ways is that of searches by hand, with means that come from other pairs."""

import numpy as np
import pytest

from evaluation.retrieval import found_by_cosine, found_by_margin
from evaluation.search import unit
from experiments.three_ways import EVEN, ODD, accuracies, means_of, retrieval, rows_of


def made_up(count, seed, direction=0.0, noise=0.6):
    """Vectors of sentences and of their translations at two layers, both [L + 1 = 2, N, H = 8].

    Args:
        direction: is added to the first number of each source vector; all sources share it.
        noise: the distance of translations at layer 1. At layer 0 it is three times as large.
    """
    rng = np.random.default_rng(seed)
    tgt = rng.normal(size=(2, count, 8))
    noise_of_layers = noise * np.array([3.0, 1.0])[:, None, None]  # [L + 1, 1, 1]
    src = tgt + noise_of_layers * rng.normal(size=tgt.shape)
    src[:, :, 0] += direction
    return src.astype(np.float32), tgt.astype(np.float32)


def margin_by_hand(queries, targets):
    """Whether each query finds its translation by the ratio margin with k = 4, bool [N].

    The ratio is the cosine divided by the mean cosine of the four nearest neighbours of both sentences.
    """
    cosines = unit(queries).astype(np.float64) @ unit(targets).astype(np.float64).T  # [N, N]
    is_correct = []
    for query, row in enumerate(cosines):
        around_query = np.sort(row)[-4:].mean()
        ratios = {}
        for target in np.argsort(-row)[:4]:
            around_target = np.sort(cosines[:, target])[-4:].mean()
            ratios[target] = row[target] / ((around_query + around_target) / 2)
        is_correct.append(max(ratios, key=ratios.get) == query)
    return np.array(is_correct)


def test_pairs_are_counted_in_both_directions():
    src_layers, tgt_layers = made_up(60, seed=1)
    src = src_layers[1]
    tgt = tgt_layers[1]
    cosines = unit(src) @ unit(tgt).T
    rows = np.arange(60)
    by_cosine = (cosines.argmax(axis=1) == rows).astype(int) + (cosines.argmax(axis=0) == rows)
    assert found_by_cosine(src, tgt).tolist() == by_cosine.tolist()
    by_margin = margin_by_hand(src, tgt).astype(int) + margin_by_hand(tgt, src)
    assert found_by_margin(src, tgt).tolist() == by_margin.tolist()
    assert by_margin.tolist() != by_cosine.tolist(), "the margin should choose otherwise somewhere"


@pytest.fixture
def held_out():
    """Two language pairs. German has a direction that is far larger than the sentences' vectors."""
    de, en = made_up(80, seed=2, direction=30.0)
    fr, en_of_fr = made_up(60, seed=3)
    return {("de", "en"): (de, en), ("en", "fr"): (en_of_fr, fr)}


def test_the_means_come_from_other_pairs(held_out):
    """The even pairs do not change the means of the odd ones."""
    de, _ = held_out["de", "en"]
    _, fr = held_out["en", "fr"]
    assert means_of(held_out).languages == ["de", "en", "fr"]
    before = means_of(rows_of(held_out, ODD)).vectors.copy()
    de[:, EVEN] += 100  # the array of `held_out` itself
    assert (means_of(rows_of(held_out, ODD)).vectors == before).all()
    mean_of_fr = means_of(rows_of(held_out, ODD)).vectors[2]  # [L + 1, H]
    np.testing.assert_allclose(mean_of_fr, fr[:, 1::2].mean(axis=1), atol=1e-5)


def test_a_language_direction_hides_translations_until_it_is_removed(held_out):
    """German has such a direction, in the held-out pairs and in the bitexts."""
    of_ways = accuracies(held_out)  # way -> [L + 1]
    for way in ("centred", "centred margin"):  # at layer 1
        assert of_ways[way][1] > of_ways["plain"][1] + 0.2
    bitexts = {"de": made_up(320, seed=4, direction=30.0), "fr": made_up(200, seed=5)}
    result = retrieval(held_out, bitexts)
    assert result["layers"] == {"plain": 1, "centred": 1, "centred margin": 1}  # there is less noise

    def directions_found(key):
        """In how many directions German pairs are found, of all pairs together."""
        directions, _ = result[key]["de"]
        return sum(directions)

    assert directions_found("retrieval 300 centred") > directions_found("retrieval 300") + 50
    assert directions_found("retrieval 300 centred margin") > directions_found("retrieval 300 centred")
    # By hand: each side without the mean of its language at layer 1. English has one mean, of both pairs.
    src, tgt = bitexts["de"]
    de_mean, en_mean, _ = means_of(held_out).vectors[:, 1]
    centred = found_by_cosine(src[1, :300] - de_mean, tgt[1, :300] - en_mean)
    assert result["retrieval 300 centred"]["de"] == [centred.tolist(), [2] * 300]
    directions, _ = result["retrieval 1000"]["de"]
    assert len(directions) == 320, "all pairs, because there are fewer than 1000"
    # The nearest mean names the language of all German sentences, at both layers.
    assert result["named"]["de"] == {"right": [320, 320], "sentences": 320}
    assert result["named"]["en"]["sentences"] == 320 + 200


def test_each_way_has_its_own_layer():
    """At layer 1 German vectors are the English ones, but moved by a direction; at layer 0 they have noise.

    So plain vectors are best at layer 0 and centred ones at layer 1.
    """
    de, en = made_up(80, seed=2)
    de[0] = (de[0] + 3 * en[0]) / 4  # less noise than `made_up` gives
    de[1] = en[1]
    de[1, :, 0] += 300
    held_out = {("de", "en"): (de, en)}
    src, tgt = made_up(50, seed=6)
    result = retrieval(held_out, {"de": (src, tgt)})
    assert result["layers"]["plain"] == 0
    assert result["layers"]["centred"] == 1
    plain_directions, _ = result["retrieval 300"]["de"]
    assert plain_directions == found_by_cosine(src[0], tgt[0]).tolist()
    centred_src = means_of(held_out).subtract(src, "de")[1]
    centred_tgt = means_of(held_out).subtract(tgt, "en")[1]
    centred_directions, _ = result["retrieval 300 centred"]["de"]
    assert centred_directions == found_by_cosine(centred_src, centred_tgt).tolist()
