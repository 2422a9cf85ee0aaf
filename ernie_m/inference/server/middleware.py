"""Middleware for all requests: size limits, authorization, log lines and metrics."""

import asyncio
import base64
import binascii
import hmac
import math
import re
import time
from collections.abc import Container, Mapping

from prometheus_client import CollectorRegistry, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_m.inference.server.request_queue import LEFT
from ernie_m.utils.errors import escape_control_characters
from ernie_m.utils.logging import logger

HEALTH = "/health"
LONGEST_WAIT = 5  # seconds to receive the body of a request
LONGEST_BODY = 2 << 20  # bytes
# Bytes. Bodies above SHORT_BODY wait while the bodies in memory exceed MOST_BYTES together.
SHORT_BODY, MOST_BYTES = 64 << 10, 8 << 20
LONGEST_MESSAGE = 600  # characters of an error message, which may quote the request


def make_error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Build an OpenAI-compatible error response. A message about a key begins with the quoted key."""
    message = escape_control_characters(message)[:LONGEST_MESSAGE]
    key = re.match(r"'(\w+)", message)
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": key and key[1], "code": None}
    return JSONResponse({"error": error}, status, headers)


class RequestMiddleware:
    """ASGI middleware that limits, authorizes, logs and measures requests.

    Args:
        token: the required bearer token; None: no authorization.
        metrics: the registry for the metrics of requests.
        paths: the paths in the metrics; others are counted as "other".
        hosts: the allowed names in the Host header; "*": any.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        metrics: CollectorRegistry,
        paths: Container[str],
        hosts: Container[str],
    ):
        self.app = app
        self.token = token
        self.paths = paths
        self.hosts = hosts
        self.arrived = 0  # bytes of incomplete bodies
        self.turn = asyncio.Lock()  # held by the one body that may exceed MOST_BYTES
        self.seconds = Histogram(
            "ernie_m_request_seconds",
            "Duration of requests; status 499: the client disconnected.",
            ["path", "status"],
            registry=metrics,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request: check it, read its body, call the application, then log and measure it."""
        if scope["type"] != "http":  # startup and shutdown
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        whole: list[Message] = []  # the complete body, until the application receives it
        status = LEFT  # if no response is sent

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        async def noted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path = scope["path"]
        try:
            try:
                self.check_request(path, Headers(scope=scope))
                whole.append(await self.read(receive))
                prediction = self.app
            except HTTPException as error:
                prediction = make_error_response(error.status_code, error.detail, error.headers)
            await prediction(scope, receive_whole, noted_send)
        finally:
            seconds = time.perf_counter() - start
            if path != HEALTH:  # health checks are frequent
                line = escape_control_characters(
                    f"{(scope['client'] or '-')[0]} {scope['method']} {path}"[:150]
                )
                # Set by the queue.
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                logger.info("%s %s %d, %.3f s%s", now, line, status, seconds, scope.get("work", ""))
            self.seconds.labels(path if path in self.paths else "other", status).observe(seconds)

    async def read(self, receive: Receive) -> Message:
        """Return the complete body of a request as one message, or the message that the client disconnected.

        Raises:
            HTTPException: the body is too long, or does not arrive in time.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                message = await self.read_on(receive, body, SHORT_BODY)
            if message.get("more_body"):
                # The wait for its turn does not count: the clients before it may have stopped sending.
                async with self.turn, asyncio.timeout(LONGEST_WAIT):
                    message = await self.read_on(receive, body, math.inf)
        except TimeoutError as error:
            raise HTTPException(
                408, f"the request was not complete within {LONGEST_WAIT} seconds", {"Connection": "close"}
            ) from error
        finally:
            self.arrived -= len(body)
        if len(body) > LONGEST_BODY:
            raise HTTPException(413, f"the request is too long (maximum: {LONGEST_BODY} bytes)")
        return message | {"body": body}

    async def read_on(self, receive: Receive, body: bytearray, free: float) -> Message:
        """Receive messages and append them to a body, and return the last message.

        Args:
            free: the number of bytes to read even if the bodies of all requests exceed MOST_BYTES.
        """
        message: Message = {"more_body": True}
        while message.get("more_body") and (len(body) < free or self.arrived < MOST_BYTES):
            message = await receive()
            # Read to the end, however long, because otherwise the client would not read the response.
            if len(body) <= LONGEST_BODY:
                body += message.get("body", b"")
                self.arrived += len(message.get("body", b""))
        return message

    def check_request(self, path: str, headers: Headers) -> None:
        """Check the host, the length headers and the token of a request.

        Raises:
            HTTPException: the host is not allowed, the token is missing or invalid, or the length headers
                conflict.
        """
        host = re.sub(r":[0-9]*$", "", headers.get("host", ""))  # without the port
        if "*" not in self.hosts and host not in self.hosts:
            raise HTTPException(
                400, f"unknown host '{host}' in the header Host. Start the server with --allowed_hosts {host}"
            )
        if "transfer-encoding" in headers and "content-length" in headers:  # request smuggling
            raise HTTPException(
                400, "the request has both Transfer-Encoding and Content-Length", {"Connection": "close"}
            )
        if self.token and path != HEALTH and not is_authorized(headers.get("authorization", ""), self.token):
            # Browsers prompt for name and password.
            raise HTTPException(
                401, "missing or invalid token", {"WWW-Authenticate": 'Basic realm="ERNIE-M"'}
            )


def is_authorized(authorization: str, token: str) -> bool:
    """Return whether an Authorization header has the token, as Bearer or as the password of Basic.

    Browsers send Basic.
    """
    scheme, _, credentials = authorization.partition(" ")
    sent_token = credentials.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            sent_token = base64.b64decode(sent_token).partition(b":")[2]
        except binascii.Error:
            return False
    return hmac.compare_digest(sent_token, token.encode())
