"""Kinds of texts: what is trained on is not tested on, and the shares of a classifier."""

import json

import numpy as np
import pytest

from experiments import kinds
from tests.inference import toy_models
from tests.launching import as_flags, error_of
from utils.files import read_json


def squad(*questions):
    """A file of questions in the form of SQuAD."""
    qas = [{"question": question} for question in questions]
    return json.dumps({"data": [{"paragraphs": [{"qas": qas}]}]})


@pytest.fixture
def data(tmp_path):
    """A folder with one or two texts of each kind, and up to 1,003 lines of news."""
    files = {
        "pretrain/parallel-multiway/ntrex.en": "".join(f"news {number}\n" for number in range(1001)),
        "pretrain/parallel-multiway/ntrex.zh": "".join(f"xinwen {number}\n" for number in range(1003)),
        "ner/panx/train-en.tsv": "The\tO\nhill\tO\n\nIt\tO\n",
        "ner/panx/dev-zh.tsv": "shan\tO\nqiu\tB-LOC\n",
        "nli/train-en.tsv": "A man.\tHe sits.\tneutral\nA man.\tHe runs.\tcontradiction\n",
        "nli/xnli-dev-zh.tsv": "ren\tzuo\tneutral\n",
        "qa/train-en.tydiqa-goldp.json": squad("Who?", "Where?"),
        "qa/xquad.zh.json": squad("shei?"),
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_texts_of_each_kind(data, monkeypatch):
    """At most `TESTED` of a kind are tested on; of questions none if XQuAD lacks the language."""
    monkeypatch.setattr(kinds, "TESTED", 2)
    texts = kinds.texts_to_train(data)
    assert texts.pop("news") == [f"news {number}" for number in range(1000)]
    assert texts == {"Wikipedia": ["The hill", "It"], "question": ["Who?", "Where?"], "premise": ["A man."]}
    tests = [("xinwen 1000", "news"), ("xinwen 1001", "news"), ("shanqiu", "Wikipedia"), ("ren", "premise")]
    assert kinds.texts_to_test(data, "zh") == [*tests, ("shei?", "question")]
    (data / "qa/xquad.zh.json").unlink()
    assert kinds.texts_to_test(data, "zh") == tests


def test_each_kind_has_as_many_labels():
    texts = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"]}
    rows = kinds.draw(texts, 2, np.random.default_rng(1))
    assert len(set(rows)) == 4 and sorted(kind for _, kind in rows) == ["a", "a", "b", "b"]
    assert all(text.startswith(kind) for text, kind in rows)


def test_the_table_and_the_figures(data, tmp_path, monkeypatch, capsys):
    """A row for `fit` and one for each learning rate. A folder that exists is refused."""
    model = str(toy_models.make(tmp_path) / "encode")
    monkeypatch.setenv("DATA", str(data))
    monkeypatch.setattr(kinds, "STEPS", 1)
    monkeypatch.setattr(kinds, "TESTED", 1)
    flags = {"model": model, "languages": "[zh]", "labels": "[1]", "output": tmp_path / "tuned"}
    of_seed = {"figures": tmp_path / "3.json", "seeds": "[3]", "rates": "[2e-3]"}
    kinds.main(as_flags(flags | of_seed))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    figures = read_json(tmp_path / "3.json")
    assert list(figures) == ["kinds 1", "kinds 1 fine-tuned 0.002"]
    folder = tmp_path / "tuned" / "1-3-0.002" / model.replace("/", "-")
    settings = read_json(folder / "run" / "run.json")
    assert settings["learning_rate"] == 0.002 and settings["random_seed"] == [3]
    assert (
        error_of(kinds.main, as_flags(flags | of_seed))
        == f"{folder} exists; give another --output, or delete it"
    )
    for seeds in ("[4]", "[3, 4]"):
        kinds.main(as_flags(flags | {"figures": tmp_path / f"{seeds}.json", "seeds": seeds}))
    parts, wholes = read_json(tmp_path / "[3, 4].json")["kinds 1"]["zh"]
    of_draws = [figures["kinds 1"]["zh"][0], read_json(tmp_path / "[4].json")["kinds 1"]["zh"][0]]
    assert parts == np.sum(of_draws, axis=0).tolist() and wholes == [2] * 4
    scores = [rows[2][1], capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")[1]]
    assert scores == [f"{100 * sum(of_draws[0]) / 4:.1f}", f"{100 * sum(parts) / 8:.1f}"]


@pytest.mark.parametrize(
    "flags, line",
    [
        ({"model": None}, "--model must be given (--help lists the flags)"),
        ({"rates": "[fast]"}, "--rates [fast]: it must be a list like [0.1, 0.5]"),
        ({"labels": "[2]"}, "--labels 2: it must be from 1 to 1; a kind has no more texts"),
        ({"labels": "[0]"}, "--labels 0: it must be from 1 to 1; a kind has no more texts"),
        ({"languages": "[tr]", "labels": "[1]"}, "ntrex.tr: cannot be read (No such file or directory)"),
    ],
)
def test_mistakes(data, monkeypatch, flags, line):
    monkeypatch.setenv("DATA", str(data))
    assert error_of(kinds.main, as_flags({"model": "a", **flags})).endswith(line)


def test_the_texts_whose_kind_is_found(monkeypatch):
    class Classifier:
        def answer(self, examples):
            return [{"label": example.text_a[0]} for example in examples]

    monkeypatch.setattr(kinds, "make", lambda *_: Classifier())
    assert kinds.is_right(None, [("ab", "a"), ("bb", "b"), ("cc", "b"), ("cd", "c")]).tolist() == [1, 1, 0, 1]
