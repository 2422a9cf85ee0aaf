"""The figures of one model, from the files that its fine-tuning wrote."""

import pytest

from experiments import measure
from finetune.tagging import TaggedSentence, write_conll
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


@pytest.mark.parametrize(
    ("content", "place"), [("0\t0.9\t0.1\n", "1 predictions"), ("\0\n\0\n", "test.de.tsv.3.120")]
)
def test_damaged_predictions(tmp_path, content, place):
    (tmp_path / "label_map.json").write_text('{"no": 0, "yes": 1}')
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dev.de.tsv").write_text("text_a\tlabel\na\tno\nb\tyes\n")
    path = tmp_path / "test.de.tsv.3.120"
    path.write_text("0\t0.9\t0.1\n0\t0.8\t0.2\n")
    assert measure.xnli(tmp_path, tmp_path) == {"de": [[1, 0], [1, 1]]}
    path.write_text(content)
    with pytest.raises(UserError, match=place):
        measure.xnli(tmp_path, tmp_path)


def test_a_damaged_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1}\n{"step": 5, "held_out": {"mmlm": {}}}\n')
    assert measure.held_out(path) == [{"step": 5, "mmlm": {}}]
    for content, place in (('{"step": 5, "loss": 1}\n{"step": 5, "held_ou', ", line 2"), ("", "")):
        path.write_text(content)
        with pytest.raises(UserError, match=f"metrics.jsonl{place}: damaged"):
            measure.held_out(path)
