"""Centered embeddings from Python, on the command line, in an export and on the server."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import search
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS
from ernie_m.utils import logging
from ernie_m.vectors.language_centering import LanguageCentering
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.inference.conftest import run_export, write_means
from tests.launching import error_of
from tests.toys import sentences, write_languages

TEXTS = sentences(12, seed=3)
LANGUAGES = toys.MODEL_LANGUAGES


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    """An encoder with made-up means of three languages, which change which texts are near each other."""
    folder = shutil.copytree(models / "encode", tmp_path_factory.mktemp("centered") / "model")
    write_means(folder, LANGUAGES)
    return folder


@pytest.fixture(scope="module")
def means(folder):
    """The means of the last layer, [languages, H]."""
    return read_means(folder).select_layer(toys.LAYERS).vectors


@pytest.fixture
def model(folder):
    """The model of `folder`."""
    return ernie_m.load(folder)


def read_means(folder):
    """The means of all layers."""
    return LanguageCentering.read(folder / LANGUAGE_MEANS, (toys.LAYERS + 1, toys.HIDDEN_SIZE))


def nearest(vectors, means):
    """The index of the mean with the largest cosine with each embedding."""
    return (normalize_vectors(vectors) @ normalize_vectors(means).T).argmax(axis=1)


def test_encode_centers_by_language(folder, model, means):
    """One language for all texts, one for each, the nearest mean (True), and the means of another layer."""
    plain = model.encode(TEXTS)
    np.testing.assert_array_equal(plain, ernie_m.load(folder).encode(TEXTS, center_by_language=False))
    nearest_means = nearest(plain, means)
    assert len(set(nearest_means)) > 1
    for languages, numbers in (
        ("en", LANGUAGES.index("en")),
        (LANGUAGES * 4, [0, 1, 2] * 4),
        (True, nearest_means),
    ):
        embeddings = model.encode(TEXTS, center_by_language=languages)
        np.testing.assert_allclose(embeddings, plain - means[numbers], atol=1e-5)
    for layer in (0, 1):
        french_mean = read_means(folder).select_layer(layer).vectors[LANGUAGES.index("fr")]  # [H]
        expected = normalize_vectors(model.encode(TEXTS, layer=layer) - french_mean)
        centered = model.encode(TEXTS, layer=layer, center_by_language="fr", normalize=True)
        np.testing.assert_allclose(centered, expected, atol=1e-5)


def test_encode_keeps_each_language_across_batches(model, monkeypatch):
    """Each text keeps its own language where texts are encoded five at a time, and after a skipped one."""
    languages = LANGUAGES * 4
    expected = model.encode(TEXTS, center_by_language=languages)
    monkeypatch.setattr(logging, "_AT_ONCE", 5)
    np.testing.assert_allclose(model.encode(TEXTS, center_by_language=tuple(languages)), expected, atol=1e-6)
    texts = [TEXTS[0], " ", *TEXTS[1:]]
    embeddings = model.encode(texts, center_by_language=["de", "fr", *languages[1:]], on_empty="skip")
    np.testing.assert_allclose(np.delete(embeddings, 1, axis=0), expected, atol=1e-6)


def test_search_is_centered_where_there_are_means(model, encoder, means):
    plain = model.encode(TEXTS)
    centered = plain - means[nearest(plain, means)]
    for center_by_language, embeddings in ((None, centered), (True, centered), (False, plain)):
        unit_vectors = normalize_vectors(embeddings)
        cosines = unit_vectors[1:] @ unit_vectors[0]  # of the first text with all others
        hits = model.search(TEXTS[0], TEXTS[1:], top_k=3, center_by_language=center_by_language)
        best = np.argsort(-cosines)[:3]
        assert [hit["text"] for hit in hits] == [TEXTS[1:][number] for number in best]
        np.testing.assert_allclose([hit["score"] for hit in hits], cosines[best], atol=1e-5)
    # Without means, or with a pooling that they do not fit, a search is plain, which is no error.
    assert encoder.search(TEXTS[0], TEXTS) == model.search(TEXTS[0], TEXTS, center_by_language=False)
    expected = encoder.search(TEXTS[0], TEXTS, pooling="mean")
    assert model.search(TEXTS[0], TEXTS, pooling="mean") == expected


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_search_centers_by_the_corpus_if_the_model_has_no_means(models, tmp_path, monkeypatch, kind):
    """By hand: each line loses the mean of its language, and a query that of its line, or the one it names.

    The queries, or the lines, have a prompt of their own, so the means of queries are those of the first
    lines of each language, read as queries.
    """
    monkeypatch.setattr(search, "_AS_QUERIES", 6)
    prompts = {"query": "", "passage": ""} | {kind: f"{TEXTS[0]} "}
    folder = changed_copy(models / "encode", tmp_path / "model", pipeline=stored(prompts=prompts))
    corpus = write_languages(tmp_path, de=TEXTS[:5], fr=TEXTS[5:])
    model = ernie_m.load(folder)
    lines, queries = (model.encode(TEXTS, prompt=name) for name in ("passage", "query"))
    is_french = np.arange(len(TEXTS)) >= 5
    centered = lines.copy()
    mean = {}  # of queries
    for language, chosen in (("de", ~is_french), ("fr", is_french)):
        centered[chosen] -= lines[chosen].mean(axis=0)
        mean[language] = queries[chosen][:6].mean(axis=0)
    predictor = make_predictor("search", load(folder), PredictionOptions(corpus=corpus, top_k=12))
    plain_request = {"text": TEXTS[1], "center_by_language": False}
    asked = ((1, None, "de"), (6, None, "fr"), (6, "de", "de"))
    requests = [{"text": TEXTS[number], "language": named} for number, named, _ in asked]
    plain, *predictions = predictor.predict(
        [predictor.parse(request) for request in (plain_request, *requests)]
    )
    assert set(plain) == {"hits"}
    for prediction, (number, _, language) in zip(predictions, asked, strict=True):
        cosines = normalize_vectors(centered) @ normalize_vectors((queries[number] - mean[language])[None])[0]
        np.testing.assert_allclose(
            [hit["score"] for hit in prediction["hits"]], -np.sort(-cosines), atol=1e-5
        )
        assert (prediction["centered"], prediction["language"]) == (True, language)
    of_lines = predictor.predict([predictor.parse({"text": text}) for text in TEXTS])
    assert [prediction["language"] for prediction in of_lines] == [
        "fr" if french else "de" for french in is_french
    ]
    assert "choose from de, fr" in error_of(predictor.parse, {"text": "a", "language": "xx"})
    texts = ("x[1] = (2 + 3) * 4;", TEXTS[1].replace(" ", " " * 9))
    code, spaced = predictor.predict([predictor.parse({"text": text}) for text in texts])
    assert (code["centered"], code["language"], spaced["language"]) == (True, None, "de")
    assert "'language'" in error_of(
        predictor.parse, {"text": "a", "language": "de", "center_by_language": False}
    )
    (of_each,) = predictor.predict([predictor.parse({"text": TEXTS[6], "each": True})])
    best, other = of_each["hits"]
    assert {best["language"], other["language"]} == {"de", "fr"} and best["score"] > other["score"]


@pytest.mark.parametrize("lines", [{"de": TEXTS}, {"de": TEXTS[:4], "fr": TEXTS[4:]}])
def test_too_few_languages_or_lines_are_not_centered(models, tmp_path, lines):
    options = PredictionOptions(corpus=write_languages(tmp_path, **lines))
    assert make_predictor("search", load(models / "encode"), options).center_by_language is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"center_by_language": "xx"}, "unknown language xx"),
        ({"center_by_language": ["de"]}, "invalid center_by_language "),
        ({"center_by_language": 3}, "invalid center_by_language "),
        ({"center_by_language": [3, *["de"] * 11]}, "invalid center_by_language "),
        (
            {"center_by_language": True, "pooling": "mean"},
            "pooling mean: centering requires pooling mean_without_special",
        ),
    ],
)
def test_rejects_invalid_centering_options(model, options, message):
    assert message in error_of(model.encode, TEXTS, **options)


def test_means_do_not_fit_the_pooling_of_a_model(folder):
    model = ernie_m.load(folder)
    model.loaded.pipeline_config = replace(model.loaded.pipeline_config, pooling="cls")
    assert "pooling cls: " in error_of(model.encode, TEXTS, center_by_language=True)


def test_predict_centers_search_and_encode(folder, ask, tmp_path, means, monkeypatch):
    """The corpus has a file of a language with a mean, and one of a language without."""
    monkeypatch.setattr(search, "_PART_ROWS", 4)
    corpus = write_languages(tmp_path, de=TEXTS[:6], xx=TEXTS[6:])
    flags = {"task": "search", "model": folder, "corpus": corpus, "top_k": 12}
    (prediction,) = ask([{"text": TEXTS[0]}], **flags)
    assert prediction["centered"] is True
    # By hand: the texts of "de" lose its mean, and so does the query, which is one of them. "xx" has none, so
    # its texts lose the nearest mean.
    plain = ernie_m.load(folder).encode(TEXTS)
    embeddings = plain - means[nearest(plain, means)]
    embeddings[:6] = plain[:6] - means[LANGUAGES.index("de")]
    cosines = normalize_vectors(embeddings) @ normalize_vectors(embeddings[:1])[0]
    cosine_of = {hit["text"]: hit["score"] for hit in prediction["hits"]}
    np.testing.assert_allclose([cosine_of[text] for text in TEXTS], cosines, atol=1e-5)
    (prediction,) = ask([{"text": TEXTS[0]}], center_by_language="false", **flags)
    assert "centered" not in prediction and prediction["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    (prediction,) = ask([{"text": TEXTS[0]}], task="embedding", model=folder, center_by_language="true")
    np.testing.assert_allclose(
        prediction["embedding"], plain[0] - means[nearest(plain[:1], means)][0], atol=1e-5
    )


def test_a_conversion_keeps_the_means(folder, tmp_path):
    """Also that of an embedding model, with the pooling files of sentence-transformers."""
    model = changed_copy(
        folder, tmp_path / "model", task="retrieval", pipeline=stored(layer=2, pooling="mean")
    )
    convert.main([str(model), str(tmp_path / "out"), "--to", "xlm-roberta"])
    assert (tmp_path / "out" / LANGUAGE_MEANS).read_bytes() == (folder / LANGUAGE_MEANS).read_bytes()
    assert (tmp_path / "out" / "modules.json").is_file()


def test_an_export_keeps_the_means(folder, tmp_path):
    run_export(folder, tmp_path / "out")
    assert LANGUAGE_MEANS in json.loads((tmp_path / "out/manifest.json").read_text())["files"]
    expected = ernie_m.load(folder).encode(TEXTS, center_by_language=True)
    np.testing.assert_allclose(
        ernie_m.load(tmp_path / "out").encode(TEXTS, center_by_language=True), expected, atol=1e-4
    )


def test_encode_vector_centers_on_the_model_or_on_files(folder, models, encode_texts, tmp_path, means):
    plain = ernie_m.load(folder).encode(TEXTS)
    for weights, out in ((folder, "of_model"), (folder / "model.safetensors", "of_file")):
        embeddings = encode_texts(TEXTS, weights, out, center_on="model")["vectors"]
        np.testing.assert_allclose(embeddings, plain - means[nearest(plain, means)], atol=1e-5)
    long = ernie_m.load(folder).encode("bado " * 90)  # truncated at the maximum length
    files = write_languages(tmp_path, de=TEXTS[:5], en=[*TEXTS[5:], "bado " * 90])
    embeddings = encode_texts(TEXTS, models / "encode", "of_files", center_on=files, max_seq_len="")[
        "vectors"
    ]
    # Of de and en: [2, H].
    file_means = np.stack([plain[:5].mean(axis=0), np.concatenate([plain[5:], long]).mean(axis=0)])
    np.testing.assert_allclose(embeddings, plain - file_means[nearest(plain, file_means)], atol=1e-5)
    other_shape = shutil.copytree(models / "encode", tmp_path / "other")
    # Means of 8 numbers; this model has embeddings of 32.
    safetensors.write(other_shape / LANGUAGE_MEANS, {"de": np.ones((3, 8), np.float32)})
    for model, flags, message in [
        (folder, {"vectors": "official"}, "--center_on requires one embedding per text"),
        (folder, {"vectors": "mean"}, "pooling mean_without_special"),
        (
            folder,
            {"center_on": "de.txt"},
            "invalid --center_on de.txt (expected language<=file",
        ),
        (models / "encode", {}, f"missing {LANGUAGE_MEANS}"),
        (other_shape, {}, f"{LANGUAGE_MEANS}: corrupt"),
    ]:
        assert message in error_of(encode_texts, TEXTS, model, **{"center_on": "model", **flags})


def test_model_without_means_is_not_centered(models, tmp_path):
    options = PredictionOptions(corpus=write_languages(tmp_path, de=TEXTS).removeprefix("de<="))
    predictor = make_predictor("search", load(models / "encode"), options)
    assert LANGUAGE_MEANS in error_of(predictor.parse, {"text": "a", "center_by_language": True})
    assert "'each'" in error_of(predictor.parse, {"text": "a", "each": True})
