"""Requests that wait for a long forward pass, or for one that fails, are answered."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import uvicorn

from ernie_m.inference.load import load
from ernie_m.inference.server import deadline, serve
from ernie_m.inference.server.embeddings import PATH
from ernie_m.inference.tasks import TaskOptions
from ernie_m.inference.tasks.encode import EncodeTexts

CLIENTS = 10
SHORT = json.dumps({"input": "bado"})
LONG = json.dumps({"input": "bado", "user": "x" * 1_500_000})  # more than the server reads at once


@contextmanager
def connected(model):
    """A server in a thread of this process, and connections that have been answered once."""
    app = serve.make_app([model], TaskOptions())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, loop="asyncio", http=deadline.TimedConnection, log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        port = listening.getsockname()[1]
        connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(CLIENTS)]
        try:
            assert [post(connection, SHORT) for connection in connections] == [200] * CLIENTS
            yield connections
        finally:
            for connection in connections:
                connection.close()
            server.should_exit = True
            server.force_exit = True  # a request that is never answered fails the test, and does not hang it
            thread.join()


def post(connection: http.client.HTTPConnection, body: str) -> int:
    """Send a request for vectors on a kept connection; returns the status of its answer."""
    connection.auto_open = connection.sock is None  # a dropped connection is not opened again
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    reply.read()
    return reply.status


def test_a_long_batch_drops_no_connection(models, monkeypatch):
    """The batch takes longer than a request may take to arrive."""
    monkeypatch.setattr(deadline, "LONGEST_WAIT", 2)
    computing = threading.Event()

    def slow_vectors(self, features):
        if not computing.is_set():
            computing.set()
            time.sleep(2.2)
        return np.ones([len(features), 4], np.float32)

    with connected(load(models / "encode")) as connections, ThreadPoolExecutor(CLIENTS) as clients:
        monkeypatch.setattr(EncodeTexts, "vectors_of", slow_vectors)
        first = clients.submit(post, connections[0], SHORT)
        assert computing.wait(20)
        bodies = [LONG, LONG] + [SHORT] * (CLIENTS - 3)
        assert list(clients.map(post, connections[1:], bodies)) == [200] * (CLIENTS - 1)
        assert first.result() == 200


def test_a_failing_forward_pass_is_the_answer_to_all_who_waited(models, monkeypatch):
    computing = threading.Event()
    batches = []

    def failing_vectors(self, features):
        batches.append(len(features))
        computing.set()
        time.sleep(0.3)  # the others arrive
        raise RuntimeError("out of memory")

    with connected(load(models / "encode")) as connections, ThreadPoolExecutor(CLIENTS) as clients:
        with monkeypatch.context() as patch:
            patch.setattr(EncodeTexts, "vectors_of", failing_vectors)
            first = clients.submit(post, connections[0], SHORT)
            assert computing.wait(20)
            waiting = connections[1:-1]
            assert list(clients.map(post, waiting, [SHORT] * len(waiting))) == [500] * len(waiting)
            assert first.result() == 500
        assert sum(batches) == CLIENTS - 1 and max(batches) > 1
        assert post(connections[-1], SHORT) == 200  # it goes on
