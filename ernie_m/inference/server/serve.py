"""Runs the server of `ernie-m serve`. See docs/serving.md.

The event loop reads requests and writes answers; the models run in threads beside it. It needs the packages
of the extra `serve`.
"""

import contextlib
import gc
import os
import socket
import sys
from pathlib import Path

import uvicorn

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.server.app import make_app
from ernie_m.inference.tasks import PredictionOptions
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_text

THIS_MACHINE = ["127.0.0.1", "localhost", "[::1]"]
# With this policy, a browser loads nothing from other sites and does not show the page in a frame.
POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def serve(
    models: list[LoadedModel],
    options: PredictionOptions,
    host: str,
    port: int,
    token: str | None = None,
    max_queue: int = 4096,
    max_batch_tokens: int = 1024,
    timeout: int = 300,
) -> None:
    """Answer until Ctrl-C or SIGTERM; what is in flight then is answered.

    Args:
        token, max_queue, max_batch_tokens, timeout: see `make_app`.

    Raises:
        UserError: the port is taken, or two models are for one task.
    """
    # First the port, because a corpus may take minutes to encode.
    with _listen(host, port) as listening:
        address = f"[{host}]" if ":" in host else host
        # Against DNS rebinding: another name could resolve to this address.
        hosts = THIS_MACHINE if address in THIS_MACHINE else ["*"]
        config = uvicorn.Config(
            make_app(models, options, token, max_queue, max_batch_tokens, timeout, hosts),
            log_level="warning",
            access_log=False,
            ws="none",
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # whose X-Forwarded-For uvicorn believes
            timeout_graceful_shutdown=timeout,  # a client may still read an answer
            headers=[("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")],
        )
        sys.setswitchinterval(0.001)  # seconds until the event loop has its turn beside threads of Python
        # The collector stops all threads while it looks through what is loaded, which stays, or often through
        # a body with many lists.
        gc.freeze()
        gc.set_threshold(100_000)
        with contextlib.suppress(KeyboardInterrupt):
            say(f"serving on http://{address}:{port}, Ctrl-C ends it")
            uvicorn.Server(config).run(sockets=[listening])


def token_of(file: str | None) -> str | None:
    """The token of requests: that of a file, or of the environment's ERNIE_M_TOKEN.

    Raises:
        UserError: it is empty, or there are two.
    """
    found = {
        f"--token_file {file}": None if file is None else read_text(Path(file), 4096),
        "ERNIE_M_TOKEN": os.environ.get("ERNIE_M_TOKEN"),
    }
    given = {name: token.strip() for name, token in found.items() if token is not None}
    if len(given) > 1 or "" in given.values():
        raise UserError(f"{' and '.join(given)}: give one token, which is not empty")
    return next(iter(given.values()), None)


def _listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UserError: it is taken, or the host is empty or has no such address.
    """
    if not host:  # it would be every address of this machine
        raise UserError("--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for every one")
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; choose another") from error
    # Opened again by its number, so that it knows its protocol: asyncio looks at it before it turns off the
    # wait for further bytes (TCP_NODELAY), which costs 40 ms a request.
    return socket.socket(fileno=listening.detach())
