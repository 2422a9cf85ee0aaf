"""What waits for a model: one queue of texts, from which threads beside the event loop take batches.

Clients take turns by the tokens that were computed for them. Within a client a request gets as much as any
other, so that a short one is answered while a long one goes on. Nothing is computed for who has left.
"""

import asyncio
import contextlib
import heapq
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ernie_m.utils.logging import logger

MOST_TEXTS = 2048  # how many texts a request may have, as at OpenAI
_LONGEST_RETRY = 60  # seconds, of Retry-After
_SPEED = 1000.0  # tokens a second of a thread, before one has computed


class BatchFailed(Exception):
    """The model failed; the message is that of its error."""


class Run(NamedTuple):
    """What computes a batch.

    Attributes:
        function: contents -> a result for each.
        in_many_threads: whether several threads may call it at the same time.
    """

    function: Callable[[list[Any]], Sequence[Any]]
    in_many_threads: bool = False


class QueueFull(Exception):
    """There is no room for the texts of a request now.

    Args:
        retry_after: seconds until there may be.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} seconds")
        self.retry_after = retry_after


class _Job:
    """The texts of a request.

    Args:
        tokens: of all its texts.
        count: how many texts it has.

    Attributes:
        answer: gets the results, in the order of the texts, when all are there. It is cancelled if the client
            has left.
    """

    def __init__(self, tokens: int, count: int):
        self.tokens = tokens
        self.loop = asyncio.get_running_loop()
        self.answer = self.loop.create_future()
        self._results: list[Any] = [None] * count
        self._left = count

    def put(self, row: int, result: Any) -> None:
        """Take the result of a text."""
        self._results[row] = result
        self._left -= 1
        if self._left == 0:
            self.answer.set_result(self._results)


@dataclass(order=True)
class _Item:
    """A text that waits. The least is the next: `place` is where it stands in the flow's own time."""

    place: int
    number: int
    tokens: int = field(compare=False)
    content: Any = field(compare=False)
    row: int = field(compare=False)  # in the results of its job
    job: _Job = field(compare=False)


class _Flow:
    """What one client waits for from one model.

    Args:
        served: tokens that were computed for it, beside others.
    """

    def __init__(self, run: Run, served: int):
        self.run = run
        self.served = served
        self.items: list[_Item] = []  # a heap
        self._now = 0  # the place of the last text that was taken
        self._count = 0

    def add(self, job: _Job, contents: Sequence[Any], tokens: Sequence[int]) -> None:
        """Take the texts of a job, the shortest first. Each text begins where the one before it ends."""
        place = self._now
        for row in sorted(range(len(contents)), key=lambda row: tokens[row]):
            place += tokens[row]
            self._count += 1
            heapq.heappush(self.items, _Item(place, self._count, tokens[row], contents[row], row, job))

    def take(self) -> _Item:
        """Give the next text away."""
        item = heapq.heappop(self.items)
        self._now = item.place
        self.served += item.tokens
        return item

    def drop(self, job: _Job) -> list[_Item]:
        """Give the texts of a job away, which nobody waits for."""
        dropped = [item for item in self.items if item.job is job]
        self.items = [item for item in self.items if item.job is not job]
        heapq.heapify(self.items)
        return dropped


class WorkQueue:
    """The queue, and the threads that work on it.

    Args:
        max_queue: texts that may wait.
        max_batch_tokens: tokens of a batch; a longer text is alone.
        begin: what each thread does first.
        on_batch: is told the texts and tokens of each batch, and what it failed of.
    """

    def __init__(
        self,
        max_queue: int,
        max_batch_tokens: int,
        threads: int = 1,
        begin: Callable[[], Any] = lambda: None,
        on_batch: Callable[[int, int, BaseException | None], Any] = lambda texts, tokens, fault: None,
    ):
        self.max_queue = max_queue
        self.max_batch_tokens = max_batch_tokens
        self.most_texts = min(MOST_TEXTS, max_queue)  # of a request
        self.waiting = 0  # texts
        self._tokens = 0  # of these texts
        self._speed = _SPEED  # lately
        self._threads = threads
        self._begin = begin
        self._on_batch = on_batch
        self._flows: dict[Hashable, _Flow] = {}
        self._busy: set[Hashable] = set()  # what is computed by one thread at a time, and is now
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    async def results(
        self, run: Run, contents: Sequence[Any], tokens: Sequence[int], client: Hashable
    ) -> list[Any]:
        """What `run` gives for each content. It may get them in several batches, with those of others.

        Args:
            tokens: of each content; an estimate does.
            client: who asks.

        Raises:
            QueueFull: there is no room.
            BatchFailed: it was in a batch that failed.
        """
        job = _Job(sum(tokens), len(contents))
        key = (client, run)
        with self._changed:
            if self.waiting + len(contents) > self.max_queue:
                raise QueueFull(self._seconds_to_wait())
            if key not in self._flows:
                served = min((flow.served for flow in self._flows.values()), default=0)
                self._flows[key] = _Flow(run, served)
            self._flows[key].add(job, contents, tokens)
            self.waiting += len(contents)
            self._tokens += job.tokens
            self._changed.notify_all()
        try:
            return await job.answer
        except (asyncio.CancelledError, BatchFailed):
            self._drop(key, job)
            raise

    def _seconds_to_wait(self) -> int:
        seconds = self._tokens / (self._speed * self._threads)
        return min(max(1, math.ceil(seconds)), _LONGEST_RETRY)

    def _drop(self, key: Hashable, job: _Job) -> None:
        """Take what is left of a job out of the queue."""
        with self._changed:
            if key in self._flows:
                self._forget(self._flows[key].drop(job))
                if not self._flows[key].items:
                    del self._flows[key]

    def _forget(self, items: Sequence[_Item]) -> None:
        self.waiting -= len(items)
        self._tokens -= sum(item.tokens for item in items)

    def _take(self) -> tuple[Run, list[_Item]] | None:
        """The next batch; None: all that waits is for what another thread is at.

        It begins with the next text of the client that has got least, and goes on with texts for the same
        `run`. Those of requests that fill a batch or more do not come into one with those of smaller ones,
        which would wait for them.
        """
        batch: list[_Item] = []
        tokens = 0
        run: Run | None = None
        while True:
            flows = [
                (flow.served, flow.items[0].job.tokens, flow.items[0].number, key)
                for key, flow in self._flows.items()
                if flow.run not in self._busy and run in (None, flow.run)
            ]
            if not flows:
                break
            # The client that has got least, of these the smallest request, and of these the oldest text.
            *_, key = min(flows, key=lambda entry: entry[:3])
            flow = self._flows[key]
            item = flow.items[0]
            if batch and (
                tokens + item.tokens > self.max_batch_tokens
                or self._is_long(item.job) != self._is_long(batch[0].job)
            ):
                break
            batch.append(flow.take())
            if not flow.items:
                del self._flows[key]
            tokens += item.tokens
            run = flow.run
        self._forget(batch)
        return (run, batch) if run is not None else None

    def _is_long(self, job: _Job) -> bool:
        return job.tokens > self.max_batch_tokens

    def _work(self) -> None:
        """The life of a thread."""
        self._begin()
        while True:
            with self._changed:
                while (taken := self._take()) is None:
                    self._changed.wait()
                run, batch = taken
                if not run.in_many_threads:
                    self._busy.add(run)
            start = time.perf_counter()
            results: Sequence[Any] = ()
            fault: BaseException | None = None
            try:
                results = run.function([item.content for item in batch])
            except BaseException as error:  # even SystemExit must not end the thread
                fault = error
                logger.exception("a batch of %d texts failed", len(batch))
            tokens = sum(item.tokens for item in batch)
            with self._changed:
                if not run.in_many_threads:
                    self._busy.discard(run)
                    self._changed.notify_all()
                self._speed += (tokens / (time.perf_counter() - start) - self._speed) / 8
            self._on_batch(len(batch), tokens, fault)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                batch[0].job.loop.call_soon_threadsafe(_deliver, batch, results, fault)


def _deliver(batch: list[_Item], results: Sequence[Any], fault: BaseException | None) -> None:
    """Give the results of a batch to those who wait; runs in the event loop."""
    for place, item in enumerate(batch):
        job = item.job
        if job.answer.done():  # its client has left, or another batch of it failed
            continue
        if fault is not None:
            job.answer.set_exception(BatchFailed(repr(fault)))
            continue
        job.put(item.row, results[place])
