"""Closes connections to the server whose request does not arrive in time; uvicorn itself waits for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_WAIT = 5  # seconds until a request must have arrived whole


class TimedConnection(H11Protocol):
    """A connection that is closed if no whole request arrives within `LONGEST_WAIT` seconds.

    Only the time counts in which the server could read: a forward pass, or a body that the application has
    not asked for yet, keeps a request waiting through no fault of its sender.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._count_down(LONGEST_WAIT)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(error)

    def handle_events(self) -> None:
        """Read what has arrived, and stop waiting if it is the end of a request."""
        super().handle_events()
        if self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete):
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request. It may be here already."""
        self._stop_timer()  # it still runs if a request was refused before it had arrived
        self._count_down(LONGEST_WAIT)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. One connection cannot give two answers at once."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:  # they follow a request that is not answered yet
            self.transport.abort()

    def _count_down(self, seconds: int) -> None:
        """Close the connection in so many seconds.

        They are counted one at a time. The event loop stands still in a forward pass, so that a pass counts
        as at most one second, however long it takes.
        """
        if seconds == 0:
            self.transport.abort()
            return
        # While reading is paused, the sender cannot go on, and no second counts.
        left = seconds if self.flow.read_paused else seconds - 1
        self._timer = self.loop.call_later(1, self._count_down, left)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
