"""ernie-m serve: embeddings in the format of OpenAI's API, and the token."""

import base64
import json
import logging
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.app import LONGEST_TEXT, MOST_KEYS, MOST_TEXTS, make_predictors, read_token
from ernie_m.inference.server.middleware import LONGEST_BODY
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.inference.served import ask, running
from tests.launching import error_of
from tests.toys import sentences

MODELS = "/v1/models"
EMBEDDINGS = "/v1/embeddings"
TEXTS = sentences(50, seed=6)
TOKEN = "geheim:é"  # a colon ends the name of a user, and not the password


@pytest.fixture(scope="module")
def server(models):
    """The address of a server whose embeddings are those of sentence-transformers: of all tokens."""
    with running([load(models / "encode")], PredictionOptions(pooling="mean")) as address:
        yield address


@pytest.fixture(scope="module")
def expected(models):
    """The embeddings of TEXTS, float32 [N, H]."""
    return ernie_m.load(models / "encode").encode(TEXTS, pooling="mean", normalize=True)


def encode_features(response: dict) -> np.ndarray:
    """The embeddings of an answer, float32 [N, H]."""
    assert [entry["index"] for entry in response["data"]] == list(range(len(response["data"])))
    rows = [entry["embedding"] for entry in response["data"]]
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in rows]
    return np.array(decoded, np.float32)


@pytest.mark.parametrize("encoding_format", ["float", "base64", None, "absent"])
def test_served_embeddings(server, models, expected, encoding_format):
    request = {"input": TEXTS, "model": "any", "user": "x", "dimensions": toys.HIDDEN_SIZE}
    if encoding_format != "absent":
        request["encoding_format"] = encoding_format
    status, response = ask(server + EMBEDDINGS, request)
    assert status == 200 and response["object"] == "list" and response["model"].endswith("/encode")
    assert isinstance(response["data"][0]["embedding"], str) == (encoding_format == "base64")
    np.testing.assert_allclose(encode_features(response), expected, atol=1e-6)
    tokenizer = ernie_m.load(models / "encode").tokenizer
    tokens = sum(len(tokenizer.encode(text)) + 2 for text in TEXTS)
    assert response["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("normalize", [False, True])  # whether the model's own embeddings have length 1
def test_embeddings_are_bitwise_equal_under_load(models, tmp_path, normalize):
    """Whoever shares a batch; texts of all lengths, one or many in a request."""
    folder = changed_copy(models / "encode", tmp_path / "model", pipeline=stored(normalize=normalize))
    texts = [text for line in sentences(40, seed=7) for text in (line, f"{line} {line} {line}"[:90])]
    expected = ernie_m.load(folder).encode(texts, normalize=True)
    requests = [texts[number : number + size] for size in (1, 3, 20) for number in range(0, 80, size)]
    parts = [expected[number : number + size] for size in (1, 3, 20) for number in range(0, 80, size)]
    with running([load(folder)]) as address, ThreadPoolExecutor(16) as clients:

        def bits(request):
            response = ask(address + EMBEDDINGS, {"input": request, "encoding_format": "base64"})[1]
            return encode_features(response).tobytes()

        for map_requests in (map, clients.map):
            for part, response in zip(parts, map_requests(bits, requests)):
                assert response == part.tobytes()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": []}, 400, "'input' has 0 texts"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, 400, f"expected 1 to {MOST_TEXTS}"),
        ({"input": ["bado", " "]}, 400, "'input[1]'"),
        ({"input": ["bado", "da " * 200]}, 400, "'input[1]' has more than 60 tokens"),
        ({"input": [1, 2]}, 400, "'input': expected a text or a list of texts"),
        ({"input": [[1, 2], [3]]}, 400, "'input': expected a text or a list of texts"),
        ({"input": None}, 400, "'input': Input should be a valid string"),
        ({"input": " " * LONGEST_TEXT}, 400, "'input[0]'"),
        ({"input": [" "] * MOST_TEXTS}, 400, "'input[0]'"),
        ({"input": "a" * (LONGEST_TEXT + 1)}, 400, f"each of at most {LONGEST_TEXT} characters"),
        ({"input": ["a", "a" * (LONGEST_TEXT + 1)]}, 400, f"each of at most {LONGEST_TEXT} characters"),
        ({f"key{number}": 0 for number in range(MOST_KEYS + 1)}, 400, f"maximum: {MOST_KEYS}"),
        ({f"key{number}": 0 for number in range(MOST_KEYS)}, 400, "'key3': unknown key"),
        ({"x" * 1000: 0}, 400, "'" + "x" * 50 + "'"),
        ([["a"] * 1000], 400, "the body must be a JSON object"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 8}, 400, "'dimensions': invalid value 8"),
        ({}, 400, "input"),
        (b"", 400, "'body'"),
        (b"{", 400, "the body is not JSON: "),
        (b'{"input": "\xff"}', 400, "parsing"),
        (b'{"input": "\\ud800"}', 400, "input"),
        (b'{"input": "' + b"x" * 10_000_000 + b'"}', 413, f"maximum: {LONGEST_BODY} bytes"),
    ],
)
def test_reject_wrong_requests_and_serve_the_next(server, body, status, message):
    response_status, response = ask(server + EMBEDDINGS, body)
    said = response.pop("error")
    assert (response_status, response, said["type"]) == (status, {}, "invalid_request_error")
    assert len(said["message"]) <= 600 and said["message"].count("unknown key") <= 5
    assert message in said["message"] and "\n" not in said["message"]
    assert ask(server + EMBEDDINGS, {"input": "bado"})[0] == 200


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_requests_need_the_token_but_health_does_not(models, monkeypatch, caplog):
    """/health needs no token. With a token, other host names are still refused."""
    monkeypatch.setattr(logging.getLogger("ernie_m"), "propagate", True)
    right = ["Bearer " + TOKEN.encode().decode("latin-1"), basic(TOKEN)]
    right.append(basic(TOKEN).replace("Basic", "basic"))  # HTTP does not mind the case
    wrong = ["", "Bearer", "Bearer x", f"Bearer {TOKEN[:-1]}", basic("x"), "Basic \xff", "Basic x"]
    with running([load(models / "encode")], token=TOKEN, hosts=["127.0.0.1"]) as address:
        for path in ("/api/info", "/openapi.json", MODELS, EMBEDDINGS, "/metrics", f"{MODELS}/health"):
            body = {"input": "a"} if path == EMBEDDINGS else None
            for authorization in right if path in ("/api/info", "/openapi.json", MODELS, EMBEDDINGS) else ():
                assert ask(address + path, body, {"Authorization": authorization})[0] == 200, authorization
            for headers in ({}, *({"Authorization": each} for each in wrong)):
                status, response = ask(address + path, body, headers)
                assert status == 401 and "token" in json.dumps(response), headers
                assert TOKEN[:6] not in json.dumps(response)
        with pytest.raises(urllib.error.HTTPError) as refused:  # the page
            urllib.request.urlopen(address, timeout=60)
        assert refused.value.code == 401 and refused.value.headers["WWW-Authenticate"]
        elsewhere = {"Authorization": basic(TOKEN), "Host": "evil.example"}
        statuses = [ask(address + path, headers=elsewhere)[0] for path in ("/health", "/api/info")]
        assert statuses == [400, 400] and ask(f"{address}/health")[0] == 200
    assert TOKEN[:6] not in caplog.text


@pytest.mark.parametrize(
    ("content", "variable", "token", "named"),
    [
        (None, None, None, None),
        ("geheim\n", None, "geheim", None),
        (None, " a ", "a", None),
        ("geheim", "a", None, "ERNIE_M_TOKEN"),
        ("\n", None, None, "--token_file"),
        (None, "", None, "ERNIE_M_TOKEN"),
    ],
)
def test_where_the_token_is(tmp_path, monkeypatch, content, variable, token, named):
    """In a file or in the environment, where others do not read it; two, or an empty one, are refused."""
    file = None if content is None else str(tmp_path / "token")
    if file:
        Path(file).write_text(content, encoding="utf-8")
    if variable is not None:
        monkeypatch.setenv("ERNIE_M_TOKEN", variable)
    if named:
        assert named in error_of(read_token, file)
    else:
        assert read_token(file) == token


@pytest.mark.parametrize("names", [("encode", "classify"), ("classify", "encode")])
def test_first_model_serves_embeddings(models, exported, names):
    """An exported head has none, and so no search."""
    loaded = [load(models / name) for name in names]
    assert make_predictors(loaded, PredictionOptions())["embedding"].model is loaded[0]
    with_corpus = PredictionOptions(corpus=str(models / "encode/vocab.txt"))
    assert {*make_predictors([load(exported / "classify")], with_corpus)} == {"classification", "zero-shot"}
