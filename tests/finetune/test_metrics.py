"""Scores are those of XTREME's evaluate.py, conlleval and seqeval, to the last digit."""

import re

import numpy as np
import pytest

from ernie_m.finetune.classifier import Classification, Regression
from ernie_m.finetune.metrics import MatchCounts, accuracy, count_entity_matches, pearson, spearman
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.reader.files.official_tags import JOINT, Sentence
from ernie_m.reader.tag_schemes import find_entities
from tests.helpers.conll import read_conll
from tests.helpers.files import write_file
from tests.helpers.letters import Letters


def test_accuracy_equals_xtreme_to_the_last_digit():
    """XTREME multiplies last: 1 / 3 * 100 is 33.33333333333333, but 100 * 1 / 3 is 33.333333333333336."""
    as_in_xtreme = 1 / 3 * 100
    assert as_in_xtreme != 100 * 1 / 3
    assert accuracy([1, 0, 0], [1, 1, 1]) == as_in_xtreme
    with pytest.raises(ValueError, match="zip"):
        accuracy([1], [1, 1])


@pytest.mark.parametrize(
    ("correct", "count", "steps", "accuracy", "error"),
    [(3, 4, 2, "0.750000", "2.000000"), (0, 0, 2, "0.000000", "2.000000"), (0, 0, 0, "nan", "nan")],
)
def test_training_metrics_in_the_log(correct, count, steps, accuracy, error):
    """If all steps were skipped there are none. The loss of a regression is its mean squared error."""
    sums = {"correct": correct, "count": count, "steps": steps, "loss": 4.0 * steps}
    lines = [
        task.format_training_metric(sums) for task in (Classification(None, "ab", 9), Regression(None, 9))
    ]
    assert lines == [f"ave acc: {accuracy}", f"root mean squared error: {error}"]


NO_SCORE = (None, None, None)


@pytest.mark.parametrize(
    ("counts", "rates"),
    [((4, 2, 1), (50, 25, 100 / 3)), ((2, 0, 0), (0, 0, 0)), ((0, 2, 0), NO_SCORE), ((0, 0, 0), NO_SCORE)],
)
def test_rates_without_predictions_are_zero_and_without_gold_no_score(counts, rates):
    found = MatchCounts(*counts)
    assert (found.precision, found.recall, found.f1) == pytest.approx(rates)


def scores(gold: str, predicted: str) -> MatchCounts:
    """Scores of tags that are separated by spaces, in sentences that are separated by "/"."""
    return count_entity_matches(
        *([sentence.split() for sentence in text.split("/")] for text in (gold, predicted))
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "counts"),
    [
        # gold tags, predicted tags, (gold, predicted, correct) entities
        ("B-A I-A O B-B", "B-A I-A O B-B", (2, 2, 2)),
        ("I-A I-A O I-B", "B-A I-A O B-B", (2, 2, 2)),  # an I- that continues nothing begins an entity
        ("B-A I-A O", "B-A O O", (1, 1, 0)),  # too short
        ("B-A I-A O", "B-A I-A I-A", (1, 1, 0)),  # too long
        ("B-A I-A", "B-A I-B", (1, 2, 0)),  # another type begins another entity
        ("B-A I-A", "B-B I-B", (1, 1, 0)),  # the type is wrong
        ("B-A B-A", "B-A I-A", (2, 1, 0)),  # B- begins an entity where I- continues one
        ("I-A B-A", "B-A B-A", (2, 2, 2)),
        ("O I-A / I-A", "O I-A / I-A", (2, 2, 2)),  # none continues in the next sentence
        ("O O", "O O", (0, 0, 0)),
    ],
)
def test_count_entities(gold, predicted, counts):
    assert scores(gold, predicted) == counts


@pytest.mark.parametrize(
    ("tags", "chunks"),
    [
        ("DET NOUN NOUN VERB", {("ET", 0, 0), ("OUN", 1, 2), ("ERB", 3, 3)}),  # equal tags are one chunk
        ("SYM SYM", {("YM", 0, 0), ("YM", 1, 1)}),  # S- is alone
        ("INTJ INTJ", {("NTJ", 0, 1)}),  # I- continues
        ("CCONJ SCONJ", {("CONJ", 1, 1)}),  # one type: the S begins again, and nothing ended before it
        ("SCONJ CCONJ NOUN", {("CONJ", 0, 0), ("CONJ", 0, 1), ("OUN", 2, 2)}),
        ("X NOUN X", {("_", 0, 0), ("OUN", 1, 1)}),  # the end of a sentence does not end an X
    ],
)
def test_part_of_speech_chunks(tags, chunks):
    """Sets of (type, first index, last index), worked by hand; tests/parity compares with seqeval itself.

    seqeval takes the first letter of a tag for its prefix, as B is that of B-PER, and the rest for the type.
    """
    assert find_entities([*tags.split(), "O"]) == chunks


def test_conlleval_on_600_sequences(data_dir):
    folder = data_dir / "ner" / "official-scores"
    sentences = read_conll(folder / "tagged.txt")
    gold = [sentence.gold for sentence in sentences]
    computed = count_entity_matches(gold, [sentence.predicted for sentence in sentences])
    output = (folder / "conlleval-output.txt").read_text()
    counts = re.search(r"with (\d+) phrases; found: (\d+) phrases; correct: (\d+)\.", output)
    assert list(computed) == [int(count) for count in counts.groups()]
    totals = output.splitlines()[1]
    f1 = f"{computed.f1:6.2f}"
    assert f"precision: {computed.precision:6.2f}%; recall: {computed.recall:6.2f}%; FB1: {f1}" in totals


@pytest.mark.parametrize("purposes", [("train", "dev"), ("dev", "train")])
def test_training_records_what_words_are(tmp_path, purposes):
    """In its file, not in one that is evaluated."""
    task = Tagging(Letters(), ["B-LOC", "I-LOC", "O"], max_seq_len=64)
    for purpose, words in zip(purposes, (["Rome,", "so:"], ["Rome", ",", *"北京市的王明住在罗马"])):
        path = write_file(
            tmp_path / f"{purpose}.tsv",
            f"text_a\tlabel\n{JOINT.join(words)}\t{JOINT.join('O' * len(words))}\n",
        )
        task.read(path, purpose)
    assert task.get_pipeline_settings() == {
        "label_pieces": "first",
        "official_compat": False,
        "chunk_scheme": None,
        "marks_apart": purposes[1] == "train",
        "character_scripts": ["Han"] if purposes[1] == "train" else [],
    }


def test_prediction_file_format(tmp_path):
    """A word, its gold tag if there is one, and its predicted tag in a line; no white space within a word.

    In the text U+0002 separates the words.
    """
    task = Tagging(Letters(), ["B-MISC", "I-MISC", "B-LOC", "I-LOC", "O"], max_seq_len=64)
    rows = [Sentence("El\x02Niño", (4, 0)), Sentence("前\x02a b\x02\xa0", (2, 3, 4))]
    predictions = [np.array([4, 4]), np.array([2, 3, 4])]  # the id of each word's tag
    without_gold = [sentence._replace(labels=None) for sentence in rows]
    for written, text in (
        (rows, "El O O\nNiño B-MISC O\n\n前 B-LOC B-LOC\na_b I-LOC I-LOC\n_ O O\n\n"),
        (without_gold, "El O\nNiño O\n\n前 B-LOC\na_b I-LOC\n_ O\n\n"),
    ):
        task.write(tmp_path / "a.txt", written, predictions)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    # Those that --metric compares.
    assert task.get_gold_values(rows) == [["O", "B-MISC"], ["B-LOC", "I-LOC", "O"]]
    assert task.get_predicted_values(rows, predictions) == [["O", "O"], ["B-LOC", "I-LOC", "O"]]


def test_equal_numbers_have_no_correlation():
    """Of equal predictions there is one, 0."""
    assert (pearson([1.0, 2.0], [3, 3]), spearman([1.0, 2.0], [-1, -1])) == (None, None)
    assert (pearson([3, 3], [1.0, 2.0]), spearman([3, 3], [1.0, 2.0])) == (0.0, 0.0)
