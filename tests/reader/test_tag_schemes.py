"""IOB1, IOB2 and what conlleval makes of the rest."""

import re

import pytest

from reader.tagging import SchemeCheck, check_tag_map, entity_starts, inside, is_tag, to_iob2
from utils.errors import UserError


@pytest.mark.parametrize(
    ("tags", "iob2"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),  # IOB1
        ("I-PER B-PER I-LOC", "B-PER B-PER B-LOC"),  # IOB1, two neighbours of a type and one of another
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),  # IOB2
        ("B-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),  # neither
        ("O O", "O O"),
        ("I-A-B I-A", "B-A-B B-A"),
    ],
)
def test_iob2(tags, iob2):
    assert to_iob2(tags.split()) == iob2.split()
    assert to_iob2(iob2.split()) == iob2.split()


def test_starts():
    found = list(entity_starts(["I-PER", "B-PER", "I-PER", "O", "B-LOC", "I-ORG"]))
    assert [(start.position, start.adjoins) for start in found] == [
        (0, False),
        (1, True),
        (4, False),
        (5, False),
    ]


def test_tags():
    assert all(map(is_tag, ("O", "B-PER", "I-A-B")))
    assert not any(map(is_tag, ("", "o", "B", "B-", "E-PER", "BPER", "O-PER")))


def check(scheme, *sentences):
    """Sentences on line 2, 3, ..."""
    found = SchemeCheck(scheme, "x.tsv")
    for number, tags in enumerate(sentences, 2):
        found.add(tags.split(), number)


def test_a_file_in_its_scheme():
    iob1, iob2 = ("O I-PER", "I-PER B-PER"), ("O B-PER", "B-PER B-PER")
    check("IOB1", *iob1)
    check("IOB2", *iob2)
    check("IOB", *iob1)
    check("IOB", *iob2)


@pytest.mark.parametrize(
    ("scheme", "sentences", "message"),
    [
        ("IOB2", ["B-PER O", "O I-PER"], "x.tsv, line 3, token 2: I-PER begins an entity, which IOB2"),
        ("IOB2", ["B-PER I-LOC"], "line 2, token 2: I-LOC begins an entity, which IOB2 .* writes B-LOC"),
        ("IOB1", ["B-PER O"], "line 2, token 1: B-PER begins an entity, which IOB1 .* writes I-PER"),
        ("IOB1", ["I-LOC B-PER"], "line 2, token 2: B-PER"),
        (
            "IOB",
            ["B-PER O", "O I-LOC"],
            "line 3, token 2: I-LOC begins an entity, but line 2, token 1: B",
        ),
        ("IOB", ["I-LOC", "O B-PER"], "line 3, token 2: B-PER begins an entity, but line 2, token 1: I-LOC"),
    ],
)
def test_tags_that_break_it(scheme, sentences, message):
    with pytest.raises(UserError, match=message) as fault:
        check(scheme, *sentences)
    assert "prepare_conll.py" in str(fault.value)


LABELS = {"B-PER": 0, "I-PER": 1, "O": 2}


def test_a_map_of_tags():
    check_tag_map(LABELS, "m.json")
    check_tag_map({"O": 2, "I-PER": 0, "B-PER": 1}, "m.json")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"O": 0, "B-PER": 1, "I-PER": 2}, "m.json: O has the id 0; it must have the last id, 2"),
        ({"B-PER": 0, "I-PER": 1}, "m.json: O is not there; it must have the last id"),
        ({"B-PER": 0, "O": 1}, "m.json: there is B-PER but no I-PER"),
        ({"PER": 0, "O": 1}, "m.json: the label 'PER' is not O, B-<type> or I-<type>"),
    ],
)
def test_maps_that_are_none(labels, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_tag_map(labels, "m.json")


def test_the_labels_of_further_pieces():
    assert inside(["B-A", "I-A", "B-B", "I-B", "O"]) == [1, 1, 3, 3, 4]
    assert inside(["O", "B-A", "PER"]) == [0, 1, 2]  # of other libraries: without I-A, or no tags
