"""The figures of one model, from the files that its fine-tuning wrote."""

import pytest

from experiments import measure
from finetune.conll import TaggedSentence, write_conll
from utils.errors import UserError


def test_the_f1_of_named_entities_from_prediction_files(tmp_path):
    """The first sentence has one of two entities right, the second one predicts an entity that is none."""
    sentences = [
        TaggedSentence(["Anna", "lebt", "in", "Rom"], ["B-PER", "O", "O", "B-LOC"], ["B-PER", "O", "O", "O"]),
        TaggedSentence(["Gut"], ["O"], ["B-ORG"]),
    ]
    write_conll(tmp_path / "test.de.tsv.3.120", sentences)
    parts = [2, 0]  # twice the correct entities
    wholes = [3, 1]  # the predicted and the gold ones
    assert measure.ner(tmp_path) == {"de": [parts, wholes]}


def test_predictions_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no test.<language>.tsv there; the fine-tuning has not finished"):
        measure.ner(tmp_path)
