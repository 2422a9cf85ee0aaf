"""The tags of a tagger that others have trained: which scheme they are of, and what is not known."""

import pytest

from ernie_m.reader.tag_schemes import map_labels_to_iobes


@pytest.mark.parametrize(
    "labels, tags",
    [
        (["O", "B-PER", "I-PER"], ["O", "B-PER", "I-PER"]),
        (["O", "b-per", "i-per"], ["O", "B-per", "I-per"]),
        (["B-LOC", "I-LOC", "L-LOC", "U-LOC", "O"], ["B-LOC", "I-LOC", "E-LOC", "S-LOC", "O"]),
        (["O", "B_ORG", "M_ORG", "E_ORG", "S_ORG"], ["O", "B-ORG", "I-ORG", "E-ORG", "S-ORG"]),
        (["O", "B-ORG", "M-ORG", "E-ORG", "W-ORG"], ["O", "B-ORG", "I-ORG", "E-ORG", "S-ORG"]),
        (["O", "PER", "ORG"], ["O", "I-PER", "I-ORG"]),  # IO
        (["PER-B", "PER-I", "ORG_B", "O"], ["B-PER", "I-PER", "B-ORG", "O"]),
        (["B-PER", "I-PER"], ["B-PER", "I-PER"]),
        (["I-O", "B_O", "I-PER"], ["O", "O", "I-PER"]),  # of programs that give each word a letter
    ],
)
def test_known_schemes(labels, tags):
    assert map_labels_to_iobes(labels) == dict(zip(labels, tags))


@pytest.mark.parametrize("labels", [["NOUN", "VERB", "X"], ["0", "1"], [], ["i-adj", "na-adj", "noun"]])
def test_labels_that_mark_no_entities(labels):
    assert map_labels_to_iobes(labels) == {}


@pytest.mark.parametrize(
    "labels, others",
    [
        (["O", "B-PER", "I-PER", "X", "[CLS]"], {"X", "[CLS]"}),
        (["B-PER", "PER"], {"PER"}),
        (["O", "B-PER", "I-O"], {"I-O"}),
    ],
)
def test_name_labels_without_a_scheme(labels, others):
    """By those who ask: they are left out."""
    assert {*labels} - map_labels_to_iobes(labels).keys() == others
