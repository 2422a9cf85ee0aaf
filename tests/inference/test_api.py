"""The server's API for programs of others: prompts, cutting, reranking, and TEI's routes."""

import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from ernie_m.inference.load import load
from ernie_m.inference.server.app import make_app
from ernie_m.inference.tasks import TaskOptions, make_answerer
from ernie_m.reader.batching import Example
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.vectors.pooling import unit
from tests import toys
from tests.helpers.checkpoints import changed_copy
from tests.launching import error_of
from tests.toys import sentences

TEXTS = sentences(20, seed=6)
PROMPTS = {"query": "da ", "passage": "lera ", "other": "kani "}
LONG = "da " * 200


@pytest.fixture(scope="module")
def model(models, tmp_path_factory):
    """An encoder with prompts."""
    folder = tmp_path_factory.mktemp("api") / "prompts"
    return load(changed_copy(models / "encode", folder, reading={"prompts": PROMPTS}))


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_app([model], TaskOptions())) as opened:
        yield opened


def vectors_of(model, texts, prompt=""):
    """What `encode` makes of texts with this before them."""
    encode = make_answerer("encode", model, TaskOptions(prompt=""))
    return encode.vectors([prompt + text for text in texts])


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({}, ""),
        ({"input_type": "query"}, "da "),
        ({"input_type": "search_query"}, "da "),
        ({"input_type": "document"}, "lera "),
        ({"input_type": "passage"}, "lera "),
        ({"prompt_name": "other"}, "kani "),
        ({"prompt_name": ""}, ""),
    ],
)
def test_the_prompt_of_a_request(client, model, asked, prompt):
    answer = client.post("/v1/embeddings", json={"input": TEXTS, **asked}).json()
    vectors = [entry["embedding"] for entry in answer["data"]]
    np.testing.assert_allclose(vectors, unit(vectors_of(model, TEXTS, prompt)), atol=1e-6)


def test_the_prompt_of_the_server(model):
    """A request can have another one, and /v1/models names all of them."""
    with TestClient(make_app([model], TaskOptions(prompt="query"))) as client:
        (entry,) = client.get("/v1/models").json()["data"]
        assert entry["prompts"] == PROMPTS and entry["default_prompt"] == "query"
        assert client.get(f"/v1/models/{entry['id']}").json() == entry
        for asked, prompt in (({}, "da "), ({"prompt_name": "passage"}, "lera "), ({"prompt_name": ""}, "")):
            answer = client.post("/embed", json={"inputs": TEXTS, **asked}).json()
            np.testing.assert_allclose(answer, unit(vectors_of(model, TEXTS, prompt)), atol=1e-6)


@pytest.mark.parametrize("truncate", [True, "END"])
def test_a_long_text_is_cut_if_the_request_says_so(client, model, truncate):
    answer = client.post("/v1/embeddings", json={"input": LONG, "truncate": truncate})
    assert answer.json()["usage"]["total_tokens"] == model.longest
    expected = unit(vectors_of(model, [LONG]))
    np.testing.assert_allclose([answer.json()["data"][0]["embedding"]], expected, atol=1e-6)


def test_the_routes_of_tei(client, model):
    for inputs in (TEXTS, TEXTS[0]):
        answer = client.post("/embed", json={"inputs": inputs, "normalize": False}).json()
        expected = vectors_of(model, TEXTS if inputs == TEXTS else TEXTS[:1])
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    info = client.get("/info").json()
    assert info["model_id"] == model.name and info["max_input_length"] == model.longest


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "a", "dimension": 8}, "dimension"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "x"}, "prompt_name"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "query", "input_type": "query"}, "prompt_name"),
        ("/v1/embeddings", {"input": "a", "input_type": "x"}, "input_type"),
        ("/v1/embeddings", {"input": "a", "truncate": "START"}, "truncate"),
        ("/v1/embeddings", {"input": LONG, "truncate": "NONE"}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 10_000}, "input"),
        ("/embed", {"inputs": LONG}, "inputs"),
        ("/embed", {"inputs": "a", "truncation_direction": "Left"}, "truncation_direction"),
    ],
)
def test_what_is_wrong_is_named(client, path, body, param):
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param
    assert param in error["message"] and "\n" not in error["message"]


def test_an_unknown_key_and_a_missing_header(client):
    answer = client.post("/embed", json={"inputs": "a", "txt": "a"}).json()["error"]
    assert answer["param"] == "txt" and "'txt': unknown key; /embed takes inputs, " in answer["message"]
    answer = client.post("/embed", content='{"inputs": "a"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400 and "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_model_and_a_path_that_are_not_there(client):
    for path in ("/v1/models/x", "/v1/x", "/x"):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["type"] == "invalid_request_error"
    assert "/v1/embeddings" in answer.json()["error"]["message"]
    answer = client.get("/v1/embeddings")
    assert answer.status_code == 405 and answer.json()["error"]["type"] == "invalid_request_error"
    assert client.post("/embed/", json={"inputs": "a"}, follow_redirects=False).status_code == 404
    assert client.head("/health").status_code == 200


@pytest.fixture(scope="module")
def ranker(models, tmp_path_factory):
    """A classifier of pairs with one output."""
    folder = tmp_path_factory.mktemp("ranker") / "ranker"
    settings = {"task": "classification", "labels": ["score"], "reading": {"regression": True}}
    toys.make_model(folder, "score", models / "piece.model", settings)
    return load(folder)


@pytest.fixture(scope="module")
def ranking(ranker):
    with TestClient(make_app([ranker], TaskOptions())) as opened:
        yield opened


def scores_of(ranker, query, texts):
    answerer = make_answerer("classify", ranker)
    return np.array(answerer.predictions(answerer.task.encode([Example(query, text) for text in texts])))


def test_reranking(ranking, ranker):
    """The best first, with scores between 0 and 1; TEI's raw scores are those of the model."""
    scores = scores_of(ranker, TEXTS[0], TEXTS[1:])
    order = np.argsort(-scores).tolist()
    documents = [TEXTS[1], *({"text": text} for text in TEXTS[2:])]
    asked = {"query": TEXTS[0], "documents": documents, "top_n": 3, "return_documents": True, "model": "any"}
    answer = ranking.post("/v1/rerank", json=asked).json()
    assert [result["index"] for result in answer["results"]] == order[:3]
    assert ranking.post("/v2/rerank", json=asked).json() == answer
    assert answer["results"][0]["document"] == {"text": TEXTS[1:][order[0]]}
    found = [result["relevance_score"] for result in answer["results"]]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores[order[:3]])), atol=1e-6)
    asked = {"query": TEXTS[0], "texts": TEXTS[1:], "raw_scores": True, "return_text": True}
    answer = ranking.post("/rerank", json=asked).json()
    assert [result["index"] for result in answer] == order and answer[0]["text"] == TEXTS[1:][order[0]]
    np.testing.assert_allclose([result["score"] for result in answer], scores[order], atol=1e-6)
    assert ranking.get("/v1/models").json()["data"][0]["id"] == ranker.name


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": " ", "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["a", ""]}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a", LONG], "truncate": False}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_k": 1}, "top_k"),
        ("/v1/rerank", {"query": "a", "documents": ["a", "b"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["a", "b"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "a", "texts": ["a", LONG]}, "texts"),
    ],
)
def test_wrong_requests_for_scores(ranking, path, body, param):
    answer = ranking.post(path, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    for truncate in ({}, {"truncate": None}):  # None: as if it were not there
        asked = {"query": "a", "documents": ["a", LONG], **truncate}
        assert ranking.post("/v1/rerank", json=asked).status_code == 200


def test_a_long_query_is_tokenized_once_beside_the_event_loop(ranking, monkeypatch):
    """Not once for each document: a request could hold up all others for minutes."""
    calls = []
    encode_batch = Tokenizer.encode_batch

    def record(tokenizer, texts):
        calls.append((threading.current_thread().name, list(texts)))
        return encode_batch(tokenizer, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", record)
    query = "da lera " * 600
    assert ranking.post("/v1/rerank", json={"query": query, "documents": TEXTS}).status_code == 200
    ((thread, texts),) = calls
    assert thread.startswith("tokenizing") and texts.count(query) == 1


def test_a_list_of_texts_for_a_task(models):
    model = load(models / "classify")
    answerer = make_answerer("classify", model)
    with TestClient(make_app([model], TaskOptions())) as client:
        for request in ({"text": TEXTS}, {"text_a": TEXTS, "text_b": TEXTS[::-1]}):
            answer = client.post("/api/classify", json=request).json()
            pairs = zip(TEXTS, request.get("text_b", [None] * len(TEXTS)))
            expected = answerer.answer([Example(*pair) for pair in pairs])
            assert [each["label"] for each in answer] == [each["label"] for each in expected]
        one = client.post("/api/classify", json={"text": TEXTS[0]}).json()
        assert (
            one
            == client.post("/api/classify", json={"text_a": TEXTS[0]}).json()
            == answerer.answer([Example(TEXTS[0], None)])[0]
        )


def test_several_models_of_a_task(models, tmp_path):
    """A request names one of them, and the first answers who names none."""
    first = load(changed_copy(models / "classify", tmp_path / "first"))
    labels = [f"other {label}" for label in first.labels]
    second = load(changed_copy(models / "classify", tmp_path / "second", labels=labels))
    with TestClient(make_app([first, second], TaskOptions())) as client:
        for model, named in ((first, {}), (first, {"model": first.name}), (second, {"model": second.name})):
            answer = client.post("/api/classify", json={"text": TEXTS[0], **named}).json()
            assert answer == make_answerer("classify", model).answer([Example(TEXTS[0], None)])[0]
        refused = client.post("/api/classify", json={"text": TEXTS[0], "model": "third"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"
    assert first.name in error_of(make_app, [first, first], TaskOptions())
