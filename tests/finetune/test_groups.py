"""Rows that belong together, and the scores of tables with translations."""

import logging

import numpy as np
import pytest

from ernie_m.finetune.fit import groups
from ernie_m.finetune.fit.folds import FOLDS, folds_of
from ernie_m.finetune.fit.groups import groups_of
from ernie_m.finetune.fit.scored import Scored
from ernie_m.finetune.fit.units import Classes
from ernie_m.inference.fit_head import cross_validated

LANGUAGES = ["en", "de", "tr", "zh"]


def translated(
    sentences: int, languages: int = 4, noise: float = 0.3
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A vector of each sentence in each language, [N, 64], and the language and the sentence of each row."""
    random = np.random.default_rng(3)
    numbers = np.tile(np.arange(sentences), languages)
    rows = np.repeat(np.arange(languages), sentences)  # the language of each row
    vectors = random.normal(size=(sentences, 64))[numbers] + 2 * random.normal(size=(languages, 64))[rows]
    vectors += noise * random.normal(size=vectors.shape)
    return vectors.astype(np.float32), [LANGUAGES[row] for row in rows], numbers


def texts_of(count: int) -> list[list[str]]:
    return [[f"text {number}"] for number in range(count)]


def rows_with(labels) -> Classes:
    """Rows with these labels, each with a text of its own."""
    rows = Classes.of(texts_of(len(labels)), labels)
    rows.make_task(tokenizer=None, max_seq_len=8)
    return rows


def scores_of(vectors, groups, labels):
    return cross_validated(vectors, groups, rows_with(labels)).summary()


def folds_of_equal_texts(inputs, labels):
    """The folds as they were before there were groups: each new text of a label goes to the next fold."""
    fold_of_text = {}
    counts = dict.fromkeys(labels, 0)
    for row in np.random.default_rng(1).permutation(len(inputs)):
        text = " ".join(inputs[row][0].split())
        if text not in fold_of_text:
            fold_of_text[text] = counts[labels[row]] % FOLDS
            counts[labels[row]] += 1
    return [fold_of_text[" ".join(text.split())] for (text,) in inputs]


@pytest.mark.parametrize("seed", range(20))
def test_folds_of_one_language(seed):
    """They are those of equal texts, whatever the vectors say."""
    random = np.random.default_rng(seed)
    count = int(random.integers(40, 300))
    inputs = [[f"text {number}" + " " * (number % 3)] for number in random.integers(0, count, count)]
    labels = [f"label {number}" for number in random.integers(0, 5, count)]
    vectors = random.normal(size=(count, 3)).astype(np.float32)
    languages = ["en"] * count if seed % 2 else []
    unshared = [str(number) for number in range(count)] if seed % 3 else []
    found = folds_of(groups_of(inputs, labels, vectors, languages, unshared), labels)
    assert found.tolist() == folds_of_equal_texts(inputs, labels)


def test_translations_stay_together_and_chance_is_scored_as_chance():
    """Labels drawn for each sentence say nothing of another one, and are the same in all its languages."""
    vectors, languages, numbers = translated(60)
    drawn = np.random.default_rng(5).integers(0, 4, 60)
    labels = [str(label) for label in drawn[numbers]]
    said = []
    found = groups_of(texts_of(240), labels, vectors, languages, say=said.append)
    assert [np.unique(found[numbers == number]).size for number in range(60)] == [1] * 60
    assert np.unique(found).size == 60
    assert said == [
        "240 of 240 rows are scored together with others: 240 are each other's nearest in two languages"
    ]
    scores = scores_of(vectors, found, labels)
    assert abs(scores["accuracy"] - 25) < 2 * scores["standard_error"]
    assert 4 < scores["standard_error"] < 8  # that of 60 sentences is 5.6, of 240 rows 2.8
    leaked = scores_of(vectors, groups_of(texts_of(240), labels, vectors), labels)
    assert leaked["accuracy"] > 80


def test_sentences_that_are_no_translations_stay_apart():
    random = np.random.default_rng(7)
    vectors = random.normal(size=(400, 64)).astype(np.float32)
    languages = [LANGUAGES[number % 4] for number in range(400)]
    found = groups_of(texts_of(400), ["a", "b"] * 200, vectors, languages)
    assert (np.bincount(found)[found] > 1).mean() <= 0.05


def test_ids_and_texts_join_what_they_share(caplog):
    """0 and 1 have an id, 1 and 2 a text; a row without an id is alone."""
    inputs = texts_of(40)
    inputs[2] = [" text  1 "]
    ids = ["x", "x", *map(str, range(2, 38)), "", ""]
    said = []
    found = groups_of(inputs, ["a", "b"] * 20, np.eye(40, dtype=np.float32), ids=ids, say=said.append)
    assert np.flatnonzero(np.bincount(found)[found] > 1).tolist() == [0, 1, 2]
    assert found[0] == found[1] == found[2]
    assert said == ["3 of 40 rows are scored together with others: 2 have equal texts, 2 have the same id"]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        (["x"] * 5, ["a", "b"] * 20),  # five of forty rows are more than a tenth
        (["x"] * 3, ["c"] * 3 + ["a", "b"] * 18 + ["a"]),  # all rows of a label
    ],
)
def test_what_is_too_large_is_said_and_not_joined(ids, labels, caplog):
    count = len(ids)
    ids = [*ids, *(str(number) for number in range(40 - count))]
    inputs = texts_of(40)
    inputs[1] = inputs[0]  # equal texts are always together
    found = groups_of(inputs, labels, np.eye(40, dtype=np.float32), ids=ids)
    assert np.flatnonzero(np.bincount(found)[found] > 1).tolist() == [0, 1]
    (message,) = caplog.messages
    assert message.startswith(f"{count} rows that seem to belong together are scored apart")


def test_a_language_of_few_rows_is_not_compared(caplog):
    vectors, languages, numbers = translated(30)
    kept = [row for row, language in enumerate(languages) if language != "zh" or numbers[row] < 4]
    found = groups_of(texts_of(len(kept)), ["a", "b"] * 47, vectors[kept], [languages[row] for row in kept])
    assert (np.bincount(found)[found[-4:]] == 1).all() and (np.bincount(found)[found[:90]] == 3).all()
    assert caplog.messages[0].startswith("4 rows are not compared")


def test_near_texts_without_languages_are_warned_of(caplog):
    """Once, and nothing is joined."""
    vectors, languages, _ = translated(50, 2)
    labels = ["a", "b"] * 50
    assert groups_of(texts_of(100), labels, vectors).tolist() == list(range(100))
    (message,) = caplog.messages
    assert message.startswith("100 % of the texts are near another one")
    caplog.clear()
    groups_of(texts_of(50), labels[:50], vectors[:50])  # one language
    copies = np.tile(vectors[:50], (2, 1))  # equal texts are no twins
    groups_of([*texts_of(50), *texts_of(50)], labels, copies)
    groups_of(texts_of(100), labels, vectors, languages)
    assert not caplog.messages


def test_a_sample_of_many_texts_is_compared(monkeypatch, caplog):
    monkeypatch.setattr(groups, "_SAMPLE", 30)
    vectors, _, _ = translated(50, 2)
    groups_of(texts_of(100), ["a", "b"] * 50, vectors)
    assert len(caplog.messages) == 1


def test_there_is_always_a_text_to_learn_from():
    """Here each group begins with another label, so each would be the first one of its label."""
    labels = ["a", "b", "b", "a"]
    folds = folds_of(np.array([0, 0, 1, 1]), labels)
    assert folds[0] == folds[1] != folds[2] == folds[3]


def test_the_folds_are_counted():
    """Of two texts a label there are two."""
    scored = cross_validated(np.eye(4), np.arange(4), rows_with(["a", "a", "b", "b"]))
    assert scored.folds == 2


def test_the_standard_error_is_that_of_groups():
    """Ten rows of a group that are right or wrong together say no more than one."""
    random = np.random.default_rng(2)
    right = random.random(30) < 0.7
    probabilities = np.stack([right, ~right], axis=1).astype(float)
    one = Scored(rows_with(["a", *["b"] * 29]), np.arange(30), probabilities, np.arange(30), 5)
    one.units.items = [item._replace(label=0) for item in one.units.items]
    ten = Scored(
        one.units, np.arange(30).repeat(10), probabilities.repeat(10, 0), np.arange(30).repeat(10), 5
    )
    one, ten = one.summary(), ten.summary()
    share = 100 * right.mean()
    assert one["standard_error"] == pytest.approx((share * (100 - share) / 29) ** 0.5)
    assert ten["standard_error"] == pytest.approx(one["standard_error"])
    assert ten["accuracy"] == one["accuracy"]


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING)
