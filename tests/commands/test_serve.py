"""ernie-m serve: the JSON API and its bounds. The page is tested in tests/inference/server/test_page.py."""

import http.client
import json
import logging
import re
import signal
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from unittest import mock

import pytest
import uvicorn
from starlette.testclient import TestClient

from ernie_m.commands import serve as command
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server import app as server_app
from ernie_m.inference.server.app import make_app, serve
from ernie_m.inference.server.middleware import LONGEST_BODY
from ernie_m.inference.server.request_queue import WorkQueue
from ernie_m.inference.tasks.finetuned import MOST_LABELS
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.utils.logging import logger
from tests import toys
from tests.inference import browser
from tests.inference.served import ask, parse_port, running, serving
from tests.launching import as_flags, call_main, error_of
from tests.toys import sentences, write_languages, write_lines

TEXTS = sentences(30, seed=6)
FIVES = [TEXTS[first : first + 5] for first in range(0, 30, 5)]
LANGUAGES = ["de", "fr", "en", "es", "it", "ru"]
NUMBERS = [str(number) for number in range(90)]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """The address of a server with a classifier, a pre-trained model and a corpus of six languages."""
    corpus = write_languages(tmp_path_factory.mktemp("corpus"), **dict(zip(LANGUAGES, FIVES)))
    loaded = [load(models / kind) for kind in ("classify", "full")]
    with running(loaded, PredictionOptions(corpus=corpus)) as address:
        yield address


def test_the_server_describes_its_models_without_paths(server, models):
    """Responses contain no absolute path. The languages of the corpus have means, and five have examples."""
    size = {
        "layers": toys.LAYERS,
        "hidden_size": toys.HIDDEN_SIZE,
        "vocabulary": load(models / "full").config.vocab_size,
    }
    assert ask(f"{server}/api/info") == (
        200,
        {
            "tasks": ["classification", "zero-shot", "search", "fill-mask"],
            "languages": {"fill-mask": toys.MODEL_LANGUAGES, "search": sorted(LANGUAGES)},
            "models": [{"name": f"{models.name}/{kind}", **size} for kind in ("classify", "full")],
            "corpus_languages": LANGUAGES,
            "corpus_examples": [min(texts, key=len) for texts in FIVES[:5]],
            "labels": toys.LABELS,
            "infers": True,
            "pairs": None,
            "centered": ["search"],
        },
    )


@pytest.mark.parametrize(("number", "line", "language"), [(4, 5, "de"), (12, 3, "en")])
def test_a_line_finds_itself(server, number, line, language):
    _, response = ask(f"{server}/api/search", {"text": TEXTS[number]})
    nearest, *others = response["hits"]
    expected = {"text": TEXTS[number], "line": line, "language": language}
    assert nearest | expected == nearest and len(others) == 4


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("search", {"text": "a", "layer": 1}, "'layer': unknown key"),
        ("search", {"text": "a", "each": 1}, "'each': Input should be a valid boolean"),
        (
            "search",
            {"text": "a", "language": "xx"},
            "'language': invalid choice 'xx' (choose from de, en, es, ",
        ),
        ("classification", {"text_b": "a"}, "missing key 'text_a'"),
        ("classification", {"text": "a", "text_a": "b"}, "'text' and 'text_a'"),
        (
            "classification",
            {"text_a": "a", "txt_b": "a"},
            "'txt_b': unknown key (keys of /api/classification: text, text_a",
        ),
        ("classification", {"text_a": ["a", "b"], "text_b": ["a"]}, "'text_a' has 2, 'text_b' has 1"),
        ("classification", {"text": []}, "'text' has 0 texts"),
        ("search", {"text": "a " * 31}, "'text' has 62 tokens (maximum: 60)"),
        ("search", {"text": "a", "language": ["de"]}, "'language': Input should be a valid string"),
        ("zero-shot", {"text": "a"}, "'labels': missing"),
        (
            "zero-shot",
            {"text": "a", "labels": "b", "hypothesis_template": ["{}"]},
            "'hypothesis_template': Input should be a valid string",
        ),
        (
            "zero-shot",
            {"text": "a" * 99_999, "labels": [*NUMBERS]},
            f"the request has {90 * 99_999 + len(''.join(NUMBERS))} characters",
        ),
        (
            "zero-shot",
            {"text": "a" * 99_999, "labels": ",".join(NUMBERS)},
            f"the request has {90 * 99_999 + len(','.join(NUMBERS))} characters",
        ),
        ("zero-shot", {"text": "a", "labels": [f"{i}" for i in range(MOST_LABELS + 1)]}, "'labels' has"),
    ],
)
def test_requests_that_are_refused(server, models, name, request_, message):
    """The answer does not say where the models are on this machine."""
    status, response = ask(f"{server}/api/{name}", request_)
    assert status == 400 and message in response["error"]["message"]
    assert response["error"]["param"] in {**request_, "text_b": 0, "text_a": 0, "labels": 0, None: 0}
    assert str(models) not in json.dumps(response)


def test_an_error_does_not_say_where_the_model_is(models):
    """As that of an exported model, which has one layer, for a search at another."""
    model = load(models / "classify")
    assert str(models) in error_of(model.check_task, "token-classification")
    app = make_app([load(models / "tag"), model], PredictionOptions())
    app.app.add_api_route("/broken", lambda: model.check_task("token-classification"))
    app.app.add_api_route("/bug", lambda: int(str(models)))
    with TestClient(app, raise_server_exceptions=False) as client:
        message = client.get("/broken").json()["error"]["message"]
        assert message.startswith(f"{model.name}: task token-classification")
        response = client.get("/bug")
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        assert str(models) not in response.text and "Traceback" not in response.text


@pytest.fixture(scope="module")
def server_with_options(models):
    """The address of a server on ::1 with a tagger and a classifier, and with labels of zero-shot."""
    flags = ["--labels", "bado,lera", "--multi_label", "true", "--host", "::1"]
    with serving("--model", f"{models / 'tag'},{models / 'classify'}", *flags) as (address, _):
        yield address


def test_requests_with_words_and_command_line_options(models, server_with_options):
    """They count as on the command line: `words` to tag; --labels and --multi_label if a request has none."""
    words = TEXTS[0].split()
    status, response = ask(f"{server_with_options}/api/token-classification", {"words": words})
    assert (status, response["words"]) == (200, words)
    for request in ({}, {"text": "住在"}):
        assert ask(f"{server_with_options}/api/token-classification", request)[0] == 400
    for request in ({}, {"multi_label": False}, {"labels": ["kani"]}):
        options = PredictionOptions(labels="bado,lera", multi_label=True)
        predictor = make_predictor("zero-shot", load(models / "classify"), options)
        (expected,) = predictor.predict([predictor.parse({"text": TEXTS[0], **request})])
        assert ask(f"{server_with_options}/api/zero-shot", {"text": TEXTS[0], **request}) == (200, expected)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/token-classification", {"words": ["a", "\ud800"]}),
        ("/api/zero-shot", {"text": "a", "labels": ["b", "\ud800"]}),
        ("/api/classification", {"text_a": "\ud800"}),
    ],
)
def test_half_a_character(server_with_options, path, body):
    """An answer could not have it."""
    status, response = ask(server_with_options + path, body)
    assert status == 400 and response["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("length", "status"), [(100, 200), (LONGEST_BODY + 1, 413)])
def test_a_body_in_chunks(server, length, status):
    """Its length is not in the headers, so it is counted."""
    body = json.dumps({"text_a": TEXTS[0]}).encode().ljust(length)
    parts = [body[first : first + 10_000] for first in range(0, len(body), 10_000)]
    connection = http.client.HTTPConnection("127.0.0.1", parse_port(server))
    connection.request(
        "POST",
        "/api/classification",
        iter(parts),
        {"Content-Type": "application/json"},
        encode_chunked=True,
    )
    response = connection.getresponse()
    assert response.status == status and (b"maximum: " in response.read()) == (status == 413)
    connection.close()


def test_ctrl_c_is_no_traceback(models):
    """It ends the server while a browser is connected."""
    with serving("--model", str(models / "classify")) as (address, process):
        with socket.create_connection(("127.0.0.1", parse_port(address))) as browser:
            browser.sendall(b"GET /api/info HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert browser.recv(4096)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert "Traceback" not in process.stdout.read()


def test_sigterm_under_load(models):
    """What was taken in is answered, nothing hangs, and the log has no traceback."""
    with serving("--model", str(models / "classify"), "--timeout", "60") as (address, process):
        statuses = []

        def has_work(page):
            return "ernie_m_queue_texts 0.0" not in urllib.request.urlopen(page).read().decode()

        def send(number):
            with suppress(OSError, http.client.HTTPException):  # refused after the end
                statuses.append(ask(f"{address}/api/classification", {"text": [TEXTS[0]] * 300})[0])

        with ThreadPoolExecutor(20) as clients:
            futures = [clients.submit(send, number) for number in range(20)]
            browser.wait(lambda: has_work(f"{address}/metrics"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
            for future in futures:
                future.result(60)
        assert 200 in statuses and set(statuses) <= {200, 503}
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_requests_under_another_name_are_refused(models, monkeypatch, host):
    """Such requests come from a page of another site, if its name is made to stand for this machine."""
    apps = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: apps.append(self.config.app))
    serve([load(models / "classify")], PredictionOptions(), host, 0, allowed_hosts=["ml.example"])
    (app,) = apps
    client = TestClient(app, base_url="http://localhost")
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a.ml.example"):
        response = client.get("/api/info", headers={"Host": name})
        assert response.status_code == 400 and "--allowed_hosts" in response.text
    for name in ("localhost:1", "[::1]:1", "[::1]", "ml.example", "ml.example:443"):
        assert client.get("/api/info", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("proxies", [None, "*"])
def test_a_proxy_is_believed_if_it_is_named(models, monkeypatch, proxies):
    """And the end waits for clients that still read their answers."""
    if proxies:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    configs = []
    queues = []  # the arguments of each
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: configs.append(self.config))
    monkeypatch.setattr(server_app, "WorkQueue", lambda *given: queues.append(given) or WorkQueue(*given))
    serve([load(models / "classify")], PredictionOptions(), "127.0.0.1", 0, "geheim", 5, 7, 17)
    assert queues[0][:3] == (5, 7 * server_app.CHARACTERS, 17)
    (config,) = configs
    found = (config.proxy_headers, config.timeout_graceful_shutdown, config.app.token)
    assert found == (bool(proxies), 17, "geheim")


def test_flags_reach_the_server(models, tmp_path, monkeypatch):
    levels = []
    started = mock.Mock(side_effect=lambda *_, **__: levels.append(logger.level))
    monkeypatch.setattr(server_app, "serve", started)
    limits = {"max_queue": 5, "max_batch_tokens": 7, "timeout": 17}
    options = {"labels": "a,b", "top_k": 3, "max_seq_len": 9}
    folders = [models / "classify", models / "encode"]
    flags = {
        "model": ",".join(map(str, folders)),
        "engine": "paddle-eager",
        "host": "::1",
        "port": 9,
        "token_file": write_lines(tmp_path / "token", ["geheim"]),
        "log_level": "warning",
        "allowed_hosts": "a.example,b.example",
    }
    call_main(command, as_flags(flags | options | limits))
    (loaded, *others), found = started.call_args
    assert [(model.folder, model.engine_name) for model in loaded] == [
        (path, "paddle-eager") for path in folders
    ]
    limits["allowed_hosts"] = ["a.example", "b.example"]
    assert (others, found) == ([PredictionOptions(**options), "::1", 9, "geheim"], limits)
    assert levels == [logging.WARNING]


def test_nothing_is_loaded_from_elsewhere(server_with_options):
    """The pages that FastAPI makes by itself would load files from elsewhere, so they are not served."""
    with urllib.request.urlopen(server_with_options) as reply:
        policy = reply.headers["Content-Security-Policy"]
        page = reply.read().decode()
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    for name in ("docs", "redoc"):
        status, response = ask(f"{server_with_options}/{name}")
        assert status == 404 and "/api/classification" in response["error"]["message"]
    assert not re.search(r"(src|href)=.(https?:)?//|url\(|@import", page)


def test_a_port_that_is_taken(models, tmp_path):
    """It is said before a corpus is encoded."""
    corpus = write_lines(tmp_path / "corpus.txt", TEXTS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"model": models / "classify", "port": port, "corpus": corpus, "index": tmp_path / "index"}
        line = error_of(call_main, command, as_flags(flags))
    assert f"--port {port}: Address already in use" in line
    assert "--host " in error_of(serve, [], PredictionOptions(), "", 0)
    assert not (tmp_path / "index").exists()
