"""The queue of the server: turns, short before long, its bounds, and who has left."""

import asyncio
import functools
import threading

import pytest

from ernie_m.inference.server.work_queue import BatchFailed, QueueFull, Run, WorkQueue


def in_loop(test):
    """A test that is a coroutine; it has a minute."""

    @functools.wraps(test)
    def call(**options):
        asyncio.run(asyncio.wait_for(test(**options), 60))

    return call


class Model:
    """Computes a text by naming it. It waits before each batch until it is told to go on."""

    def __init__(self, held: bool = True):
        self.batches = []
        self.threads = set()
        self.going = threading.Semaphore(0 if held else 1000)
        self.fault = None

    def run(self, contents):
        self.going.acquire()
        self.batches.append(contents)
        self.threads.add(threading.get_ident())
        if self.fault:
            raise self.fault
        return [f"{content}!" for content in contents]

    def go_on(self):
        self.going.release(1000)


def asking(queue, model, name, tokens, client="a", many=False):
    """A request with texts of these lengths, named x0, x1, ..."""
    contents = [f"{name}{number}" for number in range(len(tokens))]
    return asyncio.ensure_future(queue.results(Run(model.run, many), contents, tokens, client))


async def held_up(**options):
    """A model, its queue, and a request that a thread is at until the model goes on."""
    model = Model()
    queue = WorkQueue(**{"max_queue": 100, "max_batch_tokens": 10, **options})
    first = asking(queue, model, "first", [1])
    await asyncio.sleep(0)  # it begins
    while queue.waiting:
        await asyncio.sleep(0.001)
    return model, queue, first


@in_loop
async def test_results_come_in_the_order_of_their_request():
    model = Model(held=False)
    queue = WorkQueue(max_queue=100, max_batch_tokens=10)
    assert await asking(queue, model, "x", [7, 2, 5, 1]) == ["x0!", "x1!", "x2!", "x3!"]
    assert model.batches == [["x3", "x1", "x2"], ["x0"]]  # the shortest first, at most 10 tokens


@in_loop
async def test_what_waits_at_the_same_time_is_one_batch():
    model, queue, first = await held_up()
    others = [asking(queue, model, name, [3], client=name) for name in "bcde"]
    await asyncio.sleep(0)
    model.go_on()
    await asyncio.gather(first, *others)
    assert model.batches == [["first0"], ["b0", "c0", "d0"], ["e0"]]


@pytest.mark.parametrize("client", ["a", "b"])
@in_loop
async def test_a_short_request_does_not_wait_for_a_long_one(client):
    """Whoever sends it; and it is in a batch of its own, so that it does not wait for long texts."""
    model, queue, first = await held_up()
    long = asking(queue, model, "long", [4] * 10)
    await asyncio.sleep(0)
    short = asking(queue, model, "short", [2], client)
    await asyncio.sleep(0)
    model.go_on()
    await asyncio.gather(first, long, short)
    assert model.batches[1] == ["short0"]
    assert [len(batch) for batch in model.batches[2:]] == [2] * 5


@in_loop
async def test_a_long_request_is_not_put_off_for_ever():
    """Short ones that keep coming get as much as it does, and no more."""
    model = Model(held=False)
    queue = WorkQueue(max_queue=100, max_batch_tokens=10)
    long = asking(queue, model, "long", [4] * 6)
    count = 0
    while not long.done():
        await asking(queue, model, "short", [4])
        count += 1
    assert count <= 8


@in_loop
async def test_clients_take_turns():
    """Many short requests of one do not keep a longer one of another waiting."""
    model, queue, first = await held_up(max_batch_tokens=4)
    greedy = [asking(queue, model, f"a{number}-", [2], "greedy") for number in range(12)]
    await asyncio.sleep(0)
    modest = [asking(queue, model, f"b{number}-", [4], "modest") for number in range(2)]
    await asyncio.sleep(0)
    model.go_on()
    await asyncio.gather(first, *greedy, *modest)
    order = [batch[0] for batch in model.batches[1:]]
    assert max(order.index("b0-0"), order.index("b1-0")) <= 3


@in_loop
async def test_a_client_that_comes_late_does_not_overtake_the_others():
    model = Model()
    queue = WorkQueue(max_queue=100, max_batch_tokens=4)
    early = [asking(queue, model, f"a{number}-", [4], "early") for number in range(20)]
    model.going.release(10)
    while len(model.batches) < 10:
        await asyncio.sleep(0.001)
    late = [asking(queue, model, f"b{number}-", [4], "late") for number in range(5)]
    await asyncio.sleep(0)
    model.go_on()
    await asyncio.gather(*early, *late)
    order = "".join(name[0] for (name,) in model.batches)
    assert "b" in order and "bb" not in order


@in_loop
async def test_the_queue_is_bounded_and_says_when_to_come_back():
    model, queue, first = await held_up(max_queue=5)
    waiting = asking(queue, model, "x", [3] * 4)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await asking(queue, model, "y", [1, 1])
    assert 1 <= caught.value.retry_after <= 60
    one = asking(queue, model, "z", [1])  # there is room for one
    model.go_on()
    await asyncio.gather(first, waiting, one)
    assert queue.waiting == 0 and not queue._flows


@in_loop
async def test_nothing_is_computed_for_who_has_left():
    model, queue, first = await held_up(max_queue=1000)
    left = [asking(queue, model, "left", [5] * 4, client=str(number)) for number in range(200)]
    stays = asking(queue, model, "stays", [5] * 3)
    await asyncio.sleep(0)
    for request in left:
        request.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert queue.waiting == 3 and len(queue._flows) == 1
    model.go_on()
    assert len(await stays) == 3 and await first
    assert [text for batch in model.batches for text in batch] == ["first0", "stays0", "stays1", "stays2"]
    assert queue._tokens == 0


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), SystemExit(1)])
@in_loop
async def test_a_batch_that_fails_is_the_answer_to_all_who_are_in_it(fault, caplog):
    """The thread goes on, whatever it was, and the log says where it failed."""
    told = []
    model, queue, first = await held_up(on_batch=lambda *batch: told.append(batch))
    others = [asking(queue, model, name, [2] * 8) for name in "xy"]
    await asyncio.sleep(0)
    model.fault = fault
    model.go_on()
    for answer in await asyncio.gather(first, *others, return_exceptions=True):
        assert isinstance(answer, BatchFailed)
    assert queue.waiting == 0
    model.fault = None
    assert await asking(queue, model, "z", [1]) == ["z0!"]
    assert told[0] == (1, 1, fault) and told[-1] == (1, 1, None)
    assert "Traceback" in caplog.text and "raise self.fault" in caplog.text


@in_loop
async def test_what_one_thread_may_call_is_not_called_by_two():
    """The other thread is free for what else waits."""
    alone, queue, first = await held_up(threads=2)
    other = Model(held=False)
    second = asking(queue, alone, "x", [10])
    assert await asyncio.wait_for(asking(queue, other, "y", [1]), 20) == ["y0!"]
    assert alone.batches == [] and queue.waiting == 1
    alone.go_on()
    await asyncio.gather(first, second)


@in_loop
async def test_many_threads():
    model = Model()
    begun = []
    queue = WorkQueue(100, 10, threads=2, begin=lambda: begun.append(threading.get_ident()))
    requests = [asking(queue, model, "x", [10], many=True) for _ in range(2)]
    await asyncio.sleep(0)
    while queue.waiting:  # both threads are at work
        await asyncio.sleep(0.001)
    model.go_on()
    await asyncio.gather(*requests)
    assert model.threads == set(begun) and len(model.threads) == 2


@in_loop
async def test_the_event_loop_is_free_while_a_batch_is_computed():
    model, _queue, first = await held_up()
    await asyncio.sleep(0.01)  # it would not come back
    assert not first.done()
    model.go_on()
    await first
