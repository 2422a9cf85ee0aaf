"""Entity scores are conlleval's, to the last digit."""

import re

import numpy as np
import pytest

from finetune import tagging as conll
from finetune.metrics import entity_scores
from finetune.tagging import TaggedSentence, read_conll, write_conll, write_xtreme
from utils.errors import UserError


def scores(gold: str, predicted: str):
    """Sentences are parted by "/"."""
    return entity_scores(*([part.split() for part in text.split("/")] for text in (gold, predicted)))


@pytest.mark.parametrize(
    ("gold", "predicted", "counts"),
    [
        ("B-A I-A O B-B", "B-A I-A O B-B", (2, 2, 2)),
        ("I-A I-A O I-B", "B-A I-A O B-B", (2, 2, 2)),  # an I- that continues nothing begins an entity
        ("B-A I-A O", "B-A O O", (1, 1, 0)),  # too short
        ("B-A I-A O", "B-A I-A I-A", (1, 1, 0)),  # too long
        ("B-A I-A", "B-A I-B", (1, 2, 0)),  # another type begins another entity
        ("B-A I-A", "B-B I-B", (1, 1, 0)),
        ("B-A B-A", "B-A I-A", (2, 1, 0)),
        ("I-A B-A", "B-A B-A", (2, 2, 2)),
        ("O I-A / I-A", "O I-A / I-A", (2, 2, 2)),  # none goes on in the next sentence
        ("O O", "O O", (0, 0, 0)),
    ],
)
def test_entities(gold, predicted, counts):
    found = scores(gold, predicted).overall
    assert (found.gold, found.predicted, found.right) == counts


def test_the_report():
    found = scores("B-PER I-PER O B-LOC / B-LOC", "B-PER I-PER B-LOC O / B-LOC")
    assert (found.words, found.right_tags) == (5, 3)
    assert found.report() == (
        "processed 5 tokens with 3 phrases; found: 3 phrases; correct: 2.\n"
        "accuracy:  60.00%; precision:  66.67%; recall:  66.67%; FB1:  66.67\n"
        "              LOC: precision:  50.00%; recall:  50.00%; FB1:  50.00  2\n"
        "              PER: precision: 100.00%; recall: 100.00%; FB1: 100.00  1\n"
    )


def by_states(sentences: list[list[tuple[str, str]]]) -> tuple[int, int, int]:
    """conlleval's own way: one pass, with a flag that says that both tags stand in the same entity."""

    def begins(before, tag):
        return tag != "O" and (tag[0] == "B" or before == "O" or before[2:] != tag[2:])

    def ends(tag, after):
        return tag != "O" and (after == "O" or after[0] == "B" or after[2:] != tag[2:])

    gold = predicted = right = 0
    for sentence in sentences:
        inside, before = False, ("O", "O")
        for now in [*sentence, ("O", "O")]:
            if inside:
                over = [ends(old, new) for old, new in zip(before, now)]
                right += all(over)
                inside = not any(over)
            begun = [begins(old, new) for old, new in zip(before, now)]
            gold, predicted = gold + begun[0], predicted + begun[1]
            inside = inside or (all(begun) and now[0][2:] == now[1][2:])
            before = now
    return gold, predicted, right


@pytest.mark.parametrize("seed", range(5))
def test_irregular_sequences(seed):
    rng = np.random.default_rng(seed)
    tags = ["O", "B-A", "I-A", "B-B", "I-B"]
    gold = [rng.choice(tags, rng.integers(1, 12)).tolist() for _ in range(50)]
    predicted = [[tag if rng.random() < 0.7 else str(rng.choice(tags)) for tag in line] for line in gold]
    found = entity_scores(gold, predicted).overall
    pairs = [list(zip(*both)) for both in zip(gold, predicted)]
    assert (found.gold, found.predicted, found.right) == by_states(pairs)
    assert 0 < found.right < found.gold


def test_conlleval_on_600_sequences(data_dir, capsys):
    folder = data_dir / "ner" / "official-scores"
    conll.main([str(folder / "tagged.txt")])
    assert capsys.readouterr().out == (folder / "conlleval-output.txt").read_text()


SENTENCES = [
    TaggedSentence(["El", "Niño"], ["O", "B-MISC"], ["O", "O"]),
    TaggedSentence(["前", "a b", "\xa0"], ["B-LOC", "I-LOC", "O"], ["B-LOC", "I-LOC", "O"]),
]


def test_the_form(tmp_path):
    write_conll(tmp_path / "a.txt", SENTENCES)
    text = "El O O\nNiño B-MISC O\n\n前 B-LOC B-LOC\na_b I-LOC I-LOC\n_ O O\n\n"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    read = read_conll(tmp_path / "a.txt")
    assert [list(one.words) for one in read] == [["El", "Niño"], ["前", "a_b", "_"]]
    assert [list(one.gold) for one in read] == [one.gold for one in SENTENCES]
    write_conll(tmp_path / "b.txt", [one._replace(gold=None) for one in SENTENCES])
    assert (tmp_path / "b.txt").read_text(encoding="utf-8").startswith("El O\nNiño O\n\n前 B-LOC\n")
    assert read_conll(tmp_path / "b.txt")[0] == TaggedSentence(("El", "Niño"), None, ("O", "O"))


def test_xtreme(tmp_path, capsys):
    write_xtreme(tmp_path / "test-es.tsv", SENTENCES)
    assert (tmp_path / "test-es.tsv").read_text() == "O\nO\n\nB-LOC\nI-LOC\nO\n"
    write_conll(tmp_path / "a.txt", SENTENCES)
    conll.main([str(tmp_path / "a.txt"), "--xtreme", str(tmp_path / "again.tsv")])
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "test-es.tsv").read_bytes()
    assert capsys.readouterr().out.startswith(
        "processed 5 tokens with 2 phrases; found: 1 phrases; correct: 1."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no words in it"),
        (b"word\n", "line 1: 1 columns, not 2"),
        (b"a O O\n\nb O\n", "line 3: 2 columns, not 3"),
        (b"a O\n", "two columns, so no gold tags"),
        (b"\xff O O\n", "not UTF-8"),
    ],
)
def test_files_that_are_not_of_the_form(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        conll.main([str(tmp_path / "x.txt")])
    with pytest.raises(UserError, match="absent.txt: cannot read it"):
        conll.main([str(tmp_path / "absent.txt")])
