"""Predictions in XTREME's layout, byte by byte: names, lines, one submission per seed."""

from types import SimpleNamespace

import numpy as np
import pytest

from finetune.classification import Classification
from finetune.question_answering import QuestionAnswering
from finetune.tagging import OfficialPrediction, OfficialTagging, Tagging
from reader.tagging import JOINT, Sentence
from reader.tokenization import Tokenizer
from tests.finetune import tagging_toy


@pytest.mark.parametrize(
    ("labels", "best", "expected"),
    [
        (["contradiction", "entailment", "neutral"], [2, 1], b"neutral\nentailment\n"),  # XNLI
        (["0", "1"], [1, 0], b"1\n0\n"),  # PAWS-X
    ],
)
def test_classification(tmp_path, labels, best, expected):
    task = Classification(None, labels, 64)
    task.write_xtreme(tmp_path / "test-de.tsv", [None, None], list(np.eye(len(labels))[best]))
    assert (tmp_path / "test-de.tsv").read_bytes() == expected


@pytest.mark.parametrize("official", [False, True])
def test_tagging(tmp_path, official):
    tagging_toy.make(tmp_path)
    tokenizer = Tokenizer(None, tmp_path / "piece.model")
    data = [Sentence(JOINT.join(["anna", "stone"]), None), Sentence("rome", None)]
    found = [np.array([0, 1]), np.array([2])]  # B-PER I-PER, B-LOC
    if official:
        found = [OfficialPrediction(None, None, words) for words in found]
    task = (OfficialTagging if official else Tagging)(tokenizer, tagging_toy.TAGS, 64)
    task.write_xtreme(tmp_path / "test-en.tsv", data, found)
    assert (tmp_path / "test-en.tsv").read_bytes() == b"B-PER\nI-PER\n\nB-LOC\n"


def test_answers(tmp_path, monkeypatch):
    questions = [SimpleNamespace(id="q1"), SimpleNamespace(id="q2")]
    data = SimpleNamespace(file=SimpleNamespace(questions=questions))
    answer = SimpleNamespace(text="Zürich \u201ealt\u201c")
    monkeypatch.setattr(QuestionAnswering, "rank", lambda *_: [[answer], []])
    task = object.__new__(QuestionAnswering)
    task.write_xtreme(tmp_path / "test-de.json", data, [])
    assert (tmp_path / "test-de.json").read_bytes() == (
        '{\n "q1": "Zürich \u201ealt\u201c",\n "q2": ""\n}\n'.encode()
    )


@pytest.mark.parametrize(
    "changes",
    [{"xtreme_save": "x"}, {"xtreme_save": "x", "do_test": "true", "test_set": "a,b", "test_save": "c,d"}],
)
def test_flags_that_do_not_go_together(refused, changes):
    assert refused(**changes).startswith(
        "error: --xtreme_save needs --do_test true, one pattern in --test_set"
    )
