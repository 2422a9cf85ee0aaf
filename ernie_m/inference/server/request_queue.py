"""The request queue of the server, from which worker threads take batches of texts.

Tokenization and models run in the worker threads. Short requests overtake long ones, no text waits forever,
and nothing is computed for disconnected clients.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

MOST_CHARACTERS = 8 << 20  # of all queued texts
OLDEST = 4  # every fourth batch begins with the oldest text
LEFT = 499  # nginx's status for a disconnected client; in the log and metrics only


# Contents of texts -> a result for each, or the UserError for its request.
Run = Callable[[list[Any]], Sequence[Any]]


class Job:
    """A request in the queue.

    Args:
        run: computes the results of texts.
        sizes: the number of characters of each text.

    Attributes:
        left: the number of texts without a result.
        answer: the future for all results, in the order of the texts.
    """

    def __init__(self, run: Run, sizes: Sequence[int]):
        self.run = run
        self.size = sum(sizes)
        self.left = len(sizes)
        self.results: list[Any] = [None] * len(sizes)
        self.answer = asyncio.get_running_loop().create_future()


@dataclass(eq=False)  # compared by identity
class QueuedText:
    """A text in the queue; texts with lower priority values are processed first."""

    priority: int  # virtual finish time in characters, as in fair queueing
    size: int  # in characters
    content: Any
    row: int  # index in the results of its job
    job: Job


class WorkQueue:
    """The queue of texts, with its worker threads.

    Args:
        max_texts: maximum number of queued texts.
        batch_size: maximum number of characters in a batch; a longer text is a batch by itself.
        timeout: request timeout in seconds.
        threads: the number of worker threads.
        initialize_thread: called first in each worker thread.
    """

    def __init__(
        self,
        max_texts: int,
        batch_size: int,
        timeout: float,
        threads: int = 1,
        initialize_thread: Callable[[], Any] = lambda: None,
    ):
        self.max_texts = max_texts
        self.batch_size = batch_size
        self.timeout = timeout
        self.waiting: list[QueuedText] = []  # in order of arrival
        self.characters = 0  # of the waiting texts
        self._now = 0  # virtual time: no waiting text has a lower priority value
        self._turns = itertools.count(1)
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._run_worker, args=[initialize_thread], daemon=True).start()

    async def results(
        self, request: Request, run: Run, contents: Sequence[Any], sizes: Sequence[int]
    ) -> list[Any]:
        """Queue the texts of a request, and return the result of each.

        Args:
            request: the request, whose client may disconnect.
            run: computes the results of texts, in several batches that may include texts of other requests.
            contents: the content of each text, for `run`.
            sizes: the number of characters to process for each text.

        Raises:
            HTTPException: the queue is full, the client disconnected, a batch failed, or the timeout expired.
            UserError: an item of `contents` is invalid, or there are too many characters.
        """
        job = Job(run, sizes)
        request.scope["work"] = f", texts: {len(sizes)}, characters: {job.size}"
        if job.size > MOST_CHARACTERS:
            raise UserError(
                f"the request has {job.size} characters, counted once per label or document (maximum: "
                f"{MOST_CHARACTERS}). Send several requests"
            )
        with self._changed:
            texts = len(self.waiting) + len(sizes)
            is_full = texts > self.max_texts or self.characters + job.size > MOST_CHARACTERS
            if self.waiting and is_full:
                raise HTTPException(503, "the queue is full. Try again later", {"Retry-After": "10"})
            self.characters += job.size
            index = self._now
            for row in sorted(range(len(sizes)), key=sizes.__getitem__):  # shortest text first
                index += sizes[row]
                self.waiting.append(QueuedText(index, sizes[row], contents[row], row, job))
            self._changed.notify_all()
        gone = asyncio.ensure_future(request.receive())  # after the body, only a disconnect is received
        try:
            await asyncio.wait([job.answer, gone], timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if job.answer.done():
                return job.answer.result()
            if gone.done():
                raise HTTPException(LEFT, "the client disconnected")
            raise HTTPException(
                503, f"no response within {self.timeout:g} seconds (--timeout)", {"Retry-After": "30"}
            )
        finally:
            gone.cancel()
            job.answer.cancel()
            if job.left:
                with self._changed:
                    self._remove([text for text in self.waiting if text.job is job])

    def _remove(self, texts: list[QueuedText]) -> None:
        """Remove texts from the queue."""
        leaving = set(texts)
        self.waiting = [text for text in self.waiting if text not in leaving]
        self.characters -= sum(text.size for text in texts)

    def _take_batch(self) -> list[QueuedText]:
        """Remove and return the next batch: texts with the same `run`, by priority.

        Every `OLDEST`-th batch begins with the oldest text. Texts of requests that exceed a batch are not in
        a batch with texts of smaller requests, which would wait longer.
        """
        by_priority = sorted(self.waiting, key=lambda text: text.priority)
        self._now = by_priority[0].priority
        # The oldest text is taken eventually, even if shorter ones keep arriving.
        first = self.waiting[0] if next(self._turns) % OLDEST == 0 else by_priority[0]
        batch = [first]
        free = self.batch_size - first.size
        for text in by_priority:
            if text is first or text.job.run != first.job.run:
                continue
            if text.size > free or self._is_long(text) != self._is_long(first):
                break
            free -= text.size
            batch.append(text)
        self._remove(batch)
        return batch

    def _is_long(self, text: QueuedText) -> bool:
        """Return whether the request of a text exceeds a batch."""
        return text.job.size > self.batch_size

    def _run_worker(self, initialize_thread: Callable[[], Any]) -> None:
        """Process batches forever; runs in each worker thread."""
        initialize_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting)
                batch = self._take_batch()
            try:
                results = batch[0].job.run([text.content for text in batch])
            except BaseException:  # not even SystemExit may end the thread
                logger.exception("a batch failed, texts: %d", len(batch))
                results = [HTTPException(500, "the model failed; see the log of the server") for _ in batch]
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                batch[0].job.answer.get_loop().call_soon_threadsafe(_deliver, batch, results)


def _deliver(batch: list[QueuedText], results: Sequence[Any]) -> None:
    """Deliver the results of a batch to their requests; runs in the event loop."""
    for text, result in zip(batch, results, strict=True):
        job = text.job
        if job.answer.done():  # the client disconnected, or another text is invalid
            continue
        job.results[text.row] = result
        job.left -= 1
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        elif not job.left:
            job.answer.set_result(job.results)
