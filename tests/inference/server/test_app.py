"""The server's API for programs of others: prompts, cutting and reranking."""

import numpy as np
import pytest
from starlette.testclient import TestClient

import ernie_m
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.app import make_app
from ernie_m.inference.tasks.finetuned import ClassificationPredictor
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.reader.text_featurizer import Example
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.launching import error_of
from tests.toys import sentences

TEXTS = sentences(20, seed=6)
PROMPTS = {"query": "da ", "passage": "lera ", "other": "kani "}
LONG = "da " * 200


@pytest.fixture(scope="module")
def model(models, tmp_path_factory):
    """An encoder with prompts."""
    folder = tmp_path_factory.mktemp("api") / "prompts"
    return load(
        changed_copy(models / "encode", folder, pipeline=stored(prompts=PROMPTS, default_prompt="other"))
    )


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_app([model], PredictionOptions())) as opened:
        yield opened


def encode_features(model, texts, prompt=""):
    """What `encode` makes of texts with this before them, with length 1."""
    encode = make_predictor("embedding", model, PredictionOptions(prompt=""))
    return normalize_vectors(encode.encode_texts([prompt + text for text in texts]))


def check_vectors(client, model, asked, prompt):
    response = client.post("/v1/embeddings", json={"input": TEXTS, **asked}).json()
    np.testing.assert_allclose(
        [entry["embedding"] for entry in response["data"]],
        encode_features(model, TEXTS, prompt),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({}, "kani "),
        ({"input_type": "query"}, "da "),
        ({"input_type": "search_query"}, "da "),
        ({"input_type": "document"}, "lera "),
        ({"input_type": "passage"}, "lera "),
        ({"input_type": "search_document"}, "lera "),
        ({"prompt_name": "other"}, "kani "),
        ({"prompt_name": ""}, ""),
    ],
)
def test_request_prompt(client, model, asked, prompt):
    check_vectors(client, model, asked, prompt)


@pytest.mark.parametrize(("name", "default"), [("query", "da "), ("", ""), (None, "kani ")])
def test_server_prompt(model, name, default):
    """A request can have another one, and /v1/models names all of them."""
    with TestClient(make_app([model], PredictionOptions(prompt=name))) as client:
        (entry,) = client.get("/v1/models").json()["data"]
        assert entry == {
            "id": model.name,
            "object": "model",
            "created": 0,
            "owned_by": "ernie-m",
            "dimensions": toys.HIDDEN_SIZE,
            "max_tokens": toys.LONGEST,
            "prompts": PROMPTS,
            "default_prompt": "other" if name is None else name,
        }
        assert client.get(f"/v1/models/{entry['id']}").json() == entry
        named = [({"prompt_name": name}, prompt) for name, prompt in (("passage", "lera "), ("", ""))]
        for asked, prompt in (({}, default), *named):
            check_vectors(client, model, asked, prompt)


@pytest.mark.parametrize("truncate", [True, "END"])
def test_truncate_if_requested(client, model, truncate):
    response = client.post("/v1/embeddings", json={"input": LONG, "truncate": truncate})
    assert response.json()["usage"]["total_tokens"] == model.max_length
    embedding = response.json()["data"][0]["embedding"]
    np.testing.assert_allclose([embedding], encode_features(model, [LONG], "kani "), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "a", "dimension": 8}, "dimension"),  # an unknown key
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "x"}, "prompt_name"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "query", "input_type": "query"}, "prompt_name"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "", "input_type": "query"}, "prompt_name"),
        ("/v1/embeddings", {"input": "a", "input_type": "x"}, "input_type"),
        ("/v1/embeddings", {"input": "a", "truncate": "START"}, "truncate"),
        ("/v1/embeddings", {"input": LONG, "truncate": "NONE"}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 10_000}, "input"),
        ("/v1/embeddings", {"input": LONG}, "input"),
    ],
)
def test_reject_wrong_requests_by_parameter(client, path, body, param):
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param
    assert param in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("POST", "/v1/embeddings", 400, "Content-Type: application/json"),
        ("GET", "/v1/embeddings", 405, ""),
        ("POST", "/v1/embeddings/", 404, "unknown route (choose from /v1/embeddings)"),
        ("GET", "/v1/models/x", 404, ""),
        ("GET", "/v1/x", 404, "/v1/embeddings"),
        ("GET", "/embed", 404, "/v1/embeddings"),  # of TEI
    ],
)
def test_a_header_a_model_or_a_path_that_is_not_there(client, method, path, status, named):
    """The response lists the existing paths."""
    headers = {"Content-Type": "text/plain"}
    response = client.request(method, path, content='{"input": "a"}', headers=headers, follow_redirects=False)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert named in error["message"]


def test_the_head_of_the_health_page(client):
    assert client.head("/health").status_code == 200


@pytest.fixture(scope="module")
def ranking(reranker):
    with TestClient(make_app([load(reranker)], PredictionOptions())) as opened:
        yield opened


@pytest.mark.parametrize("regression", [True, False])
def test_reranking(reranker, tmp_path, regression):
    """The best comes first, and equal ones keep their order. Scores are those of Python."""
    folder = changed_copy(reranker, tmp_path / "model", pipeline=stored(regression=regression))
    documents = [TEXTS[1], *TEXTS[1:]]
    predictor = make_predictor("regression", load(folder))
    features = predictor.task.encode([Example(TEXTS[0], text) for text in documents])
    asked = {"query": TEXTS[0], "documents": documents, "top_n": 19, "model": "any", "return_documents": True}
    expected = [
        {
            "index": row["index"],
            "relevance_score": pytest.approx(row["score"], rel=1e-5),
            "document": {"text": row["text"]},
        }
        for row in ernie_m.load(folder).rank(TEXTS[0], documents)
    ]
    lowest = (expected[3]["relevance_score"].expected + expected[4]["relevance_score"].expected) / 2
    with TestClient(make_app([load(folder)], PredictionOptions())) as opened:
        response = opened.post("/v1/rerank", json=asked).json()
        best = opened.post("/v1/rerank", json=asked | {"min_score": lowest}).json()["results"]
        assert opened.get("/v1/models").json()["data"][0]["id"] == predictor.model.name
    assert response["usage"]["total_tokens"] == sum(len(feature.ids) for feature in features)
    assert response["results"] == expected[:19] and best == expected[:4]
    assert len(ernie_m.load(folder).rank(TEXTS[0], documents, min_score=lowest)) == 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": [{"text": "a"}]}, "documents"),
        ({"query": " ", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": ["a", ""]}, "documents"),
        ({"query": "a", "documents": ["a", LONG], "truncate": False}, "documents"),
        ({"query": "a", "documents": ["a"], "top_k": 1}, "top_k"),
        ({"query": "a", "documents": ["a", "b"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a", "b"], "top_n": -1}, "top_n"),
        ({"query": "a", "documents": ["a", "b"], "min_score": "0.5"}, "min_score"),
        ({"query": "a" * 50_000, "documents": ["a"] * 200}, None),  # it would be read 200 times
    ],
)
def test_reject_wrong_score_requests_by_parameter(ranking, body, param):
    response = ranking.post("/v1/rerank", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


@pytest.mark.parametrize("truncate", [{}, {"truncate": None}])  # None: as if it were not there
def test_long_documents_are_cut(ranking, truncate):
    asked = {"query": "a", "documents": ["a", LONG], **truncate}
    assert ranking.post("/v1/rerank", json=asked).status_code == 200


def test_serves_without_docstrings(models, monkeypatch):
    """As python -OO removes them."""
    monkeypatch.setattr(ClassificationPredictor, "__doc__", None)
    make_app([load(models / "classify")], PredictionOptions())


def test_task_requests_with_several_texts(models):
    model = load(models / "classify")
    predictor = make_predictor("classification", model)
    assert predictor.parse({"text": "mo", "text_a": "mo", "text_b": None}) == Example("mo", None)
    with TestClient(make_app([model], PredictionOptions())) as client:
        for request in ({"text": TEXTS}, {"text": TEXTS[:1]}, {"text_a": TEXTS, "text_b": TEXTS[::-1]}):
            response = client.post("/api/classification", json=request).json()
            pairs = zip(request.get("text", TEXTS), request.get("text_b", [None] * len(TEXTS)))
            expected = predictor.predict([Example(*pair) for pair in pairs])
            assert [each["label"] for each in response] == [each["label"] for each in expected]
        one = client.post("/api/classification", json={"text": TEXTS[0]}).json()
        assert (
            one
            == client.post("/api/classification", json={"text_a": TEXTS[0]}).json()
            == predictor.predict([Example(TEXTS[0], None)])[0]
        )


def test_reject_two_models_for_one_task(models):
    """One would never be asked."""
    loaded = [load(models / kind) for kind in ("classify", "tag", "classify")]
    assert "two models have the same task" in error_of(make_app, loaded, PredictionOptions())
