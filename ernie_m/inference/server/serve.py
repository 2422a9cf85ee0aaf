"""Runs the server of `ernie-m predict --serve`, and ends it. See docs/serving.md.

The event loop reads requests and writes answers; the models run in threads beside it. It needs the packages
of the extra `serve`.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.server.app import make_app
from ernie_m.inference.server.gate import LONGEST_WAIT, Gate
from ernie_m.inference.tasks import TaskOptions
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_text
from ernie_m.utils.logging import logger

MOST_CONNECTIONS = 512  # fewer than the files that a process may open
LONGEST_PAUSE = 60  # seconds in which a client takes nothing of an answer
NO_TOKEN = "none"  # the value of --token with which everyone may ask
THIS_MACHINE = ["127.0.0.1", "localhost", "[::1]"]
# With this policy, a browser loads nothing from other sites and does not show the page in a frame.
POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
SWITCH = 0.001  # seconds after which the event loop gets its turn beside threads that run Python


class TimedConnection(H11Protocol):
    """A connection that is closed if no head of a request arrives in time; uvicorn itself waits for ever.

    A client that reads an answer has longer, as long as it goes on reading.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:  # a head is here
            self._timer.cancel()

    def on_response_complete(self) -> None:
        self._timer.cancel()
        self._wait()
        super().on_response_complete()  # the next request may be here already

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. One connection cannot give two answers at once."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:  # they follow a request that is not answered yet
            self.transport.abort()

    def _wait(self) -> None:
        unread = self.transport.get_write_buffer_size()  # bytes of an answer
        self._timer = self.loop.call_later(LONGEST_PAUSE if unread else LONGEST_WAIT, self._end, unread)

    def _end(self, unread: int) -> None:
        """Close the connection, unless its client has read a part of an answer since then."""
        if self.transport.get_write_buffer_size() < unread:
            self._wait()
        else:
            self.transport.abort()


class Server(uvicorn.Server):
    """A server that answers what is here before it ends; a second signal does not wait for that."""

    def __init__(self, config: uvicorn.Config, gate: Gate):
        super().__init__(config)
        self.gate = gate

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End when all requests are answered; at a second signal, at once."""
        if self.gate.is_stopping:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)  # ends the process
        self.gate.stop(partial(super().handle_exit, sig, frame))


def serve(
    models: list[LoadedModel],
    options: TaskOptions,
    host: str,
    port: int,
    token: str | None = None,
    max_queue: int = 4096,
    max_batch_tokens: int = 1024,
    timeout: float = 300,
) -> None:
    """Answer until Ctrl-C or SIGTERM.

    Args:
        token, max_queue, max_batch_tokens, timeout: see `make_app`.

    Raises:
        UserError: the port is taken.
    """
    # First the port, because a corpus may take minutes to encode.
    with _listen(host, port) as listening:
        address = f"[{host}]" if ":" in host else host
        # Against DNS rebinding: another name could resolve to this address.
        hosts = THIS_MACHINE if address in THIS_MACHINE else None
        gate = make_app(models, options, token, max_queue, max_batch_tokens, timeout, hosts)
        config = uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,
            http=TimedConnection,
            ws="none",
            timeout_keep_alive=LONGEST_WAIT,
            timeout_graceful_shutdown=timeout,  # a client may still read an answer
            limit_concurrency=MOST_CONNECTIONS,
            headers=[("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")],
        )
        sys.setswitchinterval(SWITCH)
        # The collector stops all threads while it looks through what is loaded, which stays.
        gc.collect()
        gc.freeze()
        with contextlib.suppress(KeyboardInterrupt):
            say(f"serving on http://{address}:{port}, Ctrl-C ends it")
            Server(config, gate).run(sockets=[listening])


def token_of(on_command_line: str | None, file: str | None) -> str | None:
    """The token of requests: that of a file, of the environment's ERNIE_M_TOKEN, or of the command line.

    Raises:
        UserError: it is empty, or there are two.
    """
    found = {
        "--token": on_command_line,
        f"--token_file {file}": None if file is None else read_text(Path(file), 4096),
        "ERNIE_M_TOKEN": None if on_command_line == NO_TOKEN else os.environ.get("ERNIE_M_TOKEN"),
    }
    given = {name: token.strip() for name, token in found.items() if token is not None}
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: two tokens; give one of them")
    if on_command_line == NO_TOKEN:
        return None
    for name, token in given.items():
        if not token:
            raise UserError(f"{name} is empty; give a text, or leave it out")
        if name == "--token":
            logger.warning("--token: others on this machine can read it; take --token_file or ERNIE_M_TOKEN")
        return token
    return None


def _listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UserError: it is taken, or the host has no such address.
    """
    is_six = ":" in host
    family = socket.AF_INET6 if is_six else socket.AF_INET
    # The protocol is named, because asyncio looks at it before it turns off the wait for further bytes
    # (TCP_NODELAY), which costs 40 ms a request.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_six:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: another program listens there; choose another port") from error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error})") from error
    return listening
