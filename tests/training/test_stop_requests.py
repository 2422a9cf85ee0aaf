"""Stop requests, and the end of work that takes too long."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from ernie_m.training import stop_requests
from ernie_m.training.stop_requests import ShutdownHandler, StallWatchdog
from ernie_m.utils.child_processes import get_shutdown_signals
from ernie_m.utils.logging import logger
from tests.helpers.files import write_file
from tests.launching import clean_environment, start_python

pytestmark = pytest.mark.usefixtures("default_signals")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def handlers_put_back():
    """Put the handlers back after the test: after a request the process ignores SIGTERM and SIGHUP."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def interrupt(stop):
    send(signal.SIGINT)
    send(signal.SIGTERM)
    assert stop.received == signal.SIGINT


def test_stop_requests(handlers_put_back):
    """The first signal counts. Afterwards the old handler of Ctrl-C is back."""
    interrupt_handler = signal.getsignal(signal.SIGINT)
    with ShutdownHandler() as stop:
        assert not stop and not stop.is_set_on_any_process()
        for _ in range(3):  # SIGTERM may come any number of times
            send(signal.SIGTERM)
        assert stop and stop.is_set_on_any_process() and stop.received == signal.SIGTERM
    with pytest.raises(SystemExit, match="130"), ShutdownHandler() as stop:
        interrupt(stop)
    with pytest.raises(ZeroDivisionError), ShutdownHandler() as stop:  # an error is not hidden
        raise ZeroDivisionError(interrupt(stop))
    with ShutdownHandler():
        pass  # also without a signal the old handler comes back
    assert signal.getsignal(signal.SIGINT) == interrupt_handler


def test_restores_handlers_and_files_after_a_request(handlers_put_back, monkeypatch, capfd, caplog):
    """No file stays open, and the wakeup fd is the earlier one; another handled signal is not a request."""
    monkeypatch.setattr(logger, "handlers", [])
    reading_end, writing_end = os.pipe()
    os.set_blocking(writing_end, False)
    signal.set_wakeup_fd(writing_end)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    files = os.listdir("/proc/self/fd")
    with ShutdownHandler() as stop:
        send(signal.SIGUSR1)
        assert not stop
        send(signal.SIGTERM)
    assert os.listdir("/proc/self/fd") == files
    assert signal.set_wakeup_fd(-1) == writing_end
    signal.signal(signal.SIGUSR1, handler)
    os.close(reading_end)
    os.close(writing_end)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("SIGTERM received: ")
    assert caplog.messages == []  # Python would print them, too


def test_sighup_is_a_request_unless_it_is_ignored(handlers_put_back):
    """nohup ignores it, so that a run resumes when the terminal is closed."""
    with ShutdownHandler() as stop:
        send(signal.SIGHUP)
        assert stop.received == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ShutdownHandler() as stop:
        send(signal.SIGHUP)
        assert not stop
        send(signal.SIGTERM)
        assert stop
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # child processes inherit it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    assert get_shutdown_signals() == [signal.SIGTERM, signal.SIGINT]


# The terminal becomes that of the process's session, so that the process gets SIGHUP when it is closed, and
# works on. The file "saved" stands for a checkpoint.
IN_A_TERMINAL = """
import fcntl, pathlib, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils import logging
logging.setup_logging()
with ShutdownHandler() as stop:
    logging.logger.info("ready")
    while not stop:
        time.sleep(0.01)
    logging.logger.info("saving")
    pathlib.Path("saved").touch()
"""


def test_a_closed_terminal(tmp_path):
    """Lines that the terminal cannot show are in the log; the run saves and ends."""
    reading_end, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL],
        cwd=tmp_path,
        env=clean_environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert b"ready" in os.read(reading_end, 1000)
    os.close(reading_end)  # closes the terminal
    process.wait(60)
    assert (tmp_path / "saved").exists()
    log = (tmp_path / "log" / "job.log.0").read_text()
    assert "WARNING SIGHUP received: " in log and "saving" in log


# Further signals, after the `with` statement and when Python has removed its handlers at its end, do not end
# the process; a child can still be ended.
LATE = """
import os, signal, subprocess, sys
from ernie_m.training.stop_requests import ShutdownHandler
number = int(sys.argv[1])
class AtTheEnd:
    def __del__(self, kill=os.kill, arguments=(os.getpid(), number)):
        kill(*arguments)
at_the_end = AtTheEnd()
with ShutdownHandler() as stop:
    os.kill(os.getpid(), number)
for late in (signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), late)
child = subprocess.Popen(["sleep", "60"])
child.terminate()  # a child does not ignore it
sys.exit(0 if child.wait(30) == -signal.SIGTERM else 1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_late_signal_does_not_end_a_run_that_is_ending(number):
    with start_python(LATE, int(number)) as run:
        assert run.wait(60) == 0


# The main thread is in a call of C, as in a sum over processes, so that a handler in Python would not run.
# Locking a mutex for the second time waits for ever.
TWICE = """
import ctypes
from ernie_m.training.stop_requests import ShutdownHandler
with ShutdownHandler():
    print("ready", flush=True)
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


def test_a_second_ctrl_c_ends_the_process():
    with start_python(TWICE) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        assert run.stderr.readline().startswith("Ctrl-C received: ")
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130 and run.stderr.read() == ""


# A run that imports Paddle while it may already be asked to stop.
WITH_PADDLE = """
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.paddle_settings import prepare
with ShutdownHandler() as stop:
    print("ready", flush=True)
    prepare()
    import paddle; paddle.ones([2])
    print("imported", flush=True)
    input()
    assert stop
"""


def test_requests_while_paddle_is_imported():
    """Paddle's own handler would treat SIGTERM as a crash."""
    with start_python(WITH_PADDLE) as run:
        assert run.stdout.readline() == "ready\n"
        time.sleep(0.5)
        run.terminate()
        assert run.stdout.readline() == "imported\n"
        run.terminate()
        _, errors = run.communicate("\n", timeout=60)
        assert run.returncode == 0, errors
        assert errors.count("received") == 1


# Stands for Paddle, whose library fails to load if a KeyboardInterrupt comes in between. It waits until some
# thread of the process has got the signal, which Python tells the pipe.
INTERRUPTED = """
import os, signal
reading_end, writing_end = os.pipe()
os.set_blocking(writing_end, False)
signal.set_wakeup_fd(writing_end)
try:
    os.kill(os.getpid(), signal.SIGINT)
    os.read(reading_end, 1)
except KeyboardInterrupt:
    raise ImportError("initialization failed")
"""
WITHOUT_STOP_SIGNAL = """
import sys, threading, time
from ernie_m.utils.errors import run
from ernie_m.utils.paddle_settings import prepare
sys.path.insert(0, sys.argv[1])
threading.Thread(target=time.sleep, args=[2], daemon=True).start()  # as numpy has some
run(lambda: prepare())
"""


def test_ctrl_c_while_paddle_is_imported_by_a_command_that_saves_nothing(tmp_path):
    write_file(tmp_path / "paddle/__init__.py", INTERRUPTED)
    with start_python(WITHOUT_STOP_SIGNAL, tmp_path) as command:
        _, errors = command.communicate(timeout=600)
    assert (command.returncode, errors) == (130, "interrupted\n")


def test_a_stop_signal_that_is_not_active():
    """Work after which there is nothing to save is interrupted at once."""
    with pytest.raises(KeyboardInterrupt), ShutdownHandler(is_active=False) as stop:
        send(signal.SIGINT)
    assert not stop and not stop.is_set_on_any_process()


STALLED = """
import os, time
os.environ["PADDLE_TRAINERS_NUM"] = "2"
from ernie_m.training.stop_requests import StallWatchdog
with StallWatchdog(0.2) as watch:
    with watch.watch("step 6"):
        pass
    time.sleep(0.5)  # no work goes on
    with watch.watch("step 7"):
        time.sleep(60)
"""


def test_who_is_alone_or_has_no_limit_waits_for_ever(monkeypatch):
    assert StallWatchdog(0.2).seconds == math.inf
    monkeypatch.setattr(stop_requests, "world_size", lambda: 2)
    assert (StallWatchdog(0).seconds, StallWatchdog(0.2).seconds) == (math.inf, 0.2)


def test_a_stall_ends_the_process():
    completed = subprocess.run([sys.executable, "-c", STALLED], capture_output=True, text=True, check=False)
    assert completed.returncode == 1  # and not 0, after a minute
    (line,) = [line for line in completed.stderr.splitlines() if line.startswith("error: ")]
    assert (
        line.startswith("error: step 7 exceeded stall_ends_seconds") and "run the same commands again" in line
    )
