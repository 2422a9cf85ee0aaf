"""Work that should end soon and does not: a step in which another process stands still, a disk that hangs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from utils.logging import logger


class StallWatch:
    """Says in the log when a piece of work has gone on for `seconds`, twice that, four times, ...

    It ends nothing. Every process has one and says it in its own log (log/job.log.<rank>): where several wait
    for one, that one's log is silent.

    Args:
        seconds: what is not yet too long.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._doing: tuple[str, float] | None = None
        self._said_after = 0.0  # seconds, of the work that is going on; 0: nothing was said
        self._end = threading.Event()

    def __enter__(self) -> "StallWatch":
        threading.Thread(target=self._look, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Around work of which `what` is the name."""
        self._said_after, self._doing = 0.0, (what, time.monotonic())
        try:
            yield
        finally:
            doing, self._doing = self._doing, None
            if self._said_after:
                logger.info("%s ended after %.0f s", what, time.monotonic() - doing[1])

    def _look(self) -> None:
        while not self._end.wait(min(self.seconds / 4, 5.0)):
            doing = self._doing
            if doing is None:
                continue
            lasted = time.monotonic() - doing[1]
            if lasted >= max(self.seconds, 2 * self._said_after) and doing is self._doing:
                self._said_after = lasted
                logger.warning(
                    "%s has gone on for %.0f s: it is slow, or a process of the run stands still (one whose "
                    "log does not say this), or a disk or the network does",
                    doing[0],
                    lasted,
                )
