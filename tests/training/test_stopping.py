"""SIGTERM and Ctrl-C are requests where a run asked for that, and only there; they are answered at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.guard import StopSignal

ROOT = Path(__file__).resolve().parents[2]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_sigterm_is_noted_however_often_it_comes():
    with StopSignal() as stop:
        assert not stop and not stop.anywhere()
        for _ in range(3):
            send(signal.SIGTERM)
        assert stop and stop.anywhere() and stop.received == signal.SIGTERM


def test_a_second_ctrl_c_interrupts():
    with StopSignal() as stop:
        send(signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_sigterm_after_ctrl_c_is_patient():
    with StopSignal() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.received == signal.SIGINT


def test_what_was_before_comes_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_late_sigterm_does_not_end_a_run_that_is_ending():
    code = (
        "import os, signal, subprocess, sys\n"
        "from training.guard import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "child.terminate()\n"
        "sys.exit(0 if child.wait(30) == -signal.SIGTERM else 1)\n"  # a child is not made deaf
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# The main thread hears of no signal: it is in one call of C, as in a long step or a sum over processes.
IN_C = """
import ctypes
from training.guard import StopSignal
with StopSignal():
    print("ready", flush=True)
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time it waits for ever
        ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


def test_a_request_is_answered_and_a_second_ctrl_c_ends_whatever_the_main_thread_is_doing():
    with subprocess.Popen(
        [sys.executable, "-c", IN_C], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert process.stderr.readline().startswith("Ctrl-C received: the run saves its state and ends; ")
        assert time.monotonic() - asked < 1
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_from_the_first_line_on_and_while_paddle_is_imported(number, code):
    """Paddle would take SIGTERM for a crash from its import on."""
    program = (
        "import os, signal, sys, threading, time\n"
        "from training.guard import StopSignal\n"
        "from utils.runtime import prepare\n"
        f"send = lambda: os.kill(os.getpid(), {int(number)})\n"
        "with StopSignal() as stop:\n"
        "    threading.Timer(0.5, send).start()\n"
        "    prepare(quiet=True)\n"
        "    import paddle; paddle.ones([2])\n"
        f"    if {int(number)} == signal.SIGTERM: send()\n"
        "    stop.exit_as_asked()\n"
        "    assert stop.received == signal.SIGTERM\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.count(b"received") == 1
