"""The interface: the documentation's examples run as they stand, and wrong inputs are named."""

import copy
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.inference.openvino_engine import OpenVinoEngine
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.utils import logging
from ernie_m.utils.paddle_settings import choose_settings, read_cpu
from tests import toys
from tests.inference.conftest import write_means
from tests.launching import ROOT, error_of, run_script
from tests.toys import sentences

NAMES = ("quickstart", "predict", "finetune")
PAGES = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in NAMES)
# The pages' blocks of Python. That of OpenAI's client is like the test in tests/clients/test_clients.py.
PYTHON = re.findall(r"^```python\n(?!from openai)(.*?)^```", PAGES, re.DOTALL | re.MULTILINE)

# Paddle is imported by `load`. Afterwards it prints whether the environment is as before, and the page faults
# when 100 MB are filled for the second time; a text is truncated, Paddle warns, and the user logs.
GUEST = """
import logging, os, resource, sys
import numpy as np
import ernie_m
logging.getLogger().setLevel(logging.DEBUG)
before = dict(os.environ)
model = ernie_m.load(sys.argv[1])
print(dict(os.environ) == before)
np.ones(12_500_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(12_500_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
model.encode("bado kani lera " * 40)
logging.getLogger("paddle.optimizer.optimizer").warning("a warning of Paddle")
logging.basicConfig(format="of the user: %(message)s")
logging.debug("a line")
"""


@pytest.fixture
def locations(models, exported, reranker, tmp_path, in_tmp_path):
    """The folders and files that the pages name, in the current folder."""
    for name, folder in {
        "reranker": reranker,
        "checkpoints/best": models / "classify", "checkpoints/ner": models / "tag",
        "checkpoints/qa": models / "answer", "pretrained/full": models / "full",
        "exported": exported / "encode", "configs/e5-small": models / "encode",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(folder)


@pytest.mark.slow
def test_run_python_blocks_from_docs(locations, capsys):
    names: dict = {}
    for block in PYTHON:
        exec(compile(block, "docs/", "exec"), names)
    assert names["vectors"].shape == (2, 32) and names["vectors"].dtype == np.float32
    assert names["prediction"]["label"] in names["model"].labels
    assert len(capsys.readouterr().out.splitlines()) == 3  # of the quickstart


@pytest.mark.parametrize("page", ["README.md", "README_zh.md"])
def test_the_readme(locations, page):
    """Its lines of Python, with another model instead of the real one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(compile(block, page, "exec"), names)
    assert names["model"].encode("A man eats.").shape == (1, 32)
    assert names["topics"].labels == ["sport", "weather"]


@pytest.mark.parametrize("options", [{}, {"layer": 0}, {"pooling": "cls", "layer": 1}])
def test_similarity(encoder, options):
    """Both sides have the options."""
    texts = ["bado kani", "lera mo", "tan ga lo"]
    embeddings = encoder.encode(texts, normalize=True, **options)
    cosines = encoder.similarity(texts[0], texts, **options)
    assert cosines.shape == (1, 3) and cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, embeddings[:1] @ embeddings.T, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "method", "arguments", "options", "message"),
    [
        ("classify", "classify", [[None]], {}, "'text_a': invalid value null"),
        ("classify", "classify", [None], {}, "texts must be a str or a list of str, got NoneType"),
        ("classify", "classify", [[("a", "b", "c")]], {}, "is neither a text nor a pair of texts"),
        ("classify", "classify", [[()]], {}, "is neither a text nor a pair of texts"),
        ("classify", "classify", [[("a", None)]], {}, "is neither a text nor a pair of texts"),
        ("tag", "tag", [[None]], {}, "'text': invalid value null"),
        ("tag", "tag", ["住在"], {}, "'text': cannot split '住在' "),
        ("classify", "tag", ["a"], {}, "its head is for classification"),
        ("encode", "encode", [[""]], {}, "'text': invalid value \"\""),
        ("encode", "encode", [[b"a"]], {}, "'text': invalid value \"b'a'\""),
        ("encode", "tag", ["a"], {}, "token-classification is not supported"),
        ("encode", "encode", [3], {}, "texts must be a str or a list of str, got int"),
        ("encode", "encode", [{"a": 1}], {}, "texts must be a str or a list of str, got dict"),
        (
            "encode",
            "encode",
            ["a"],
            {"pooling": "max"},
            "invalid pooling 'max' ",
        ),
        ("encode", "encode", ["a"], {"on_empty": "drop"}, "on_empty 'drop' "),
        ("encode", "encode", ["a"], {"batch_size": 0}, "batch_size 0 "),
        ("encode", "encode", ["a"], {"batch_size": True}, "batch_size True "),
        ("encode", "encode", ["a"], {"layer": 3}, "layer 3 "),
        ("encode", "encode", ["a"], {"layer": True}, "invalid layer True "),
        ("encode", "similarity", ["a", None], {}, "texts must be a str or a list of str, got NoneType"),
        ("encode", "search", [["a"], ["b"]], {}, "text must be a str"),
        ("encode", "search", ["a", 3], {}, "corpus must be a str or a list of str, got int"),
        ("encode", "search", ["a", ["b"]], {"top_k": -1}, "invalid top_k -1 "),
        ("encode", "search", ["a", ["b"]], {"top_k": None}, "invalid top_k None "),
        ("full", "fill", ["a [MASK]"], {"top_k": 0}, "invalid top_k 0 "),
        ("answer", "answer", ["a", None], {}, "'context': invalid value null"),
    ],
)
def test_reject_wrong_inputs_and_options(models, kind, method, arguments, options, message):
    assert message in error_of(getattr(ernie_m.load(models / kind), method), *arguments, **options)


def test_other_embeddings_of_a_model_with_unknown_steps(models):
    """Its own ones are refused; those of a pooling that is asked for need no other step."""
    embedding = ernie_m.load(models / "encode").encode("bado", pooling="cls")
    model = ernie_m.load(models / "encode")
    model.loaded.pipeline_errors = ["the module X"]
    assert error_of(model.encode, "bado").startswith("the module X: not supported")
    assert np.array_equal(model.encode("bado", pooling="cls"), embedding)


def test_a_model_with_pooler_embeddings_has_them_of_its_last_layer(models):
    model = ernie_m.load(models / "encode")
    embedding = model.encode("bado", pooling="pooler")
    model = ernie_m.load(models / "encode")
    pipeline_config = replace(model.loaded.pipeline_config, pooling="pooler", normalize=True)
    model.loaded.pipeline_config = pipeline_config
    assert "layer 1 for pooling pooler" in error_of(model.encode, "bado", layer=1)
    assert np.array_equal(model.encode("bado", layer=toys.LAYERS, normalize=False), embedding)
    assert np.linalg.norm(model.encode("bado")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "classify",
            {"task": "multi-label"},
            "invalid task 'multi-label' (expected one of classification, ",
        ),
        ("classify", {"task": "token-classification"}, "task 'token-classification': "),
        ("encode", {"task": "classification"}, "task 'classification': "),
        ("encode", {"task": "tag"}, "invalid task 'tag' (expected one of classification, "),
        (
            "encode",
            {"engine": "torch"},
            "invalid engine 'torch' ",
        ),
        ("encode", {"engine": "onnx"}, "engine onnx requires an export"),
        ("~unknown.user/model", {}, "~unknown.user/model: no such folder"),
    ],
)
def test_reject_what_cannot_be_loaded(models, kind, options, message):
    assert message in error_of(ernie_m.load, kind if "~" in kind else models / kind, **options)


def test_a_folder_is_a_path():
    assert "load: folder must be a path" in error_of(ernie_m.load, None)


class Table:
    """As a DataFrame, which iterates over the names of its columns."""

    shape = (2, 2)

    def __iter__(self):
        return iter(["text", "label"])


class NAType:
    """As pandas.NA, which pandas 3 makes of None: to compare it is an error."""

    def __eq__(self, other):
        return self

    __ne__ = __eq__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class NaTType(NAType):
    """As pandas.NaT."""


# Method -> a call with what may be no text.
CALLS = {
    "encode": lambda model, given: model.encode(given),
    "classify": lambda model, given: model.classify(given),
    "fit": lambda model, given: model.fit(given, ["a", "b"]),
    "labels of fit": lambda model, given: model.fit(["bado", "lera"], given),
    "search": lambda model, given: model.search("bado", given),
    "query of search": lambda model, given: model.search(given, ["bado"]),
    "index": lambda model, given: model.index(given),
    "query of an index": lambda model, given: model.index(["bado"]).search(given),
    "rank": lambda model, given: model.rank("bado", given),
    "query of rank": lambda model, given: model.rank(given, ["bado"]),
}


@pytest.mark.parametrize("method", CALLS)
def test_reject_values_that_are_no_text(models, reranker, method):
    """One line says what it is, and what to give."""
    model = ernie_m.load(reranker if "rank" in method else models / "classify")
    arrays = np.array("bado"), np.array([["bado", "lera"]])
    for one in (Table(), *arrays, {"text": "bado"}, {"bado"}, b"bado", 3):
        line = error_of(CALLS[method], model, one)
        assert re.search(r"^(texts|text|corpus|labels) (is|must be) a \w+|^'text_a': invalid value ", line), (
            line
        )
    for one in ([b"bado"], [{"text": "bado"}], [[["bado"]]], [NAType()], [None]):
        assert re.search("must be a|invalid (value|text)|got 1", error_of(CALLS[method], model, one))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_models_are_copied(models, tmp_path, monkeypatch, again):
    """By their folder, which is named if it is gone; and what `fit` did not save, as it is."""
    monkeypatch.chdir(models)
    relative = ernie_m.load("encode", engine="paddle-eager")
    embeddings = relative.encode(["bado"])
    copied = again(relative)
    assert (copied.engine, copied.encode(["bado"]).tobytes()) == ("paddle-eager", embeddings.tobytes())
    folder = shutil.copytree(models / "encode", tmp_path / "model")
    texts = sentences(12, seed=9)
    model = ernie_m.load(folder)
    embeddings = model.encode(texts)
    fitted = model.fit(texts, [2, 10] * 6, layer=1)
    predictions = fitted.classify(texts)
    assert np.array_equal(again(model).encode(texts), embeddings)
    saved = model.fit(texts, ["a", "b"] * 6, tmp_path / "saved")
    assert again(saved).scores == saved.scores is not None
    assert again(saved).labels == ["a", "b"] and f"{tmp_path / 'saved'}" in repr(saved)
    rewritten(folder / "model.safetensors")
    assert error_of(again, model).startswith(f"{folder / 'model.safetensors'}: ")
    shutil.rmtree(folder)
    assert error_of(again, model).startswith(f"{folder}: ")
    copied = again(fitted)
    assert (copied.classify(texts), copied.labels, copied.scores) == (predictions, [10, 2], fitted.scores)


def rewritten(path):
    """A file that is written again, a moment later."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize(
    ("folder", "file", "ask", "change"),
    [
        ("encode", "model.safetensors", lambda model: model.encode("bado"), rewritten),
        (
            "full",
            "language_means.safetensors",
            lambda model: model.encode("bado", center_by_language=True),
            rewritten,
        ),
        ("encode", "model.safetensors", lambda model: model.fit(["bado", "lera"], ["a", "b"]), rewritten),
        ("exported", "model.onnx", lambda model: model.classify("bado"), rewritten),
        ("exported", "model.onnx.data", lambda model: model.classify("bado"), rewritten),
        ("exported", "model.onnx", copy.deepcopy, rewritten),
        ("exported", "model.onnx.data", lambda model: model.classify("bado"), Path.unlink),
    ],
)
def test_rejects_files_that_changed_after_loading(models, exported, tmp_path, folder, file, ask, change):
    """A folder may be trained again while it is open: labels and embeddings would be of two models."""
    source = exported / "classify" if folder == "exported" else models / folder
    copied = shutil.copytree(source, tmp_path / "model")
    if folder == "full":
        write_means(copied, ["de", "en"])
    model = ernie_m.load(copied)
    if "fit" in ask.__code__.co_names:
        model.encode("bado")  # now the embeddings need no file, and the layers that are saved do
    change(tmp_path / "model" / file)
    assert error_of(ask, model).startswith(f"{tmp_path / 'model' / file}: ")


@pytest.mark.parametrize("empty", ["", " \n", "\u200b\ufeff", None, float("nan"), NAType(), NaTType()])
def test_name_the_index_with_an_empty_text(models, empty):
    """It is named by its index; if it is skipped, the others have their rows."""
    model = ernie_m.load(models / "classify")
    texts = ["bado kani", "lera mo", empty, "tan ga lo"]
    for method in (model.encode, model.classify):
        assert error_of(method, texts).startswith("text 3 of 4 (index 2): ")
    vectors = model.encode(texts, on_empty="skip")
    assert np.isnan(vectors[2]).all()
    np.testing.assert_allclose(vectors[[0, 1, 3]], model.encode([*texts[:2], texts[3]]), atol=1e-6)
    assert np.isnan(model.encode(empty if isinstance(empty, str) else [empty], on_empty="skip")).all()
    assert "index 0" in error_of(model.encode, [3, "bado"], on_empty="skip")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_encode_batch_size_and_length(encoder, monkeypatch, batch_size):
    texts = ["ba " * 40, "lera mo", "da " * 40, ""]
    embeddings = encoder.encode(texts, on_empty="skip")
    counts = []  # of texts in each batch
    compute = OpenVinoEngine.__call__
    monkeypatch.setattr(
        OpenVinoEngine, "__call__", lambda self, ids: counts.append(len(ids)) or compute(self, ids)
    )
    same = encoder.encode(texts, batch_size=batch_size, normalize=True, on_empty="skip")
    np.testing.assert_allclose(same, embeddings / np.linalg.norm(embeddings, axis=1)[:, None], atol=1e-6)
    assert np.isnan(same[3]).all() and max(counts) == batch_size


@pytest.mark.parametrize(
    ("kind", "method", "arguments", "task", "requests"),
    [
        (
            "classify",
            "classify",
            ["bado", ("lera", "mo"), ["kani", "ga"]],
            "classification",
            [{"text_a": "bado"}, {"text_a": "lera", "text_b": "mo"}, {"text_a": "kani", "text_b": "ga"}],
        ),
        (
            "tag",
            "tag",
            ["bado, kani", ["lera mo", "ga"], ("bado", "kani")],
            "token-classification",
            [{"text": "bado, kani"}, {"words": ["lera mo", "ga"]}, {"words": ["bado", "kani"]}],
        ),
    ],
)
def test_methods_return_what_predictors_do(models, kind, method, arguments, task, requests):
    model = ernie_m.load(models / kind)
    predictor = make_predictor(task, model.loaded)
    assert getattr(model, method)(arguments) == predictor.predict([*map(predictor.parse, requests)])


def test_encode_accepted_text_types(models, monkeypatch):
    """A string, a pair, a list of words, a generator; many are answered some at a time, in their order."""
    model = ernie_m.load(models / "classify")
    texts = ["bado kani", "lera mo", "tan ga lo"]
    embeddings = model.encode(texts)
    predictions = [model.classify(text)[0] for text in texts]
    assert model.classify(("bado kani", "lera")) == model.classify([("bado kani", "lera")])
    monkeypatch.setattr(logging, "_AT_ONCE", 2)
    assert model.classify(iter(texts)) == predictions
    np.testing.assert_allclose(model.encode(iter(texts)), embeddings, atol=1e-6)
    np.testing.assert_allclose(model.encode(texts[1]), embeddings[1:2], atol=1e-6)
    assert model.search(texts[1], iter(texts), top_k=1)[0]["text"] == texts[1]
    assert model.search(texts[1], texts[0])[0]["text"] == texts[0] and model.search("mo", []) == []
    assert model.classify(("bado", "☃ ☃"))[0]["unknown_words"] == 2
    assert model.classify([]) == [] and model.encode([]).shape == (0, toys.HIDDEN_SIZE)


def test_a_program_stays_as_it_is(models, tmp_path, monkeypatch):
    """In a process of its own, because pytest has handlers on the root logger; without its settings."""
    for name in choose_settings(read_cpu()):
        monkeypatch.delenv(name, raising=False)
    process = run_script(["-c", GUEST, models / "encode"], tmp_path, GLIBC_TUNABLES="")  # the suite sets it
    same_environment, errors = process.stdout.splitlines()
    assert same_environment == "True" and int(errors) > 40
    said = r"encode: 1 of 1 texts are truncated to.*\n.*a warning of Paddle.*\nof the user: a line\n"
    assert re.fullmatch(said, process.stderr)


def test_odd_texts_are_counted_over_all_parts(encoder, monkeypatch, caplog):
    monkeypatch.setattr(logging, "_AT_ONCE", 2)
    caplog.clear()
    encoder.encode(["bado", "qqq", "bado " * 90, "kani", "lera " * 90, "xx"])
    cut, unknown = caplog.messages
    assert cut.startswith("encode: 2 of 6 texts ")
    assert unknown.startswith("2 of 6 texts ") and "index 1)" in unknown


TEXTS = ["“Bado” kani", "lera 10, mo", *sentences(10, seed=4)]
# The notations of the path of the folder "x", or of a link to it, seen from a folder next to it or above it.
FORMS = {
    "below": ("here", "./x"),
    "twice above, with a trailing slash": ("here/sub/deep", "../../sub/../x/"),
    "absolute": ("here/sub", "{here}/x"),
    "a link with a blank from elsewhere": ("here/sub", "../a name"),
    "in the home folder": ("here/sub", "~/x"),
}


@pytest.mark.parametrize(("folder", "path"), FORMS.values(), ids=FORMS)
def test_load_by_each_path_notation(models, tmp_path, monkeypatch, folder, path):
    (tmp_path / "here/sub/deep").mkdir(parents=True)
    shutil.copytree(models / "encode", tmp_path / "here/x")
    (tmp_path / "here/a name").symlink_to("x")
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    model = ernie_m.load(path.format(here=tmp_path / "here"))
    assert model.encode(TEXTS).tobytes() == ernie_m.load(models / "encode").encode(TEXTS).tobytes()
