"""The documentation's examples run as they stand, on models of random weights."""

import re
import shlex

import numpy as np
import pytest

import ernie_m
from tests.launching import ROOT
from utils.errors import UserError

PAGE = (ROOT / "docs/predict.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
LINES = re.findall(r"^echo (.*) \| \.venv/bin/python predict\.py (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def places(models, exported, tmp_path, monkeypatch):
    """The folders that the page speaks of."""
    for name, folder in {
        "checkpoints/best": models / "classify", "checkpoints/ner": models / "tag",
        "checkpoints/qa": models / "answer", "pretrained/full": models / "full",
        "exported": exported / "encode",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder)
    (tmp_path / "corpus.txt").write_text("A man eats.\nEin Mann isst.\n" * 4)
    monkeypatch.chdir(tmp_path)


def test_python_blocks(places, capsys):
    assert len(PYTHON) == 3
    names: dict = {}
    for block in PYTHON:
        exec(compile(block, "docs/predict.md", "exec"), names)
    assert names["vectors"].shape == (2, 32) and names["vectors"].dtype == np.float32
    assert names["found"]["label"] in names["model"].labels
    assert len(capsys.readouterr().out.splitlines()) > 1


def test_the_readme(places, models, tmp_path):
    """Its lines of Python, with an encoder in the place of the demo's."""
    (tmp_path / "output/demo/full").mkdir(parents=True)
    (tmp_path / "output/demo/full/encoder").symlink_to(models / "encode")
    for page in ("README.md", "README_zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        names: dict = {}
        exec(compile(block, page, "exec"), names)
        assert names["model"].encode("A man eats.").shape == (1, 32)


def test_similarity_and_search(models):
    model = ernie_m.load(models / "encode")
    texts = ["bado kani", "lera mo", "tan ga lo"]
    vectors = model.encode(texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = model.similarity(texts[0], texts)
    assert cosines.shape == (1, 3) and cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, vectors[:1] @ vectors.T, atol=1e-5)
    first, second = model.search(texts[1], texts, top_k=2)
    assert first == {"text": texts[1], "cosine": pytest.approx(1, abs=1e-5)}
    others = np.delete(vectors @ vectors[1], 1)
    assert second["cosine"] == pytest.approx(others.max(), abs=1e-5)
    assert model.search("mo", []) == []


def test_command_lines(places, ask):
    assert len(LINES) == 7
    for text, flags in LINES:
        words = shlex.split(flags)
        (answer,) = ask(shlex.split(text)[0].encode(), **dict(zip((w[2:] for w in words[::2]), words[1::2])))
        assert answer


def test_the_same_as_predict(places, ask):
    model = ernie_m.load("checkpoints/best")
    pairs = [("bado kani", "lera"), "mo"]
    asked = [{"text_a": "bado kani", "text_b": "lera"}, {"text": "mo"}]
    found = ask(asked, task="classify", model="checkpoints/best")
    for here, there in zip(model.classify(pairs), found, strict=True):
        # The last bits of MKL's products depend on the addresses of the arrays.
        assert here["probabilities"] == pytest.approx(there["probabilities"], abs=2e-6)
    assert model.classify([]) == []
    with pytest.raises(UserError, match="--task tagging needs another model"):
        model.tag(["a"])
    assert model.encode([]).shape == (0, 32)


def test_a_string_is_one_text(models):
    model = ernie_m.load(models / "classify")
    assert model.encode("mo ta").shape == (1, 32)
    assert model.classify("bado kani") == model.classify(["bado kani"])


def test_what_is_no_text(models):
    for kind, wrong, said in (
        ("classify", None, "'text_a' is null, but must be a text"),
        ("classify", ("a", "b", "c"), "neither a text nor a pair of texts"),
        ("tag", None, "'text' is null, but must be a text"),
        ("encode", "", "'text' is \"\", but must be a text"),
    ):
        model = ernie_m.load(models / kind)
        with pytest.raises(UserError, match=said):
            getattr(model, kind)([wrong])
