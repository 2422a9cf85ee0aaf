"""Near-duplicates are all pairs of texts above a cosine, the nearest first."""

import numpy as np
import pytest

import ernie_m
from examples.near_duplicates import find_near_duplicates
from tests.toys import sentences


@pytest.mark.slow
def test_near_duplicates_are_all_pairs_above_the_threshold(models):
    model = ernie_m.load(models / "encode")
    texts = sentences(12, seed=5)
    embeddings = model.encode(texts, normalize=True)
    cosines = embeddings @ embeddings.T
    threshold = float(np.median(cosines))
    found = find_near_duplicates(model, texts, threshold)
    pairs = {(first, second) for _, first, second in found}
    locations = [(a, b) for b in range(len(texts)) for a in range(b) if cosines[a, b] > threshold]
    assert len(found) == len(pairs) > 3 and pairs == {(texts[a], texts[b]) for a, b in locations}
    assert found == sorted(found, reverse=True)
