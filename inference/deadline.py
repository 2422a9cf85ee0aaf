"""Closes connections to the server whose request does not arrive in time; uvicorn itself waits for ever."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_WAIT = 5  # seconds until a request must have arrived whole
_CONNECTION = "connection"  # the key of the connection in a request's state
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TimedConnection(H11Protocol):
    """A connection that is closed if no whole request arrives within `LONGEST_WAIT` seconds.

    `watch_requests` says when a request has arrived.
    """

    def __init__(self, app_state: dict[str, Any], **options: Any):
        # uvicorn gives this state to the application in `scope["state"]`, where `watch_requests` reads it.
        super().__init__(app_state={**app_state, _CONNECTION: self}, **options)
        self._timer: asyncio.TimerHandle | None = None

    def start_timer(self) -> None:
        """Close the connection in `LONGEST_WAIT` seconds, unless a whole request arrives before."""
        self.stop_timer()  # a timer for an earlier request must not go on
        self._timer = asyncio.get_running_loop().call_later(LONGEST_WAIT, self.transport.abort)

    def stop_timer(self) -> None:
        """Stop waiting: the whole request has arrived, or the connection was closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.start_timer()

    def connection_lost(self, error: Exception | None) -> None:
        self.stop_timer()
        super().connection_lost(error)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. One connection cannot give two answers at once."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:  # they follow a request that is not answered yet
            self.transport.abort()


def watch_requests(app: App) -> App:
    """The same application, which tells each `TimedConnection` when its request has arrived."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the start and the end of the server
            await app(scope, receive, send)
            return
        connection: TimedConnection = scope["state"].pop(_CONNECTION)

        async def watched_receive() -> Message:
            message = await receive()
            if not message.get("more_body"):  # this is the last part of the body
                connection.stop_timer()
            return message

        if not _has_body(scope):  # then the application may never call `receive`
            connection.stop_timer()
        await app(scope, watched_receive, send)
        connection.start_timer()  # for the next request on this connection

    return watched


def _has_body(scope: Scope) -> bool:
    """Whether the headers announce a body."""
    headers = dict(scope["headers"])  # the names are in lower case
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
