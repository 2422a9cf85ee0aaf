"""predict.py --serve: vectors in the form of OpenAI's API, and the token."""

import asyncio
import base64
import json
import subprocess
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.inference.load import load
from ernie_m.inference.server import serve
from ernie_m.inference.server.embeddings import (
    MODELS_PATH,
    MOST_TEXTS,
    PATH,
    EmbeddingsAnswerer,
    EmbeddingsRequest,
)
from ernie_m.inference.server.serve import LONGEST_BODY, LONGEST_EMBEDDINGS_BODY
from ernie_m.inference.tasks import make_answerer
from ernie_m.reader.batching import BATCH_TOKENS
from ernie_m.utils.errors import UserError
from tests import toys
from tests.inference.served import ask, serving
from tests.launching import call_main
from tests.toys import sentences

TEXTS = sentences(50, seed=6)
TOKEN = "geheim:é"  # a colon ends the name of a user, and not the password


@pytest.fixture(scope="module")
def server(models):
    """The address of a server whose vectors are those of sentence-transformers: of all tokens."""
    with serving("--model", str(models / "encode"), "--pooling", "specials") as (address, _):
        yield address


@pytest.fixture(scope="module")
def expected(models):
    """The vectors of TEXTS, float32 [N, H]."""
    return ernie_m.load(models / "encode").encode(TEXTS, pooling="specials", normalize=True)


def vectors_of(answer: dict) -> np.ndarray:
    """The vectors of an answer, float32 [N, H]."""
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    rows = []
    for entry in answer["data"]:
        row = entry["embedding"]
        rows.append(np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row)
    return np.array(rows, np.float32)


@pytest.mark.parametrize("encoding_format", ["float", "base64", None, "absent"])
def test_the_vectors(server, models, expected, encoding_format):
    request = {"input": TEXTS, "model": "any", "user": "x", "dimensions": None}
    if encoding_format != "absent":
        request["encoding_format"] = encoding_format
    status, answer = ask(server + PATH, request)
    assert status == 200 and answer["object"] == "list" and answer["model"].endswith("/encode")
    assert isinstance(answer["data"][0]["embedding"], str) == (encoding_format == "base64")
    np.testing.assert_allclose(vectors_of(answer), expected, atol=1e-6)
    tokenizer = ernie_m.load(models / "encode").tokenizer
    tokens = sum(len(tokenizer.encode(text)) + 2 for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_with_curl(server, expected):
    """One text, by a command line as people write it."""
    body = json.dumps({"input": TEXTS[3], "dimensions": toys.HIDDEN_SIZE})
    command = ["curl", "-s", server + PATH, "-H", "Content-Type: application/json", "-d", body]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    np.testing.assert_allclose(vectors_of(answer), expected[3:4], atol=1e-6)


def test_the_list_of_models(server):
    status, models = ask(server + MODELS_PATH)
    (model,) = models["data"]
    assert status == 200 and models["object"] == "list"
    assert model["id"] == ask(server + PATH, {"input": "bado"})[1]["model"]


def test_many_clients_at_once(server, expected):
    with ThreadPoolExecutor(len(TEXTS)) as clients:
        answers = clients.map(lambda text: ask(server + PATH, {"input": text}), TEXTS)
    vectors = [vectors_of(answer)[0] for _, answer in answers]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_what_waits_is_one_batch(models, expected):
    """At most BATCH_TOKENS tokens; a request that fails does not stop the others."""
    encode = make_answerer("encode", load(models / "encode"))
    batches = []
    vectors_of_features = encode.vectors_of

    def counting(features):
        batches.append(len(features))
        if len(features) == 1:
            raise UserError("for one")
        return vectors_of_features(features)

    encode.vectors_of = counting
    embeddings = EmbeddingsAnswerer(encode, "name")

    faults = []  # of what the event loop calls

    async def answers(requests):
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        waiting = [embeddings.answer(EmbeddingsRequest(input=texts)) for texts in requests]
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=20)

    first, second = asyncio.run(answers([TEXTS[:30], TEXTS[30:]]))
    assert batches == [50] and len(first["data"]) == 30 and len(second["data"]) == 20
    batches.clear()
    long_text = "da " * 25  # 27 tokens at least
    length = len(encode.features([long_text])[0].ids)
    fitting = BATCH_TOKENS // length
    asyncio.run(answers([[long_text] * (fitting + 2), [long_text] * 3]))
    assert batches == [fitting, 5]
    batches.clear()
    (error,) = asyncio.run(answers([TEXTS[:1]]))
    assert isinstance(error, UserError)
    assert len(asyncio.run(answers([TEXTS[:2]]))[0]["data"]) == 2
    assert faults == []


def test_a_cancelled_request_does_not_stop_the_others(models):
    embeddings = EmbeddingsAnswerer(make_answerer("encode", load(models / "encode")), "name")

    async def second_answer():
        first, second = (
            asyncio.ensure_future(embeddings.answer(EmbeddingsRequest(input=[text]))) for text in TEXTS[:2]
        )
        await asyncio.sleep(0)  # both wait for the batch
        first.cancel()
        return await asyncio.wait_for(second, timeout=20)

    assert len(asyncio.run(second_answer())["data"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": []}, 400, "'input' has 0 texts"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, 400, f"a request has 1 to {MOST_TEXTS}"),
        ({"input": ["bado", " "]}, 400, "'input[1]'"),
        ({"input": ["bado", "da " * 200]}, 400, "'input[1]' has more than 60 tokens"),
        ({"input": [1, 2]}, 400, "body.input: it must be a text or a list of texts"),
        ({"input": [[1, 2], [3]]}, 400, "body.input: it must be a text or a list of texts"),
        ({"input": None}, 400, "body.input: it must be a text or a list of texts"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 8}, 400, "'dimensions' is 8"),
        ({}, 400, "input"),
        (b"{", 400, "JSON"),
        (b'{"input": "\xff"}', 400, "parsing"),
        (b'{"input": "\\ud800"}', 400, "input"),
        (b'{"input": "' + b"x" * 10_000_000 + b'"}', 413, f"longer than {LONGEST_EMBEDDINGS_BODY} bytes"),
    ],
)
def test_what_is_refused(server, body, status, message):
    answer_status, answer = ask(server + PATH, body)
    assert answer_status == status and set(answer) == {"error"}
    assert answer["error"]["message"].count("body.") <= 1  # one fault, also of many numbers
    assert message in answer["error"]["message"] and "\n" not in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert ask(server + PATH, {"input": "bado"})[0] == 200


def test_only_requests_for_vectors_may_be_long(server):
    long_body = json.dumps({"input": ["a"], "user": "x" * LONGEST_BODY}).encode()
    assert ask(server + PATH, long_body)[0] == 200
    assert ask(f"{server}/api/align", long_body)[0] == 413


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


def test_the_token(models):
    model = str(models / "encode")
    with serving("--model", model, "--token", TOKEN) as (address, process):
        for path, body in (
            ("/", None),
            ("/api/info", None),
            ("/openapi.json", None),
            (MODELS_PATH, None),
            (PATH, {"input": "a"}),
        ):
            right = ["Bearer " + TOKEN.encode().decode("latin-1"), basic(TOKEN)]
            right.append(basic(TOKEN).replace("Basic", "basic"))  # HTTP does not mind the case
            wrong = [
                None,
                "",
                "Bearer",
                "Bearer x",
                f"Bearer {TOKEN[:-1]}",
                basic("x"),
                "Basic \xff",
                "Basic x",
            ]
            for authorization in right + wrong:
                headers = {} if authorization is None else {"Authorization": authorization}
                if path == "/" and authorization in right:
                    continue  # a page, not JSON
                status, answer = ask(address + path, body, headers)
                assert status == (200 if authorization in right else 401), (path, authorization)
                if status == 401:
                    assert "token" in json.dumps(answer) and TOKEN[:6] not in json.dumps(answer)
        assert ask(address + PATH, b"x" * 10_000_000)[0] == 413
        headers = {"Authorization": basic(TOKEN), "Host": "evil.example"}
        assert ask(f"{address}/api/info", headers=headers)[0] == 400  # a token does not open other names
    log = process.stdout.read()
    assert "Traceback" not in log and TOKEN[:6] not in log


def test_the_token_is_compared_in_constant_time(monkeypatch):
    calls = []
    monkeypatch.setattr(serve.hmac, "compare_digest", lambda *texts: calls.append(texts))
    request = types.SimpleNamespace(headers={"authorization": "Bearer a"})
    assert not serve._brings(request, "b")
    assert calls == [(b"a", b"b")]


def test_an_empty_token(models, refused):
    flags = ["--serve", "--model", str(models / "encode"), "--token", ""]
    assert "--token" in refused(lambda: call_main(predict, flags))
