"""A running `ernie-m serve`, and requests to it."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
import uvicorn

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.app import make_app
from tests.inference import browser
from tests.launching import ROOT, free_ports

DEFAULTS = PredictionOptions()


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start a server with these flags; gives its address and its process. It is ended afterwards."""
    command = [sys.executable, "-m", "ernie_m", "serve", *flags, "--port", str(*free_ports(1))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        address = read_address(process)
        browser.wait(lambda: answers(address))
        yield address, process
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def running(models: list[LoadedModel], options: PredictionOptions = DEFAULTS, **limits) -> Iterator[str]:
    """A server in a thread of this process; gives its address."""
    gate = make_app(models, options, **limits)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(gate, log_level="critical"))
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True  # a request that is never answered fails the test, and does not hang it
            thread.join()


def read_address(process: subprocess.Popen) -> str:
    """Read what a server prints until it names its address."""
    for line in process.stdout:
        if line.startswith("serving"):  # "serving on http://127.0.0.1:8000, Ctrl-C ends it"
            return line.split()[2].rstrip(",")
    pytest.fail(f"the server ended with {process.wait()}")


def parse_port(address: str) -> int:
    """The port of an address such as http://127.0.0.1:8000."""
    return int(address.rsplit(":", 1)[1])


def answers(address: str) -> bool:
    """Whether the server answers requests."""
    try:
        return ask(f"{address}/api/info")[0] in (200, 401)
    except urllib.error.URLError:
        return False


def ask(address: str, body=None, headers=None) -> tuple[int, dict]:
    """Send a request, and return the status and the JSON of its answer.

    Args:
        body: a JSON value, or bytes, which are sent as they are; None: the method is GET.
    """
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"} | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read()
        if text.startswith(b"{"):
            return error.code, json.loads(text)
        return error.code, {"error": {"message": text.decode()}}  # such as "Invalid host header"
