"""A user's mistake is one line, whatever it quotes."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest

from ernie_m import __main__ as cli
from ernie_m.utils import errors
from ernie_m.utils.errors import LONGEST_MESSAGE, UserError, get_install_command
from ernie_m.utils.files import atomic_dir, atomic_file, lock_for_writing
from tests.launching import ROOT, call_main, check_error, clean_environment, one_error


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a.tsv, line 2: 'x'", "a.tsv, line 2: 'x'"),
        ("'a\nb\r\tc\x1b[31m\0'", r"'a\nb\r\tc\x1b[31m\x00'"),
        ("half \ud800, lines \u2028 and \x85", r"half \ud800, lines \u2028 and \x85"),
        ("a\u202eb\u2066c\u200ed", r"a\u202eb\u2066c\u200ed"),  # they turn the direction of writing
        # Characters that belong in a line stay as they are.
        ("क्\u200dष, 你\u3000好, ½ and \\n", "क्\u200dष, 你\u3000好, ½ and \\n"),
    ],
)
def test_an_error_is_one_line_of_bounded_length(message, line):
    assert str(UserError(message)) == line
    assert str(UserError(line)) == line  # as when one is raised from another
    assert str(pickle.loads(pickle.dumps(UserError(message)))) == line
    long = str(UserError(f"a.tsv: {'x' * 10**6}; take it out"))
    assert long.startswith("a.tsv: x") and " [...] x" in long and long.endswith("x; take it out")
    assert len(long) == LONGEST_MESSAGE + len(" [...] ")


def test_a_notebook_shows_one_line():
    """By the method with which IPython lets an exception draw itself."""
    assert UserError("a.tsv: empty")._render_traceback_() == ["UserError: a.tsv: empty"]


@pytest.mark.parametrize(
    ("number", "is_raised"),
    [(errno.ENOSPC, False), (errno.EIO, False), (errno.EPIPE, False), (errno.EINVAL, True)],
)
def test_ignore_output_that_cannot_be_written(tmp_path, number, is_raised):
    """A full disk, a closed terminal and a closed pipe end no run."""
    expected = pytest.raises(OSError, match="lost") if is_raised else nullcontext()
    with open(tmp_path / "stream", "w") as stream, expected, errors.ignore_write_errors(stream):
        raise OSError(number, "lost")


def test_streams_that_are_closed():
    """No file that is opened later takes their numbers."""
    code = """
import sys
from ernie_m.utils.errors import run
run(lambda: sys.exit([stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)] != [0, 1, 2]))
"""
    subprocess.check_call([sys.executable, "-c", code], cwd=ROOT, preexec_fn=lambda: os.closerange(0, 3))


@pytest.mark.parametrize(
    ("path", "location"), [("/proc/none/x", "/proc/none: "), ("/proc/x", "/proc/x: "), ("file/x", ".*/file")]
)
def test_a_location_that_cannot_be_written_is_one_line(tmp_path, path, location):
    """No folder and no file can be made under /proc or below a file; nor a file instead of a folder."""
    (tmp_path / "file").write_text("")
    for write in (atomic_file, atomic_dir):
        with pytest.raises(UserError, match=f"^{location}.*Choose another path"), write(tmp_path / path):
            pass
    with pytest.raises(UserError, match="^/proc/x: "), lock_for_writing("/proc/x"):
        pass
    with pytest.raises(UserError, match=f"^{tmp_path}: Is a directory"), atomic_file(tmp_path):
        pass


@pytest.mark.parametrize("words", [["convert", "{}", "out"], ["export", "--model", "{}", "--output", "out"]])
def test_a_name_that_no_file_can_have_is_one_line(capsys, words):
    words = [word.format("x" * 5000) for word in words]
    check_error(one_error(partial(call_main, cli, words), capsys), "File name too long", start="error: xxx")


# The commands at the top have one text, as `tests/test_layers.py` checks.
@pytest.mark.parametrize("command", ["launch", "run_mrc"])
def test_a_command_outside_the_environment_is_one_line(command):
    """-S: Python without its installed packages."""
    line = [sys.executable, "-S", ROOT / f"{command}.py", "--help"]
    process = subprocess.run(line, env=clean_environment(), capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    (error,) = process.stderr.splitlines()
    assert " numpy, " in error and "sh scripts/setup.sh" in error


@pytest.mark.parametrize(
    ("package", "environment", "command"),
    [
        # scripts/setup.sh made the environment; there is none; the user made it; there is no checkout.
        ("clone", "clone/.venv", "sh scripts/setup.sh excel"),
        ("clone", "usr", "sh scripts/setup.sh excel"),
        ("clone", "own", 'pip install "ernie-m[excel]"'),
        ("own/lib/python3.12/site-packages", "own", 'pip install "ernie-m[excel]"'),
    ],
)
def test_advice_for_a_checkout_and_for_the_package(tmp_path, monkeypatch, package, environment, command):
    (tmp_path / "clone/scripts").mkdir(parents=True)
    (tmp_path / "clone/scripts/setup.sh").touch()
    monkeypatch.setattr(errors, "__file__", str(tmp_path / package / "ernie_m/utils/errors.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / environment))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "usr"))
    assert get_install_command("excel") == command


# Stands for a package whose library in C makes another exception of Ctrl-C, as numpy's does.
INTERRUPTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
except KeyboardInterrupt:
    pass
raise ImportError("initialization failed")
"""


@pytest.mark.parametrize("command", ["run_mrc", "-m pretrain.build_corpus"])
def test_ctrl_c_during_the_imports_is_one_line(tmp_path, command):
    (tmp_path / "difflib.py").write_text(INTERRUPTED)
    arguments = command.split() if command.startswith("-m") else [f"{command}.py"]
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here
    )
    assert (process.returncode, process.stderr) == (130, "interrupted\n")
