"""The reader process: order, how far ahead it runs, its errors, its death, and that nothing is left of it."""

import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.training import prefetch_work
from training.prefetch import prefetch
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_items_in_order_and_end():
    with prefetch(functools.partial(prefetch_work.count, 50), ahead=4) as items:
        answer = list(items)
        assert [i for i, _ in answer] == list(range(50))
        assert all((array == i).all() for i, array in answer)
        with pytest.raises(StopIteration):
            next(items)
        assert not items._process.is_alive()


def test_who_is_asked_to_stop_does_not_wait_for_an_item():
    """One that is there is handed out; the next one, which takes a minute, is not waited for."""
    with prefetch(prefetch_work.slow) as items:
        assert items.next_unless(False) == items._process.pid
        began = time.monotonic()
        assert items.next_unless(True) is None
        assert time.monotonic() - began < 5


def test_it_runs_ahead_and_then_waits(tmp_path):
    with prefetch(functools.partial(prefetch_work.large, str(tmp_path / "made")), ahead=5) as items:
        next(items)
        made = tmp_path / "made"
        # One taken, five in the queue, one in the hand of the thread, one in the pipe.
        assert wait_until(lambda: made.stat().st_size >= 7)
        time.sleep(0.3)
        assert made.stat().st_size <= 9


def test_a_user_error_is_raised_here():
    with prefetch(prefetch_work.user_error) as items:
        assert next(items) == 1
        with pytest.raises(UserError, match="^x.tsv, line 3: unknown label 'maybe'$"):
            next(items)
        assert not items._process.is_alive()


def test_a_bug_is_raised_here_with_its_traceback():
    with prefetch(prefetch_work.bug) as items:
        assert next(items) == 1
        with pytest.raises(RuntimeError, match=r"(?s)the reader process failed:.*in bug.*the bug"):
            next(items)


def test_a_killed_worker_is_noticed_at_once():
    with prefetch(prefetch_work.slow) as items:
        pid = next(items)
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(UserError, match="the reader process was killed by signal 9"):
            next(items)
        assert time.monotonic() - start < 20
        assert not is_running(pid)


def test_a_worker_killed_with_items_waiting():
    """What it had handed over is still there; then the error."""
    with prefetch(prefetch_work.killed) as items:
        assert next(items) == 1
        with pytest.raises(UserError, match="killed by signal 9"):
            next(items)


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path):
    with prefetch(functools.partial(prefetch_work.cut_short, str(tmp_path / "a.npy"))) as items:
        assert next(items) == 0.0
        with pytest.raises(UserError, match="killed by signal 7 .a file that it read was cut short"):
            next(items)


def test_a_slow_worker_is_told_of_now_and_then(caplog):
    with prefetch(functools.partial(prefetch_work.unhurried, 0.3, 8), slow_seconds=0.1) as items:
        first = next(items)
        caplog.clear()
        assert list(items) == list(range(first + 1, 8))
    # 2.1 s of waiting, every wait too long; no more than one line a second
    assert 1 <= len(caplog.records) <= 3
    assert re.search(r"the step has waited \d s for the reader process \d+: it is slow", caplog.text)


def test_a_worker_that_stands_still_is_told_of(caplog):
    with prefetch(prefetch_work.forever, ahead=1, slow_seconds=0.2) as items:
        pid = next(items)[1]
        caplog.clear()
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(3.0, os.kill, (pid, signal.SIGCONT)).start()  # its start may have been told of
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            next(items)
    assert f"for the reader process {pid}" in caplog.text


def test_a_worker_in_time_is_not_told_of(caplog):
    with prefetch(functools.partial(prefetch_work.count, 50), slow_seconds=20) as items:
        assert len(list(items)) == 50
    assert caplog.records == []


def test_closing_half_way_ends_it():
    with prefetch(prefetch_work.forever) as items:
        pid = next(items)[1]
        assert is_running(pid)
        start = time.monotonic()
    assert time.monotonic() - start < 20
    assert not is_running(pid) and not items._thread.is_alive()
    items.close()


def test_an_error_in_the_loop_ends_it():
    pids = []

    def loop():
        with prefetch(prefetch_work.forever) as items:
            pids.append(next(items)[1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert not is_running(pids[0])


def test_forgetting_it_ends_it():
    items = prefetch(prefetch_work.forever)
    pid = next(items)[1]
    del items
    assert wait_until(lambda: not is_running(pid))


# An entry point as they are written here: paddle's place is taken by a module that says when it is imported.
ENTRY_POINT = """
import sys, time
sys.path[:0] = [{root!r}, {here!r}]
from training.prefetch import prefetch
from tests.training import prefetch_work

def main():
    import heavy
    with prefetch(prefetch_work.{work}) as items:
        {body}

if __name__ == "__main__":
    main()
"""


def entry_point(tmp_path, work: str, body: str) -> list[str]:
    (tmp_path / "heavy.py").write_text("print('!', flush=True)\n")
    script = tmp_path / "entry.py"
    body = textwrap.indent(textwrap.dedent(body), " " * 8).strip()
    script.write_text(ENTRY_POINT.format(root=str(ROOT), here=str(tmp_path), work=work, body=body))
    return [sys.executable, str(script)]


def test_the_worker_stays_light(tmp_path):
    """It imports the entry point again, but not what main() imports; and nothing of reader imports paddle."""
    command = entry_point(tmp_path, "modules", "print(*next(items))")
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.count("!") == 1
    loaded = set(out.split())
    assert {"__mp_main__", "training.prefetch"} <= loaded
    assert not loaded & {"heavy", "paddle", "torch", "model"}


def test_the_readers_import_no_paddle():
    code = "import sys, training.prefetch, reader.batching; print('paddle' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "False"


def test_it_ends_with_a_killed_parent(tmp_path):
    command = entry_point(
        tmp_path, "forever", "print(next(items)[1], flush=True)\nimport time\ntime.sleep(60)"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline().strip() == "!"
        pid = int(parent.stdout.readline())
        parent.kill()
    assert wait_until(lambda: not is_running(pid))


def test_ctrl_c(tmp_path):
    """Ctrl-C reaches parent and worker; the worker says nothing and is gone before the parent."""
    command = entry_point(
        tmp_path, "forever", "print(next(items)[1], flush=True)\nimport time\ntime.sleep(60)"
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # what a shell starts in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as parent:  # fmt: skip
        parent.stdout.readline()
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, signal.SIGINT)
        errors = parent.stderr.read()
        parent.wait(20)
    assert not is_running(pid)
    assert errors.count("KeyboardInterrupt") == 1, errors


def test_an_end_without_close(tmp_path):
    """A program that ends with an open prefetch does end, and its worker too, whatever ran before.

    An early finalizer changes the order in which Python and multiprocessing clean up.
    """
    script = tmp_path / "entry.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, tempfile
        sys.path.insert(0, {str(ROOT)!r})
        folder = tempfile.TemporaryDirectory()

        def main():
            global items
            from training.prefetch import prefetch
            from tests.training import prefetch_work
            items = prefetch(prefetch_work.forever)
            print(next(items)[1])

        if __name__ == "__main__":
            main()
        """)
    )
    out = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert not is_running(int(out))


def test_sigterm_to_the_group_is_the_parents_affair(tmp_path):
    """Launchers send it to every process of a group, even while the worker still starts."""
    body = """
    import os, signal
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    os.killpg(0, signal.SIGTERM)
    first = next(items)[1]
    os.killpg(0, signal.SIGTERM)
    print(len(heard), {next(items)[1] for _ in range(100)} == {first}, flush=True)
    """
    out = subprocess.run(
        entry_point(tmp_path, "forever", body),
        capture_output=True, text=True, timeout=60, check=True, start_new_session=True,
    ).stdout  # fmt: skip
    assert out.split() == ["!", "2", "True"]
