"""XTREME's metric of parts of speech: seqeval's F1 of tags without B- and I-."""

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from ernie_m.finetune.metrics import count_entity_matches
from ernie_m.reader.tag_schemes import find_entities

# The tags of Universal Dependencies, and others.
TAGS = [
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT",
    "SCONJ", "SYM", "VERB", "X", "O", "B-PER", "I-PER", ".", "-",
]  # fmt: skip


def sentences(rng: np.random.Generator, tags: list[str], lengths: np.ndarray) -> list[list[str]]:
    """Random tags for sentences of these lengths."""
    return [[str(tag) for tag in rng.choice(tags, length)] for length in lengths]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_equals_seqeval(seed):
    """Some seeds have few tags, which gives long runs, and others have almost all, which gives all pairs."""
    rng = np.random.default_rng(seed)
    tags = list(rng.choice(TAGS, int(rng.integers(2, len(TAGS))), replace=False))
    lengths = rng.integers(1, 30, 50)
    gold = sentences(rng, tags, lengths)
    predicted = sentences(rng, tags, lengths)
    for gold_tags, predicted_tags in zip(gold, predicted):
        is_right = rng.random(len(gold_tags)) < 0.7
        for location in np.flatnonzero(is_right):
            predicted_tags[location] = gold_tags[location]
    joined = []
    for tags_of_sentence in gold:
        joined += [*tags_of_sentence, "O"]  # seqeval puts an O after each sentence
    assert find_entities(joined) == set(get_entities(gold))
    scores = count_entity_matches(gold, predicted)
    assert scores.precision == pytest.approx(100 * precision_score(gold, predicted), abs=1e-10)
    assert scores.recall == pytest.approx(100 * recall_score(gold, predicted), abs=1e-10)
    assert scores.f1 == pytest.approx(100 * f1_score(gold, predicted), abs=1e-10)
