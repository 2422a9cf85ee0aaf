"""XTREME's metric of parts of speech: seqeval's F1 of tags without B- and I-."""

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from finetune.metrics import seqeval_chunks, seqeval_scores
from scripts.data.treebank import PARTS_OF_SPEECH

TAGS = [*PARTS_OF_SPEECH, "O", "B-PER", "I-PER", ".", "-"]


def sentences(rng: np.random.Generator, tags: list[str], lengths: np.ndarray) -> list[list[str]]:
    return [[str(tag) for tag in rng.choice(tags, length)] for length in lengths]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_equals_seqeval(seed):
    """Few tags give long runs, and all of them give every pair of neighbours."""
    rng = np.random.default_rng(seed)
    tags = list(rng.choice(TAGS, int(rng.integers(2, len(TAGS))), replace=False))
    lengths = rng.integers(1, 30, 50)
    gold = sentences(rng, tags, lengths)
    predicted = sentences(rng, tags, lengths)
    for row, other in zip(gold, predicted):
        kept = rng.random(len(row)) < 0.7
        other[:] = [a if same else b for a, b, same in zip(row, other, kept)]
    joined = [tag for row in gold for tag in (*row, "O")]
    assert seqeval_chunks(joined) == set(get_entities(gold))
    scores = seqeval_scores(gold, predicted)
    assert scores.precision == pytest.approx(100 * precision_score(gold, predicted), abs=1e-10)
    assert scores.recall == pytest.approx(100 * recall_score(gold, predicted), abs=1e-10)
    assert scores.f1 == pytest.approx(100 * f1_score(gold, predicted), abs=1e-10)
