"""SIGTERM and Ctrl-C are noted where a loop asked for it, and only there."""

import os
import signal

import pytest

from utils.stopping import StopSignal


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
