"""A polite end: SIGTERM and Ctrl-C are noted, and the run ends at the next place it can be resumed from."""

import atexit
import signal
from types import FrameType

from utils import distributed

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Within a `with` statement SIGTERM and Ctrl-C only set `received`.

    SIGTERM may come any number of times: launchers send it several times within a second. A second Ctrl-C is
    an impatient user's, and interrupts at once.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received == signal.SIGTERM:
            # The run is about to end well; one more of them must not make it end badly. A function and not
            # SIG_IGN, which child processes would inherit; but Python takes functions back when it ends.
            signal.signal(signal.SIGTERM, lambda *_: None)
            atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return self.received is not None

    def anywhere(self) -> bool:
        """Whether any process of the run was asked to stop; call it on all of them at the same place."""
        return distributed.all_sum([float(bool(self))])[0] > 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
