"""The worker process of a `PrefetchIterator`: the order of items, how far it runs ahead, errors and end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from ernie_m.training.prefetch import PrefetchIterator
from ernie_m.utils.errors import UserError
from tests.helpers.processes import is_running, wait_until
from tests.launching import ROOT
from tests.training.prefetch_work import count, large, one_then, one_then_wait, pids


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch) -> None:
    monkeypatch.setattr("ernie_m.training.prefetch.START", "spawn")


def test_items_in_order_and_the_end():
    with PrefetchIterator(partial(count, 50), ahead=4) as items:
        assert list(items) == list(range(50))
        with pytest.raises(StopIteration):
            next(items)
        assert not items._process.is_alive()


def test_a_stop_request_does_not_wait_for_an_item():
    with PrefetchIterator(one_then_wait) as items:
        assert items.next_unless_stopped(False) == items._process.pid  # the one item; then the process waits
        # True is a stop request; after a minute there is no item.
        assert items.next_unless_stopped(True) is None


def test_it_runs_ahead_and_then_waits(tmp_path):
    counter = tmp_path / "made"
    with PrefetchIterator(partial(large, str(counter)), ahead=5) as items:
        next(items)
        # One is taken, five are in the queue, the thread has one, and one is in the pipe: the worker makes
        # at least 7, and waits with the ninth at the latest.
        assert wait_until(lambda: counter.stat().st_size >= 7)
        time.sleep(0.3)
        assert counter.stat().st_size <= 9


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        ("user error", UserError, "^x.tsv, line 3: unknown label 'maybe'$"),
        ("error", RuntimeError, r"(?s)the reader process failed:.*in one_then.*the error"),
        ("kill", UserError, "the reader process was killed by signal 9"),
        ("exit", UserError, "the reader process ended with code 3 before"),
        ("truncate", UserError, "killed by signal 7 .a file was truncated"),
    ],
)
def test_raise_worker_end_after_its_items(tmp_path, event, error, message):
    with PrefetchIterator(partial(one_then, event, str(tmp_path / "a.npy"))) as items:
        assert next(items) == 1
        with pytest.raises(error, match=message):
            next(items)
        assert not items._process.is_alive()


@pytest.mark.parametrize("ending", ["close", "error", "forget"])
def test_no_worker_stays(ending):
    """After `close`, which may come twice, after an error in a `with` statement, or without any reference."""
    items = PrefetchIterator(pids)
    pid = next(items)
    assert is_running(pid)
    if ending == "error":
        with pytest.raises(ZeroDivisionError), items:
            raise ZeroDivisionError
    elif ending == "close":
        items.close()
        items.close()
    del items
    # `close` and the `with` statement wait for the worker; the garbage collector need not run at once.
    assert wait_until(lambda: not is_running(pid), seconds=60 if ending == "forget" else 0)


# A script that would begin again if the worker imported it. `heavy`, which prints a line, stands for Paddle.
ENTRY_POINT = """
import os, signal, sys, time
sys.path[:0] = [{root!r}, {here!r}]
from ernie_m.training.prefetch import PrefetchIterator
from tests.training import prefetch_work

def main():
    import heavy
    global items
    items = PrefetchIterator(prefetch_work.{work})
    {body}

main()
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts the entry point in a session of its own.

    Its arguments: the generator of `prefetch_work` that the worker runs, and what `main` does with `items`.
    """

    def started(work: str, body: str) -> subprocess.Popen:
        (tmp_path / "heavy.py").write_text("print('!', flush=True)\n")
        script = tmp_path / "entry.py"
        body = textwrap.indent(textwrap.dedent(body), "    ").strip()
        script.write_text(ENTRY_POINT.format(root=str(ROOT), here=str(tmp_path), work=work, body=body))
        return subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell starts background jobs with SIGINT ignored, and their children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return started


def test_the_worker_imports_only_what_it_needs(start):
    """`heavy` prints "!" once, in the parent."""
    with start(
        "modules", "import ernie_m.reader.batching; print(*next(items), 'paddle' in sys.modules)"
    ) as parent:
        *words, paddle_in_parent = parent.stdout.read().split()
    assert (words.count("!"), paddle_in_parent) == (1, "False")
    modules_of_worker = set(words)
    assert "ernie_m.training.prefetch" in modules_of_worker and not modules_of_worker & {
        "heavy",
        "paddle",
        "torch",
        "ernie_m.model",
    }


@pytest.mark.parametrize("ending", ["kill", "Ctrl-C", "exit"])
def test_the_worker_ends_with_its_parent(start, ending):
    """Ctrl-C goes to both; the worker prints nothing and ends before the parent. "exit": without `close`."""
    body = "print(next(items), flush=True)"
    if ending != "exit":
        body += "\ntime.sleep(60)"
    with start("pids", body) as parent:
        assert parent.stdout.readline() == "!\n"
        pid = int(parent.stdout.readline())
        if ending == "kill":
            parent.kill()
        elif ending == "Ctrl-C":
            os.killpg(parent.pid, signal.SIGINT)
        errors = parent.communicate(timeout=50)[1]
    # A killed parent cannot wait for the worker.
    assert wait_until(lambda: not is_running(pid), seconds=60 if ending == "kill" else 0)
    assert errors.count("KeyboardInterrupt") == (ending == "Ctrl-C"), errors


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_worker_ignores_signals_to_stop(start, name):
    """Launchers and terminals send them to every process of a group, even while the worker starts."""
    body = f"""
    received = []
    signal.signal(signal.{name}, lambda *_: received.append(1))
    os.killpg(0, signal.{name})
    first = next(items)
    os.killpg(0, signal.{name})
    print(len(received), {{next(items) for _ in range(100)}} == {{first}}, flush=True)
    items.close()
    """
    with start("pids", body) as parent:
        assert parent.stdout.read().split() == ["!", "2", "True"]
