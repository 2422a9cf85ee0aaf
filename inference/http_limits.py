"""What protects the server of `predict.py --serve`: limits of a request, headers for browsers, its address.

A request has a size limit, and must arrive whole within a few seconds. The headers let a browser run nothing
but the page's own script, and show the page in no frame of another site.
"""

import base64
import hashlib
import ipaddress
import re
import socket
from typing import Any

from utils.errors import UserError

LONGEST_BODY = 64 << 10  # bytes
MOST_CONNECTIONS = 512  # fewer than the files that a process may open
LONGEST_WAIT = 5  # seconds until a request must have arrived whole


def security_headers(html: str) -> list[tuple[str, str]]:
    """The headers of every answer: a browser runs and shows nothing but the page's own script and style."""

    def digests(tag: str) -> str:
        found = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
        return " ".join(f"'sha256-{one}'" for one in hashes)

    policy = (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
    ]  # fmt: skip


class BoundedBodies:
    """ASGI middleware: answers 413 to a body above LONGEST_BODY bytes, or of a length that is not given."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        answer, headers = self.app, dict(scope.get("headers", ()))
        # h11 reads no more of a body than its header says.
        if b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > LONGEST_BODY:
            detail = f"the request is longer than {LONGEST_BODY} bytes, or does not give its length"
            answer = JSONResponse({"detail": detail}, 413, {"Connection": "close"})
        await answer(scope, receive, send)


def timed_protocol() -> type:
    """uvicorn's HTTP/1.1 protocol, which gives a request LONGEST_WAIT seconds to arrive whole.

    uvicorn itself waits for ever, so that silent or half-sent connections would use up MOST_CONNECTIONS.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.await_request()

        def on_response_complete(self) -> None:
            self.await_request()
            super().on_response_complete()

        def shutdown(self) -> None:
            if self.cycle is not None and self.cycle.more_body:
                self.transport.abort()  # nobody answers half a request
            else:
                super().shutdown()

        def await_request(self) -> None:
            """Start the time of the next request."""
            self.loop.call_later(LONGEST_WAIT, self.close_unless_past, self.cycle)

        def close_unless_past(self, last: Any) -> None:
            """Close the connection if no whole request has arrived since `last`, the previous request."""
            if self.cycle is last or self.cycle.more_body:
                self.transport.abort()

    return TimedProtocol


def is_this_machine(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """UserError: the port is not free."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}); choose another"
        ) from error
