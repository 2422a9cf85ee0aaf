"""The queue of the server: short before long, the oldest in its turn, and its bounds."""

import asyncio
import functools
import threading

import pytest
from starlette.exceptions import HTTPException

from ernie_m.inference.server import request_queue
from ernie_m.inference.server.request_queue import WorkQueue
from ernie_m.utils.errors import UserError


def in_loop(test):
    """A test that is a coroutine; it has a minute."""

    @functools.wraps(test)
    def call(**options):
        asyncio.run(asyncio.wait_for(test(**options), 60))

    return call


class Model:
    """Computes a text by naming it. It waits before each batch until it is told to continue."""

    def __init__(self, held: bool = True):
        self.batches = []
        self.threads = set()
        self.going = threading.Semaphore(0 if held else 1000)
        self.failure = None

    def run(self, contents):
        self.going.acquire()
        self.batches.append(contents)
        self.threads.add(threading.get_ident())
        if self.failure:
            raise self.failure
        return [UserError(content) if "wrong" in content else f"{content}!" for content in contents]

    async def finish(self, *requests, with_errors=False):
        """Go on, and wait for requests; with errors among their results, or the first one is raised."""
        self.going.release(1000)
        return await asyncio.gather(*requests, return_exceptions=with_errors)


class Client:
    """A request, whose client stays."""

    def __init__(self):
        self.scope = {}

    async def receive(self):
        await asyncio.Event().wait()


def asking(queue, model, name, sizes, client=None):
    """A request with texts of these lengths, named x0, x1, ..."""
    contents = [f"{name}{number}" for number in range(len(sizes))]
    return asyncio.ensure_future(queue.results(client or Client(), model.run, contents, sizes))


async def begin(*request):
    """A request, as of `asking`, that is in the queue."""
    begun = asking(*request)
    await asyncio.sleep(0)
    return begun


async def held_up(**options):
    """A model, its queue, and a request that a thread is at until the model goes on."""
    model = Model()
    queue = WorkQueue(**{"max_texts": 100, "batch_size": 10, "timeout": 60, **options})
    first = await begin(queue, model, "first", [1])
    while queue.waiting:
        await asyncio.sleep(0.001)
    return model, queue, first


@in_loop
async def test_results_keep_request_order():
    model = Model(held=False)
    client = Client()
    queue = WorkQueue(100, 10, 60)
    assert await asking(queue, model, "x", [7, 2, 5, 1], client) == ["x0!", "x1!", "x2!", "x3!"]
    assert model.batches == [["x3", "x1", "x2"], ["x0"]]  # the shortest first, at most 10 characters
    assert client.scope["work"] == ", texts: 4, characters: 15"


@in_loop
async def test_joins_waiting_requests_of_one_model_in_a_batch():
    """If it is for one model."""
    model, queue, first = await held_up()
    other = Model(held=False)
    models = [model, other, model, model, model]
    others = [await begin(queue, one, name, [3]) for name, one in zip("bcdef", models)]
    await model.finish(first, *others)
    assert model.batches == [["first0"], ["b0", "d0", "e0"], ["f0"]] and other.batches == [["c0"]]


@in_loop
async def test_a_request_has_no_share_of_the_time_before_it():
    """Its text of 90 characters comes after the third of 60, two of which were computed before."""
    queue = WorkQueue(100, 100, 60, threads=0)
    await begin(queue, Model(), "a", [60] * 4)
    batches = [queue._take_batch() for _ in range(2)]
    await begin(queue, Model(), "b", [90])
    contents = [[text.content for text in batch] for batch in (*batches, queue._take_batch())]
    assert contents == [["a0"], ["a1"], ["a2"]]


@in_loop
async def test_a_short_request_does_not_wait_for_a_long_one():
    """It is in a batch of its own, so that it does not wait for long texts."""
    model, queue, first = await held_up()
    long = await begin(queue, model, "long", [4] * 10)
    short = await begin(queue, model, "short", [2])
    await model.finish(first, long, short)
    assert model.batches[1:] == [["short0"], *([f"long{n}", f"long{n + 1}"] for n in range(0, 10, 2))]


@in_loop
async def test_a_long_request_is_not_put_off_for_ever():
    """Short ones that keep coming get as much as it does, and no more."""
    model = Model(held=False)
    queue = WorkQueue(100, 10, 60)
    long = asking(queue, model, "long", [4] * 6)
    count = 0
    while not long.done():
        await asking(queue, model, "short", [4])
        count += 1
    assert count <= 8


@in_loop
async def test_a_long_text_has_its_turn_among_many_short_ones():
    """A fourth batch begins with the text that waits longest."""
    model, queue, first = await held_up()
    long = await begin(queue, model, "long", [90])
    short = [await begin(queue, model, "short", [10]) for _ in range(20)]
    await model.finish(first, long, *short)
    assert model.batches.index(["long0"]) < 4


@in_loop
async def test_the_queue_is_bounded_in_texts_and_in_characters(monkeypatch):
    monkeypatch.setattr(request_queue, "MOST_CHARACTERS", 40)
    model, queue, first = await held_up(max_texts=5)
    client = Client()
    with pytest.raises(UserError):
        await asking(queue, model, "never", [41], client)
    assert client.scope["work"] == ", texts: 1, characters: 41"  # for the log
    waiting = await begin(queue, model, "x", [3] * 4)
    for sizes in ([1, 1], [29]):
        with pytest.raises(HTTPException) as caught:
            await asking(queue, model, "y", sizes)
        assert caught.value.status_code == 503 and int(caught.value.headers["Retry-After"])
    one = asking(queue, model, "z", [28])  # one fits
    await model.finish(first, waiting, one)
    assert queue.waiting == [] and queue.characters == 0
    assert len(await asking(queue, model, "many", [1] * 6)) == 6  # it is always accepted where nothing waits


@in_loop
async def test_a_wrong_text_ends_its_request_alone():
    model, queue, first = await held_up()
    wrong = await begin(queue, model, "wrong", [1, 1])
    right = await begin(queue, model, "right", [1])
    _, error, results = await model.finish(first, wrong, right, with_errors=True)
    assert isinstance(error, UserError) and str(error) == "wrong0"
    assert results == ["right0!"] and model.batches[1] == ["wrong0", "right0", "wrong1"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(1)])
@in_loop
async def test_a_batch_that_fails_is_the_answer_to_all_who_are_in_it(error, caplog):
    """The thread goes on, whatever it was, and the log says where it failed."""
    model, queue, first = await held_up()
    others = [await begin(queue, model, name, [2] * 8) for name in "xy"]
    model.failure = error
    errors = await model.finish(first, *others, with_errors=True)
    assert [response.status_code for response in errors] == [500] * 3
    assert queue.waiting == []
    model.failure = None
    assert await asking(queue, model, "z", [1]) == ["z0!"]
    assert "Traceback" in caplog.text and "raise self.failure" in caplog.text


@in_loop
async def test_batches_are_computed_in_two_threads():
    model = Model()
    begun = []
    queue = WorkQueue(100, 10, 60, threads=2, initialize_thread=lambda: begun.append(threading.get_ident()))
    requests = [await begin(queue, model, "x", [10]) for _ in range(2)]
    while queue.waiting:  # both threads are at work
        await asyncio.sleep(0.001)
    await model.finish(*requests)
    assert model.threads == set(begun) and len(model.threads) == 2
