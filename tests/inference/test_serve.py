"""predict.py --serve: the JSON API and its bounds. The page is tested in test_page.py."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from inference.http_limits import LONGEST_BODY, LONGEST_WAIT, is_this_machine
from inference.loading import load
from inference.serve import LONGEST_TEXT, PAGE
from inference.tasks import make
from tests.helpers.small_corpus import sentences
from tests.inference import toy_models
from tests.inference.served import ask, serving
from tests.launching import ROOT

TEXTS = sentences(30, seed=6)


TASKS = ["classify", "search", "align", "masks", "fill", "translate-probe"]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """The address of a server with a classifier, a pre-trained model and a corpus of two languages."""
    folder = tmp_path_factory.mktemp("corpus")
    for language, texts in (("de", TEXTS[:10]), ("fr", TEXTS[10:])):
        (folder / language).write_text("\n".join(texts) + "\n")
    corpus = f"de<={folder / 'de'},fr<={folder / 'fr'}"
    with serving("--model", f"{models / 'classify'},{models / 'full'}", "--corpus", corpus) as (address, _):
        yield address


def test_what_is_served(server):
    _, info = ask(f"{server}/api/info")
    assert info["tasks"] == TASKS
    sizes = {"layers": toy_models.LAYERS, "hidden_size": 32}
    assert [one.items() >= sizes.items() for one in info["models"]] == [True, True]
    assert info["layers"] == toy_models.LAYERS
    assert info["languages"] == dict.fromkeys(["fill", "translate-probe"], toy_models.LANGUAGES)


def test_answers_are_those_of_the_model(server, models):
    asked = {
        "classify": {"text_a": TEXTS[0], "text_b": TEXTS[1]},
        "fill": {"text": f"{TEXTS[0]} [MASK]", "language": "fr"},
        "translate-probe": {"text": TEXTS[0], "language": "de"},
    }
    for name, request in asked.items():
        task = make(name, load(models / ("classify" if name == "classify" else "full")))
        assert ask(f"{server}/api/{name}", request) == (200, task.answer([task.parse(request)])[0])


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_search_at_a_layer(server, layer):
    for number, place in ((4, {"line": 5, "language": "de"}), (12, {"line": 3, "language": "fr"})):
        request = {"text": TEXTS[number]} | ({} if layer is None else {"layer": layer})
        status, found = ask(f"{server}/api/search", request)
        assert status == 200 and len(found["found"]) == 5
        assert found["found"][0].items() >= ({"text": TEXTS[number]} | place).items()


def test_search_in_each_language(server):
    _, found = ask(f"{server}/api/search", {"text": TEXTS[12], "each": True})
    best, other = found["found"]
    assert (best["text"], best["language"], other["language"]) == (TEXTS[12], "fr", "de")
    assert best["cosine"] >= other["cosine"]


def test_tokens_of_two_texts_are_compared(server, models):
    texts = {"text_a": f" {TEXTS[0]} ", "text_b": TEXTS[1]}
    status, found = ask(f"{server}/api/align", texts | {"layer": 1})
    assert status == 200 and found["layer"] == 1
    for key in ("a", "b"):
        for token in found[f"tokens_{key}"]:
            assert token["text"] == texts[f"text_{key}"][token["start"] : token["end"]] != ""
    # By hand: the states of the first layer, without [CLS], [SEP] and lone spaces, minus their mean.
    model, states = load(models / "classify"), []
    for text in texts.values():
        ids, spans = model.tokenizer.encode_with_offsets(text)
        row = np.array([[model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]])
        sequence = model.engine("encoding", 1)(row)["sequence"][0, 1:-1]
        kept = sequence[[end > start for start, end in spans]]
        centred = kept - kept.mean(axis=0)
        states.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    np.testing.assert_allclose(found["similarity"], states[0] @ states[1].T, atol=2e-4)
    same = ask(f"{server}/api/align", {"text_a": TEXTS[0], "text_b": TEXTS[0]})[1]
    assert same["layer"] == 2 and same["cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("objective", "panels"), [("mmlm", 2), ("tlm", 1), ("camlm", 1), ("btmlm", 2)])
def test_masks_of_a_pair(server, models, objective, panels):
    texts = {"text_a": TEXTS[0], "text_b": f"--{TEXTS[1]}"}  # no flag
    status, found = ask(f"{server}/api/masks", texts | {"objective": objective})
    assert status == 200 and len(found["panels"]) == panels
    for panel in found["panels"]:
        count = len(panel["tokens"])
        assert np.shape(panel["seen"]) == (count, count) and len(panel["predicted"]) == count
        assert any(panel["predicted"]) and {0, 1} >= {cell for row in panel["seen"] for cell in row}


@pytest.mark.parametrize(
    ("name", "request_", "said"),
    [
        ("search", {"text": "a " * 200}, "at most 60 fit; shorten it"),
        ("search", {"text": "a", "layer": 3}, "'layer' is 3; this model has the layers 0"),
        ("align", {"text_a": "a", "text_b": "b " * 200}, "'text_b' has"),
        ("masks", {"text_a": "a " * 200, "text_b": "b", "objective": "tlm"}, "'text_a' has"),
        ("masks", {"text_a": TEXTS[0], "objective": "tlm"}, "no 'text_b' in it"),
        ("masks", {"text_a": TEXTS[0], "objective": "x"}, "literal_error"),
        ("classify", {"text_a": "a " * 200}, "more tokens than the model reads"),
        ("translate-probe", {"text": "a " * 200, "language": "de"}, "at most 50 fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_cut(server, name, request_, said):
    status, answer = ask(f"{server}/api/{name}", request_)
    assert status == 422 and said in json.dumps(answer)


def test_openapi(server):
    _, found = ask(f"{server}/openapi.json")
    assert set(found["paths"]) == {"/api/info", *(f"/api/{name}" for name in TASKS)}
    schema = found["components"]["schemas"]["ClassifyRequest"]
    assert schema["required"] == ["text_a"] and schema["properties"]["text_a"]["maxLength"] == LONGEST_TEXT


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"text_a": "\xff"}', 400, "error parsing the body"),
        (b'{"text_a": "' + b"x" * LONGEST_BODY + b'"}', 413, f"longer than {LONGEST_BODY} bytes"),
        ({"text_a": "x" * (LONGEST_TEXT + 1)}, 422, "string_too_long"),
        ({"text_a": ""}, 422, "string_too_short"),
        ({"text_a": "  "}, 422, "'text_a' is empty"),
        ({"text": "a"}, 422, "missing"),
        (b"{", 422, "json_invalid"),
        (b'{"text_a": NaN}', 422, "string_type"),
        (b'{"text_a": "\\ud800"}', 422, "string_unicode"),
    ],
)
def test_requests_that_are_refused(server, body, status, said):
    found, answer = ask(f"{server}/api/classify", body)
    assert found == status and said in json.dumps(answer) and len(json.dumps(answer)) < 500
    assert ask(f"{server}/api/classify", {"text_a": TEXTS[0]})[0] == 200  # it lives


def test_a_body_of_unknown_length(server):
    head = b"POST /api/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.rsplit(":", 1)[1]))) as connection:
        connection.sendall(head)
        assert b" 413 " in connection.recv(4096)


def test_headers(server):
    for path in ("/", "/api/info", "/nothing"):
        with contextlib.suppress(urllib.error.HTTPError):
            reply = urllib.request.urlopen(server + path)
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and policy.count("'sha256-") == 2
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Referrer-Policy"] == "no-referrer"


UNFINISHED = {
    "silent": b"",
    "half a header": b"GET /api/info HTTP/1.1\r\nHost: 127.0",
    "half a body": b"POST /api/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{",
    "half a second request": b"GET /api/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /api",
}


@contextlib.contextmanager
def unfinished(address: str, sent: bytes, count: int):
    """Open connections that send only this."""
    with contextlib.ExitStack() as stack:
        port = int(address.rsplit(":", 1)[1])
        found = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for one in found:
            one.sendall(sent)
        yield found


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_requests_keep_nobody_waiting(server, sent):
    with unfinished(server, sent, 70) as connections:
        for _ in range(3):
            started = time.monotonic()
            assert ask(f"{server}/api/info")[0] == 200
            assert time.monotonic() - started < 2
        for one in connections:  # all are closed soon
            one.settimeout(LONGEST_WAIT + 5)
            with contextlib.suppress(ConnectionResetError):
                while one.recv(4096):
                    pass


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_ctrl_c_ends_it_while_a_connection_is_open(models, sent):
    with (
        serving("--model", str(models / "classify")) as (address, process),
        unfinished(address, sent, 1),
    ):
        process.send_signal(signal.SIGINT)
        process.wait(5)
        assert "Traceback" not in process.stdout.read()


def test_requests_under_another_name_are_refused(server):
    """A page of another site that made its name stand for this machine."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1]"):
        assert ask(f"{server}/api/info", headers={"Host": host})[0] == 400
    assert ask(f"{server}/api/info", headers={"Host": "localhost:1"})[0] == 200


def test_addresses_of_this_machine():
    assert all(map(is_this_machine, ("127.0.0.1", "localhost", "127.9.9.9", "::1")))
    assert not any(map(is_this_machine, ("0.0.0.0", "::", "", "example.org", "192.168.0.1")))


def test_nothing_is_loaded_from_elsewhere(server):
    """FastAPI's own pages would."""
    assert ask(f"{server}/docs")[0] == ask(f"{server}/redoc")[0] == 404
    assert not re.search(r"(src|href)=.(https?:)?//|url\(|@import", PAGE.read_text(encoding="utf-8"))


def test_only_this_machine_can_reach_it(server):
    port = int(server.rsplit(":", 1)[1])
    listening = {
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    assert listening == {f"0100007F:{port:04X}"}


def test_a_port_that_is_taken(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, str(ROOT / "predict.py"), "--serve", "--model", str(models / "classify")]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --host 127.0.0.1 --port {port}: cannot listen there")
