"""predict.py --serve: the JSON API, its bounds, and the page in a browser."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from inference.loading import load
from inference.serve import LONGEST_BODY, LONGEST_TEXT, PAGE, is_this_machine
from inference.tasks import make
from tests.helpers.small_corpus import sentences
from tests.inference import browser, toy_models
from tests.launching import ROOT

TEXTS = sentences(30, seed=6)


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """The address of a server with a classifier, a pre-trained model and a corpus."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("\n".join(TEXTS) + "\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "predict.py"), "--serve"]
    command += ["--model", f"{models / 'classify'},{models / 'full'}"]
    command += ["--corpus", str(corpus), "--port", str(port), "--use_cuda", "false"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for line in process.stdout:
            if line.startswith("serving"):
                break
        else:
            pytest.fail(f"the server ended with {process.wait()}")
        browser.wait(lambda: answers(address))
        yield address
    finally:
        process.terminate()
        process.wait(20)


def answers(address: str) -> bool:
    try:
        return ask(f"{address}/api/info")[0] == 200
    except urllib.error.URLError:
        return False


def ask(address: str, body=None, headers=None) -> tuple[int, dict]:
    """Status and JSON of a request; bytes are sent as they are."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"} | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {"detail": text.decode()}


def test_what_is_served(server):
    _, info = ask(f"{server}/api/info")
    assert info["tasks"] == ["classify", "search", "fill", "translate-probe"]
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
    status, found = ask(f"{server}/api/search", {"text": TEXTS[4]})
    assert status == 200 and found["found"][0]["text"] == TEXTS[4] and len(found["found"]) == 5


def test_openapi(server):
    _, found = ask(f"{server}/openapi.json")
    assert set(found["paths"]) == {"/api/info", *(f"/api/{name}" for name in
                                   ("classify", "search", "fill", "translate-probe"))}  # fmt: skip
    schema = found["components"]["schemas"]["ClassifyRequest"]
    assert schema["required"] == ["text_a"] and schema["properties"]["text_a"]["maxLength"] == LONGEST_TEXT


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"text_a": "\xff"}', 400, "the request is not UTF-8 (byte 13)"),
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


@pytest.mark.browser
def test_the_page(server, models, tmp_path):
    """A user types a sentence into each form and reads the answer."""
    task = make("classify", load(models / "classify"))
    with browser.Browser(tmp_path) as page:
        page.open(server)
        page.wait_for("document.querySelectorAll('nav button').length === 4")
        page.type("#text_a", TEXTS[0])
        page.type("#text_b", TEXTS[1])
        page.click("#go")
        page.wait_for("document.querySelector('#answer').dataset.done === 'classify'")
        wanted = task.answer([task.parse({"text_a": TEXTS[0], "text_b": TEXTS[1]})])[0]
        assert page.value("document.querySelector('#label').textContent") == wanted["label"]
        shown = page.value("[...document.querySelectorAll('#answer td.number')].map(one => one.textContent)")
        assert shown == [f"{share:.3f}" for share in wanted["probabilities"].values()]
        for number, name, text in (
            (2, "search", TEXTS[7]), (3, "fill", f"{TEXTS[0]} [MASK]"), (4, "translate-probe", TEXTS[2])
        ):  # fmt: skip
            page.click(f"nav button:nth-child({number})")
            page.type("#text", text)
            page.click("#go")
            page.wait_for(f"document.querySelector('#answer').dataset.done === {name!r}")
            shown = page.value("document.querySelector('#answer td').textContent")
            assert shown == f"8: {TEXTS[7]}" if name == "search" else re.fullmatch(r"\S+", shown)
        page.type("#text", "x" * 5)
        page.click("nav button:nth-child(3)")
        page.type("#text", "no mask")
        page.click("#go")
        page.wait_for("document.querySelector('#answer .error') !== null")
        assert "'text' has no [MASK] to fill" in page.value("document.querySelector('#answer').textContent")
