"""The figures of one model, from the files that its fine-tuning wrote."""

import pytest

from experiments import measure
from finetune.conll import TaggedSentence, write_conll
from utils.errors import UserError


def test_the_f1_of_named_entities_from_prediction_files(tmp_path):
    """In the first sentence one of two entities is predicted, in the second one an entity that is wrong."""
    sentences = [
        TaggedSentence(["Anna", "lebt", "in", "Rom"], ["B-PER", "O", "O", "B-LOC"], ["B-PER", "O", "O", "O"]),
        TaggedSentence(["Gut"], ["O"], ["B-ORG"]),
    ]
    write_conll(tmp_path / "test.de.tsv.3.120", sentences)
    # F1 is 2 x correct / (predicted + gold), here for each sentence.
    parts = [2 * 1, 2 * 0]
    wholes = [1 + 2, 1 + 0]
    assert measure.ner(tmp_path) == {"de": [parts, wholes]}


def test_predictions_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no test.<language>.tsv there; the fine-tuning has not finished"):
        measure.ner(tmp_path)
