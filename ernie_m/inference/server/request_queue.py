"""What waits for the models: one queue of texts, from which threads beside the event loop take batches.

Whatever reads a text, be it to tokenize it, happens in these threads. A short request is answered while one
of many texts goes on; no text waits for ever; nothing is computed for who has left.
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

MOST_CHARACTERS = 8 << 20  # of all texts that wait
OLDEST = 4  # one batch of so many begins with the text that waits longest
LEFT = 499  # nginx's number for a client that has left; in the log and in the metrics only


# Contents of texts -> a result for each, or the UserError that is the answer to its request.
Run = Callable[[list[Any]], Sequence[Any]]


class Job:
    """A request.

    Args:
        sizes: the characters of its texts.

    Attributes:
        left: how many texts have no result yet.
        answer: gets the results, in the order of the texts, when all are there.
    """

    def __init__(self, run: Run, sizes: Sequence[int]):
        self.run = run
        self.size = sum(sizes)
        self.left = len(sizes)
        self.results: list[Any] = [None] * len(sizes)
        self.answer = asyncio.get_running_loop().create_future()


@dataclass(eq=False)  # each is itself
class Text:
    """A text that waits; the one with the lowest place is next."""

    place: int  # where it would end, in characters that are taken, if its request were alone
    size: int  # in characters
    content: Any
    row: int  # in the results of its job
    job: Job


class WorkQueue:
    """The queue, and the threads that work on it.

    Args:
        most_texts: how many may wait.
        batch_size: characters of a batch; a longer text is alone.
        timeout: seconds within which a request is answered.
        begin: what each thread does first.
    """

    def __init__(
        self,
        most_texts: int,
        batch_size: int,
        timeout: float,
        threads: int = 1,
        begin: Callable[[], Any] = lambda: None,
    ):
        self.most_texts = most_texts
        self.batch_size = batch_size
        self.timeout = timeout
        self.waiting: list[Text] = []  # in the order in which they came
        self.characters = 0  # of these
        self._now = 0  # no text that waits has a lower place
        self._turns = itertools.count(1)
        self._changed = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._work, args=[begin], daemon=True).start()

    async def results(
        self, request: Request, run: Run, contents: Sequence[Any], sizes: Sequence[int]
    ) -> list[Any]:
        """The result of each content. `run` may get them in several batches, with those of others.

        Args:
            request: who asks, and may leave.
            sizes: the characters that are read for each content.

        Raises:
            HTTPException: there is no room, the client has left, a batch failed, or it takes too long.
            UserError: a content is wrong, or there is too much to read.
        """
        job = Job(run, sizes)
        request.scope["work"] = f", texts: {len(sizes)}, characters: {job.size}"
        if job.size > MOST_CHARACTERS:
            raise UserError(
                f"{job.size} characters are to be read, each as often as it is asked for; send at most "
                f"{MOST_CHARACTERS} in a request"
            )
        with self._changed:
            texts = len(self.waiting) + len(sizes)
            is_full = texts > self.most_texts or self.characters + job.size > MOST_CHARACTERS
            if self.waiting and is_full:
                raise HTTPException(503, "the queue is full; try again later", {"Retry-After": "10"})
            self.characters += job.size
            index = self._now
            for row in sorted(range(len(sizes)), key=sizes.__getitem__):  # its shortest text first
                index += sizes[row]
                self.waiting.append(Text(index, sizes[row], contents[row], row, job))
            self._changed.notify_all()
        gone = asyncio.ensure_future(request.receive())  # nothing else comes of a request that is whole
        try:
            await asyncio.wait([job.answer, gone], timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if job.answer.done():
                return job.answer.result()
            if gone.done():
                raise HTTPException(LEFT, "the client has left")
            raise HTTPException(
                503, f"no answer within {self.timeout:g} seconds (--timeout)", {"Retry-After": "30"}
            )
        finally:
            gone.cancel()
            job.answer.cancel()
            if job.left:
                with self._changed:
                    self._take_out([text for text in self.waiting if text.job is job])

    def _take_out(self, texts: list[Text]) -> None:
        leaving = set(texts)
        self.waiting = [text for text in self.waiting if text not in leaving]
        self.characters -= sum(text.size for text in texts)

    def _take(self) -> list[Text]:
        """The next batch, all for one run: from the lowest place on, or now and then first the oldest text.

        Those of requests that fill a batch or more do not come into one with those of smaller ones, which
        would wait for them.
        """
        by_place = sorted(self.waiting, key=lambda text: text.place)
        self._now = by_place[0].place
        # However many shorter ones come, the text that waits longest has its turn.
        first = self.waiting[0] if next(self._turns) % OLDEST == 0 else by_place[0]
        batch = [first]
        room = self.batch_size - first.size
        for text in by_place:
            if text is first or text.job.run != first.job.run:
                continue
            if text.size > room or self._is_long(text) != self._is_long(first):
                break
            room -= text.size
            batch.append(text)
        self._take_out(batch)
        return batch

    def _is_long(self, text: Text) -> bool:
        return text.job.size > self.batch_size

    def _work(self, begin: Callable[[], Any]) -> None:
        """The life of a thread."""
        begin()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting)
                batch = self._take()
            try:
                results = batch[0].job.run([text.content for text in batch])
            except BaseException:  # even SystemExit must not end the thread
                logger.exception("a batch failed, texts: %d", len(batch))
                results = [HTTPException(500, "the model failed; the server's log says why") for _ in batch]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                batch[0].job.answer.get_loop().call_soon_threadsafe(_deliver, batch, results)


def _deliver(batch: list[Text], results: Sequence[Any]) -> None:
    """Give the results of a batch to those who wait; runs in the event loop."""
    for text, result in zip(batch, results, strict=True):
        job = text.job
        if job.answer.done():  # its client has left, or another text of it is wrong
            continue
        job.results[text.row] = result
        job.left -= 1
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        elif not job.left:
            job.answer.set_result(job.results)
