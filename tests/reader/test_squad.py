"""SQuAD v1.1 JSON: what is read, and one line for everything that can be wrong."""

import json

import pytest

from reader.squad import read_squad
from utils.errors import UserError

TEXT = "Anna lives in Rome. Bela, who knows her, lives in Oslo."


def answer(text: str = "Rome", start: int = 14) -> dict:
    return {"text": text, "answer_start": start}


def qa(id_: str = "1", answers: list | None = None, **more) -> dict:
    answers = [answer()] if answers is None else answers
    return {"id": id_, "question": "Where does Anna live?", "answers": answers, **more}


def article(*qas: dict, context: str = TEXT) -> dict:
    return {"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}


@pytest.fixture
def read(tmp_path):
    """read(articles or any JSON value, purpose) reads it from a file."""

    def call(value, purpose: str = "dev"):
        path = tmp_path / "dev.json"
        value = {"data": value} if isinstance(value, list) else value
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return read_squad(path, purpose)

    return call


def test_what_is_read(read):
    articles = [
        article(qa("1"), qa("2", [answer("Oslo", 50), answer("Oslo.", 50)])),
        article(qa("3", [answer("Ｒome", 3)]), context="In Ｒome."),
    ]
    file = read(articles)
    assert file.contexts == [TEXT, "In Ｒome."]
    first, second, third = file.questions
    assert first == ("1", "Where does Anna live?", 0, ("Rome",), (14, 18))
    assert (second.answers, second.span) == (("Oslo", "Oslo."), (50, 54))
    assert (third.context, third.span) == (1, (3, 7))


def test_an_id_may_be_a_number_and_a_test_file_needs_no_answers(read):
    bare = {"id": 7, "question": "Who?"}
    (question,) = read([article(bare)], "test").questions
    assert (question.id, question.answers, question.span) == ("7", (), None)
    (question,) = read([article(qa(answers=[answer("nowhere", 3)]))], "test").questions
    assert question.answers == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "the file is empty; the form is"),
        ("[" * 100_000, "not JSON (nested too deeply); the form is"),
        ('{"data": ' + "9" * 5000, "not JSON (a number of thousands of digits)"),
        ('{"data":\n [}', "line 2, column 3: not JSON"),
        ('["data"]', "holds no object"),
        ("{}", "data: missing"),
        ({"data": {}}, "data: an object where a list should be"),
        ([], "no question in it"),
        (["x"], "data[0]: a string where an object should be"),
        ([{}], "data[0].paragraphs: missing"),
        ([article(), {"paragraphs": [{"qas": []}]}], "data[1].paragraphs[0].context: missing"),
        ([{"paragraphs": [{"context": "x"}]}], "data[0].paragraphs[0].qas: missing"),
        ([{"paragraphs": [{"context": None, "qas": []}]}], "paragraphs[0].context: null where a string"),
        ([article({"question": "x", "answers": []})], "data[0].paragraphs[0].qas[0].id: missing"),
        ([article(qa(True))], "qas[0].id: true where a string should be"),
        ([article(qa("1"), qa("2", question=5))], "qas[1].question: a whole number where a string"),
        ([article(qa("1"), qa("2", {"text": []}))], "paragraphs[0].qas[1].answers: an object where a"),
        ([article({"id": "1", "question": "x"})], "data[0].paragraphs[0].qas[0].answers: missing"),
        ([article(qa("1", question="Who \ud83d?"))], "question: character 4 is half of a surrogate pair"),
        ([article(qa(answers=[]))], "qas[0].answers: empty; questions without an answer"),
        ([article(qa(answers=[{"text": "Rome"}]))], "qas[0].answers[0].answer_start: missing"),
        ([article(qa(answers=[answer(start="14")]))], "[0].answer_start: a string where a whole number"),
        ([article(qa("1")), article(qa("1"))], "data[1].paragraphs[0].qas[0].id: '1' is the id of data[0]."),
        ([article(qa(), context=" \n")], "every context is empty (data[0].paragraphs[0].context is the"),
    ],
)
def test_faults_are_one_line_with_their_place(read, tmp_path, value, expected):
    with pytest.raises(UserError) as raised:
        read(value)
    line = str(raised.value)
    assert line.startswith(f"{tmp_path / 'dev.json'}") and expected in line and "\n" not in line


def test_answers_at_a_wrong_offset_are_counted_and_skipped(read, caplog):
    articles = [
        article(qa("1", [answer("Rome", 15)]), qa("2"), qa("3", [answer("Rome", -4), answer()])),
        article(qa("4", [answer(" ", 4)])),
    ]
    file = read(articles)
    assert [question.span for question in file.questions] == [None, (14, 18), (14, 18), None]
    assert file.questions[0].answers == ("Rome",)  # it is still what a prediction is compared with
    assert len(read([article(qa("1"), qa("1")), article(qa("2"), context="")], "train").questions) == 3
    record, _, empty, repeated = caplog.records
    assert "1 empty contexts, whose questions have no answer; the first: data[1].paragraphs" in empty.message
    assert "1 repeated ids; the first: data[0].paragraphs[0].qas[1].id: '1' is the id of" in repeated.message
    assert "3 answers that are not at their offset, skipped; the first: " in record.message
    assert "qas[0].answers[0]: 'Rome' at 15, where the context has 'ome.'" in record.message
