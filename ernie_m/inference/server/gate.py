"""What each request passes before the application sees it, and the form of an error.

The gate reads the body, within bounds of time and length, and asks for the token. It ends the work for a
client that has left, or that has waited too long, and notes each request in the log and in the metrics.
"""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_m.inference.server.metrics import Metrics
from ernie_m.utils.logging import logger

HEALTH = "/health"
LONGEST_WAIT = 5  # seconds until a request must have arrived whole
LONGEST_BODY = 2 << 20  # bytes
MOST_DISCARDED = 16 << 20  # bytes; a body that is too long, but below this, is read and thrown away
_LEFT = 499  # nginx's number for a client that has left; in the log and in the metrics only


class Refused(Exception):
    """A request that is not answered.

    Args:
        param: the key of the request that is wrong.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.headers = headers

    def response(self) -> JSONResponse:
        """The answer, in the form of OpenAI."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": None}
        return JSONResponse({"error": error}, self.status, self.headers)


class _HasLeft(Exception):
    """The client has closed the connection before its request had arrived."""


class Gate:
    """An ASGI application around another one.

    Args:
        token: what every request must bring; None: nothing.
        timeout: seconds within which a request is answered.
        paths: those that are named in the metrics; others are "other".

    Attributes:
        is_stopping: new requests are refused.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, timeout: float, metrics: Metrics, paths: Container[str]
    ):
        self.app = app
        self.token = token
        self.timeout = timeout
        self.metrics = metrics
        self.paths = paths
        self.is_stopping = False
        self._when_empty: Callable[[], Any] = lambda: None
        self._in_flight = 0

    def stop(self, when_empty: Callable[[], Any]) -> None:
        """Answer what is here, refuse what comes, and call `when_empty` after the last answer."""
        self.is_stopping = True
        self._when_empty = when_empty
        if not self._in_flight:
            when_empty()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the beginning and the end of the server
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = _LEFT

        async def noted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        client, scope["client"] = scope["client"], None
        with suppress(ValueError, TypeError):  # X-Forwarded-For may be any text; a Unix socket has no address
            scope["client"] = (str(ip_address(client[0])), client[1])
        self._in_flight += 1
        scope["work"] = {}  # the endpoint says how much it was
        try:
            await self._answer(scope, receive, noted_send)
        except Refused as refusal:
            await refusal.response()(scope, receive, noted_send)
        except _HasLeft:
            pass
        finally:
            self._in_flight -= 1
            self._note(scope, status, time.perf_counter() - start)
            if self.is_stopping and not self._in_flight:
                self._when_empty()

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        if path != HEALTH:  # it is asked all the time
            work = "".join(f", {count} {name}" for name, count in scope["work"].items())
            client = scope["client"][0] if scope["client"] else "-"
            logger.info("%s %s %s %d, %.3f s%s", client, scope["method"], path[:100], status, seconds, work)
        self.metrics.note_request(path if path in self.paths else "other", status, seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer while the client is there.

        Raises:
            Refused: the request is not let in, or is not answered in time.
        """
        body = await self._let_in(scope, receive)
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        has_begun = False

        async def receive_again() -> Message:
            return messages.pop() if messages else await asyncio.Future()  # nothing else comes

        async def send_begun(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def wait_until_left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answer = asyncio.ensure_future(self.app(scope, receive_again, send_begun))
        left = asyncio.ensure_future(wait_until_left())
        tasks = (answer, left)
        try:
            await asyncio.wait(tasks, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()  # raises its error
            elif not left.done() and not has_begun:
                message = f"there was no answer within {self.timeout:g} seconds (--timeout); try again later"
                raise Refused(503, message, headers={"Retry-After": "30"})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _let_in(self, scope: Scope, receive: Receive) -> bytes:
        """The body of a request.

        Raises:
            Refused: the request is not let in.
        """
        headers = Headers(scope=scope)
        close = {"Connection": "close"}
        if "transfer-encoding" in headers and "content-length" in headers:  # which of them counts?
            raise Refused(400, "the request has both Transfer-Encoding and Content-Length", headers=close)
        if self.is_stopping and scope["path"] != HEALTH:
            raise Refused(503, "the server is stopping", headers={"Retry-After": "5", **close})
        size = int(headers.get("content-length", 0))
        is_open = self.token is None or scope["path"] == HEALTH or size > LONGEST_BODY
        if not is_open and not brings(headers.get("authorization", ""), self.token):
            ask_for_it = {"WWW-Authenticate": 'Basic realm="ERNIE-M"'}  # a browser asks for name and password
            raise Refused(401, "the token is missing or wrong", headers=ask_for_it)
        body = bytearray()
        arrived = 0
        more = size < MOST_DISCARDED
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                while more and arrived < MOST_DISCARDED:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _HasLeft
                    arrived += len(message.get("body", b""))
                    if arrived <= LONGEST_BODY:  # a browser reads an answer only when it has sent everything
                        body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError as error:
            message = f"the request did not arrive within {LONGEST_WAIT} seconds"
            raise Refused(408, message, headers=close) from error
        if max(arrived, size) > LONGEST_BODY:
            raise Refused(413, f"the request is longer than {LONGEST_BODY} bytes", headers=close)
        return bytes(body)


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
