"""What each request passes: bounds, clients that leave, the log and the metrics."""

import contextlib
import http.client
import json
import logging
import re
import select
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ernie_m.inference.load import LoadedModel, load
from ernie_m.inference.server import middleware as gates
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.model.threads import Workers
from tests.inference.browser import wait
from tests.inference.served import ask, parse_port, running

EMBEDDINGS = "/v1/embeddings"


class Held:
    """Embeddings that are computed when the test says so; `batches` has the number of texts of each batch."""

    def __init__(self, monkeypatch):
        self.batches = []
        self.computing = threading.Event()
        self.going = threading.Event()
        monkeypatch.setattr(LoadedModel, "get_workers", lambda _: Workers())
        monkeypatch.setattr(
            EmbeddingPredictor, "encode_features", lambda _, features: self.encode_texts(features)
        )

    def encode_texts(self, features):
        self.batches.append(len(features))
        self.computing.set()
        assert self.going.wait(60)
        return np.ones([len(features), 4], np.float32)


@pytest.fixture
def held(monkeypatch):
    return Held(monkeypatch)


def post(address: str, texts) -> tuple[int, dict, str | None]:
    """Ask for embeddings; returns the status, the answer and Retry-After."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", EMBEDDINGS, json.dumps({"input": texts}), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    response = json.loads(reply.read())
    connection.close()
    return reply.status, response, reply.headers["Retry-After"]


def connect(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", parse_port(address)), 20)


def with_headers(body: bytes, length: int = 0) -> bytes:
    """The bytes of a request; `length`: of the body, if it is more than these bytes."""
    head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def read_metrics(address: str) -> str:
    """The page of metrics."""
    with urllib.request.urlopen(f"{address}/metrics") as reply:
        return reply.read().decode()


def test_health_and_metrics_while_a_batch_is_computed(models, held):
    with running([load(models / "encode")]) as address, ThreadPoolExecutor(1) as client:
        first = client.submit(post, address, "bado")
        assert held.computing.wait(60)
        assert ask(f"{address}/health") == (200, {"status": "ok"})
        held.going.set()
        assert first.result()[0] == 200
        ask(f"{address}/no/such/path")
        for line in (
            'ernie_m_request_seconds_count{path="/v1/embeddings",status="200"} 1.0',
            "ernie_m_queue_texts 0.0",
            'path="other",status="404"',
        ):
            wait(lambda: line in read_metrics(address))  # noqa: B023 - called at once


def test_clients_that_leave(models, held):
    """200 of them, while a batch is computed: theirs are not, and who stays is answered."""
    with running([load(models / "encode")]) as address, ThreadPoolExecutor(2) as clients:
        first = clients.submit(post, address, "bado")
        assert held.computing.wait(60)
        leaving = [connect(address) for _ in range(200)]
        for connection in leaving:
            connection.sendall(with_headers(json.dumps({"input": ["bado"] * 4}).encode()))
        stays = clients.submit(post, address, ["bado", "lera"])
        wait(lambda: "ernie_m_queue_texts 802.0" in read_metrics(address))
        for connection in leaving:
            connection.close()
        wait(lambda: "ernie_m_queue_texts 2.0" in read_metrics(address))
        held.going.set()
        assert first.result()[0] == stays.result()[0] == 200
        assert held.batches == [1, 2]
        wait(lambda: 'status="499"} 200.0' in read_metrics(address))


def test_request_timeout(models, held):
    with running([load(models / "encode")], timeout=0.3) as address:
        status, response, retry_after = post(address, "bado")
        assert status == 503 and int(retry_after) and "--timeout" in response["error"]["message"]
        assert ask(f"{address}/health")[0] == 200
        held.going.set()
        wait(lambda: post(address, "bado")[0] == 200)


def test_two_ways_to_say_the_length(models):
    """A proxy might count otherwise than the server, and take the rest for a request of its own."""
    head = (
        f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"
    )
    with running([load(models / "encode")]) as address, connect(address) as connection:
        connection.sendall(head.encode())
        response = connection.makefile("rb").read()  # the connection is closed
    assert response.startswith(b"HTTP/1.1 400") and response.count(b"HTTP/1.1") == 1


def test_a_body_that_does_not_arrive(models, monkeypatch):
    monkeypatch.setattr(gates, "LONGEST_WAIT", 0.3)
    with running([load(models / "encode")]) as address, connect(address) as connection:
        connection.sendall(with_headers(b"{", 9))
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408")


def test_bodies_that_stop_delay_no_other(models):
    """40 clients send two bytes, and stop; another one sends its body in two pieces."""
    data = with_headers(json.dumps({"input": "bado " * 540}).encode())
    with running([load(models / "encode")]) as address, contextlib.ExitStack() as opened:
        *stopping, honest = (opened.enter_context(connect(address)) for _ in range(41))
        for each in stopping:
            each.sendall(data[:130])  # some bytes of the body
        time.sleep(0.3)
        honest.sendall(data[:1000])
        time.sleep(0.1)
        honest.sendall(data[1000:])
        assert select.select([honest], [], [], 1)[0]


def test_few_long_bodies_are_read_at_a_time(models, monkeypatch):
    """Those of a flood would fill the memory; short ones go past them."""
    monkeypatch.setattr(gates, "MOST_BYTES", 300_000)
    data = with_headers(b" " * 600_000 + json.dumps({"input": "bado"}).encode())
    with running([load(models / "encode")]) as address, contextlib.ExitStack() as opened:
        first, second = (opened.enter_context(connect(address)) for _ in range(2))
        first.sendall(data[:-1])
        time.sleep(0.3)  # it has its turn
        second.sendall(data)
        assert post(address, "bado")[0] == 200
        assert not select.select([second], [], [], 0.5)[0]
        first.sendall(data[-1:])
        assert all(each.makefile("rb").readline().startswith(b"HTTP/1.1 200") for each in (first, second))


def test_long_bodies_that_stop_reset_no_other(models, monkeypatch):
    """Three clients fill the memory for bodies, and stop; the body of another one waits, and is answered."""
    monkeypatch.setattr(gates, "MOST_BYTES", 300_000)
    monkeypatch.setattr(gates, "LONGEST_WAIT", 0.7)
    data = with_headers(b" " * 200_000 + json.dumps({"input": "bado"}).encode())
    with running([load(models / "encode")]) as address, contextlib.ExitStack() as opened:
        *stopping, honest = (opened.enter_context(connect(address)) for _ in range(4))
        for each in stopping:
            each.sendall(data[:-1])
            time.sleep(0.1)
        honest.sendall(data)
        assert honest.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        assert all(each.makefile("rb").readline().startswith(b"HTTP/1.1 408") for each in stopping)


def test_the_access_log(models, caplog, monkeypatch):
    """A line for each request, without its texts; a path cannot begin another line."""
    with running([load(models / "encode")]) as address, caplog.at_level(logging.INFO, "ernie_m"):
        monkeypatch.setattr(logging.getLogger("ernie_m"), "propagate", True)
        assert post(address, ["bado", "lera"])[0] == 200
        ask(f"{address}/a%0Ab")
        ask(f"{address}/health")
        wait(lambda: len(caplog.messages) >= 2)
    first, second = caplog.messages[-2:]  # before them, the engine
    line = rf"127.0.0.1 POST {EMBEDDINGS} 200, \d+\.\d{{3}} s, texts: 2, characters: 8"
    assert re.fullmatch(rf"20\d\d-[01]\d-[0-3]\d [0-2]\d:[0-5]\d:[0-5]\d {line}", first)
    assert "/a\\nb 404" in second
    assert "bado" not in caplog.text
