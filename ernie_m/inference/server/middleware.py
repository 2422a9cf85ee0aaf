"""What each request passes before the application sees it: bounds, the token, the log and the metrics."""

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
from ernie_m.utils.errors import printable
from ernie_m.utils.logging import logger

HEALTH = "/health"
LONGEST_WAIT = 5  # seconds until the body of a request must have arrived
LONGEST_BODY = 2 << 20  # bytes
# Bytes. Longer bodies than the first wait outside memory while those that arrive have the second together.
SHORT_BODY, MOST_BYTES = 64 << 10, 8 << 20
LONGEST_MESSAGE = 600  # characters of an error, which may quote the request


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error in the form of OpenAI. A message about a key begins with it, in quotes."""
    message = printable(message)[:LONGEST_MESSAGE]
    key = re.match(r"'(\w+)", message)
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": key and key[1], "code": None}
    return JSONResponse({"error": error}, status, headers)


class RequestMiddleware:
    """An ASGI application around another one.

    Args:
        token: what every request must bring; None: nothing.
        metrics: where the requests are counted.
        paths: those that the metrics name; others are "other".
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: CollectorRegistry, paths: Container[str]):
        self.app = app
        self.token = token
        self.paths = paths
        self.arrived = 0  # bytes of the bodies that are still read
        self.turn = asyncio.Lock()  # of the one body that is read whatever the others have
        self.seconds = Histogram(
            "ernie_m_request_seconds",
            "Seconds of a request; status 499: its client left.",
            ["path", "status"],
            registry=metrics,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the beginning and the end of the server
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        whole: list[Message] = []  # the body in one message, until the application takes it
        status = LEFT  # if no answer is sent

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        async def noted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path = scope["path"]
        try:
            try:
                self.check(path, Headers(scope=scope))
                whole.append(await self.read(receive))
                answer = self.app
            except HTTPException as error:
                answer = error_response(error.status_code, error.detail, error.headers)
            await answer(scope, receive_whole, noted_send)
        finally:
            seconds = time.perf_counter() - start
            if path != HEALTH:  # it is asked all the time
                line = printable(f"{(scope['client'] or '-')[0]} {scope['method']} {path}"[:150])
                # The queue says how much work it was.
                logger.info("%s %d, %.3f s%s", line, status, seconds, scope.get("work", ""))
            self.seconds.labels(path if path in self.paths else "other", status).observe(seconds)

    async def read(self, receive: Receive) -> Message:
        """The body of a request in one message, or that its client has left.

        Raises:
            HTTPException: it is too long, or does not arrive in time.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                message = await self.read_on(receive, body, SHORT_BODY)
            if message.get("more_body"):
                async with asyncio.timeout(LONGEST_WAIT) as limit, self.turn:
                    limit.reschedule(asyncio.get_running_loop().time() + LONGEST_WAIT)
                    message = await self.read_on(receive, body, math.inf)
        except TimeoutError as error:
            raise HTTPException(
                408, f"the request did not arrive within {LONGEST_WAIT} seconds", {"Connection": "close"}
            ) from error
        finally:
            self.arrived -= len(body)
        if len(body) > LONGEST_BODY:
            raise HTTPException(413, f"the request is longer than {LONGEST_BODY} bytes")
        return message | {"body": body}

    async def read_on(self, receive: Receive, body: bytearray, free: float) -> Message:
        """Add to a body what arrives, and return the last message.

        Args:
            free: the bytes that are read whatever other bodies have; beyond them there must be room.
        """
        message: Message = {"more_body": True}
        while message.get("more_body") and (len(body) < free or self.arrived < MOST_BYTES):
            message = await receive()
            # It is read to its end, however long, or its client would not read the answer.
            if len(body) <= LONGEST_BODY:
                body += message.get("body", b"")
                self.arrived += len(message.get("body", b""))
        return message

    def check(self, path: str, headers: Headers) -> None:
        """Look at the head of a request.

        Raises:
            HTTPException: it is not let in.
        """
        if "transfer-encoding" in headers and "content-length" in headers:  # which of them counts?
            raise HTTPException(
                400, "the request has both Transfer-Encoding and Content-Length", {"Connection": "close"}
            )
        if self.token and path != HEALTH and not brings(headers.get("authorization", ""), self.token):
            # A browser asks for name and password.
            raise HTTPException(
                401, "the token is missing or wrong", {"WWW-Authenticate": 'Basic realm="ERNIE-M"'}
            )


def brings(authorization: str, token: str) -> bool:
    """Whether a header brings a token: as a Bearer, or as the password of any user, which browsers send."""
    scheme, _, credentials = authorization.partition(" ")
    sent_token = credentials.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            sent_token = base64.b64decode(sent_token).partition(b":")[2]
        except binascii.Error:
            return False
    return hmac.compare_digest(sent_token, token.encode())
