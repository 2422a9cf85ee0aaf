"""SIGTERM and Ctrl-C are noted where a loop asked for it, and only there."""

import os
import signal
import subprocess
import sys
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
