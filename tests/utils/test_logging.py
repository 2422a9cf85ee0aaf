"""What a run says reaches the right file, with the right prefix, and the time left is right."""

import io
import logging
import os
import subprocess
import sys
import time
import unicodedata
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ernie_m.commands import convert, predict
from ernie_m.data import prepare
from ernie_m.utils import logging as run_log
from ernie_m.utils.errors import UserError, run
from ernie_m.utils.logging import logger
from tests.helpers.checkpoints import changed_copy
from tests.helpers.files import disk_full_after
from tests.launching import ROOT, call_main, clean_environment, error_of
from tests.toys import sentences, write_lines


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time in seconds, which stands still until a test changes it."""
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    return now


def test_the_file_is_always_written_and_the_console_on_rank_0_alone(tmp_path, capsys, monkeypatch):
    assert run_log.setup_logging(str(tmp_path), rank=0) == tmp_path / "job.log.0"
    run_log.logger.info("from %d", 0)
    for text in ("first", "second"):  # a second run appends
        run_log.setup_logging(str(tmp_path), rank=1)
        run_log.logger.info(text)
        logging.getLogger("some.library").warning("not ours")
    assert (tmp_path / "job.log.0").read_text().endswith("from 0\n")
    lines = (tmp_path / "job.log.1").read_text().splitlines()
    timestamp = "2026-01-31 12:00:00 "
    assert [line[len(timestamp) :] for line in lines] == ["INFO first", "INFO second"]
    assert capsys.readouterr().out == "from 0\n"
    monkeypatch.setenv(run_log.LOG_DIR, str(tmp_path / "logs"))
    monkeypatch.setenv(run_log.LOG_PREFIX, "xnli_")
    assert run_log.setup_logging(rank=3) == tmp_path / "logs" / "xnli_job.log.3"


def test_log_copy_has_all_lines_from_its_run(tmp_path):
    for name in ("one", "two", "two"):  # the third run resumes with the second
        path = run_log.setup_logging(str(tmp_path), is_copied=True)
        run_log.logger.info("%s begins", name)
        run_log.copy_log(tmp_path / name / "job.log.0")
        run_log.logger.info("%s resumes", name)
    for name, times in (("one", 1), ("two", 2)):
        lines = (tmp_path / name / "job.log.0").read_text().splitlines()
        assert [line.split(" INFO ")[1] for line in lines] == [f"{name} begins", f"{name} resumes"] * times
    assert len(path.read_text().splitlines()) == 6


def test_log_at_its_destination_is_not_copied(tmp_path):
    path = run_log.setup_logging(str(tmp_path), is_copied=True)
    run_log.logger.info("one")
    run_log.copy_log(tmp_path / "folder" / ".." / path.name)
    run_log.logger.info("two")
    assert len(path.read_text().splitlines()) == 2
    handlers = run_log.logger.handlers
    assert [handler.buffer for handler in handlers if isinstance(handler, MemoryHandler)] == [[]]


def test_a_log_on_a_full_disk_does_not_end_a_run(tmp_path, capsys):
    path = run_log.setup_logging(str(tmp_path))
    with disk_full_after(0):
        for _ in range(3):
            run_log.logger.info("lost")
        run_log._replace_handlers([])  # closes it
    run_log.setup_logging(str(tmp_path))
    run_log.logger.info("there is space again")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["lost", "lost", "lost", "there is space again"]
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{path}: log lines were lost: ")
    assert path.read_text().endswith("there is space again\n")


def test_why_a_run_ended_is_in_its_log_and_once_on_the_console(tmp_path, capsys):
    def mistake():
        run_log.setup_logging(str(tmp_path))
        raise UserError("train.tsv, line 2: unknown label 'x'")

    def bug():
        raise RuntimeError("not a user's error")

    with pytest.raises(SystemExit) as ended:
        run(mistake)
    assert ended.value.code == 2
    with pytest.raises(RuntimeError):
        run(bug)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: train.tsv, line 2: unknown label 'x'\n")
    line_of_mistake, _line_of_bug, *traceback = (tmp_path / "job.log.0").read_text().splitlines()
    assert line_of_mistake.endswith("ERROR train.tsv, line 2: unknown label 'x'")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "RuntimeError: not a user's error"


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "log").write_text("a file where the folder should be")
    assert "cannot write the log" in error_of(run_log.setup_logging, str(tmp_path / "log"))
    run_log.setup_logging(str(tmp_path), is_copied=True)
    assert "cannot write the log" in error_of(run_log.copy_log, tmp_path / "log" / "job.log.0")


def test_eta_uses_the_mean_speed_since_start(now):
    bar = run_log.Progress(100, "work", initial=40)
    assert bar.eta() == "?"
    now[0] += 10
    bar.update(20)  # 20 units in 10 s: the 40 left take 20 s; what was done before does not count as speed
    assert (bar.speed(), bar.eta()) == (pytest.approx(2.0), "0:00:20")
    bar.update(40)
    assert bar.eta() == "0:00:00"


def test_eta_with_evaluations(now):
    bar = run_log.Progress(100, "training")
    now[0] += 40
    bar.update(20)
    # 80 steps of 2 s are left: 160 s. How long an evaluation takes is not known before the first.
    assert bar.eta(3) == "0:02:40 + 3 evaluations" and bar.eta(1) == "0:02:40 + 1 evaluation"
    for seconds in (100, 200):
        with bar.exclude_evaluation():
            now[0] += seconds
    now[0] += 20
    bar.update(10)
    # The time of evaluations does not count as that of steps: 30 steps took 60 s. 70 steps of 2 s and one
    # evaluation of 150 s, the mean of 100 s and 200 s, are left: 290 s.
    assert bar.speed() == 0.5 and bar.eta(1) == "0:04:50"


def test_without_a_terminal_there_are_plain_lines_now_and_then(tmp_path, now):
    run_log.setup_logging(str(tmp_path))
    for _ in run_log.show_progress(range(100), "reading", unit="lines"):
        now[0] += 1.0
    for _ in run_log.show_progress(["a" * 3000, "b" * 9000], "predicting", unit="requests", count_units=len):
        now[0] += 30.0
    bar = run_log.Progress(4, "training")
    now[0] += 10.0
    bar.update(2, loss="0.5", lr="0.1")
    lines = (tmp_path / "job.log.0").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == [
        *(f"reading: {n} lines of 100, {timedelta(seconds=100 - n)} left" for n in range(10, 101, 10)),
        "predicting: 3,000 requests of 12,000, 0:01:30 left",
        "predicting: 12,000 requests of 12,000, 0:00:00 left",
        "training: 2 it of 4, 0:00:10 left, loss 0.5, lr 0.1",
    ]


def test_tables_are_aligned_with_escaped_cells():
    """Control characters of cells are escaped, and count as they are shown."""
    assert run_log.format_columns([["a", "long"], ["x\ny", "1"]]).splitlines() == [
        "   a  long",
        "x\\ny     1",
    ]
    assert run_log.format_markdown_table([["", "a", "b"], ["x", "1", "2"]]).splitlines() == [
        "|  | a | b |",
        "|---|---:|---:|",
        "| x | 1 | 2 |",
    ]


def test_on_a_terminal_there_is_a_bar_and_log_lines_do_not_tear_it(tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run_log.setup_logging(str(tmp_path))
    bar = run_log.Progress(10, "training\x1b[2J", unit="steps")
    time.sleep(0.15)  # tqdm draws ten times a second at most
    bar.update(3, loss="0.5")
    assert all(part in screen.getvalue() for part in ("training\\x1b[2J:  30%", "3/10", "loss=0.5"))
    run_log.logger.info("a line")
    bar.close()
    assert capsys.readouterr().out == "a line\n"
    assert (tmp_path / "job.log.0").read_text().endswith("a line\n")


@pytest.mark.parametrize(
    ("level", "rank", "count"),
    [(logging.NOTSET, "0", 10), (logging.NOTSET, "1", 0), (logging.WARNING, "0", 0)],
)
def test_command_without_a_log_writes_to_stderr(monkeypatch, now, capsys, level, rank, count):
    """As a user's own, unless it has said that its log shall have no such lines. One process writes."""
    monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
    monkeypatch.setattr(run_log, "logger", logging.Logger("of a guest", level))
    run_log.logger.parent = logging.Logger("root", logging.WARNING)
    for _ in run_log.show_progress(range(100), "encoding", unit="texts"):
        now[0] += 1.0
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == count and output.out == ""


def test_in_a_notebook_there_is_its_bar(monkeypatch):
    """tqdm.auto's bar, although stderr is not a terminal."""
    made = []
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **options: made.append(options) or tqdm(disable=True))
    for _ in run_log.show_progress(range(3), "encoding"):
        pass
    assert [(options["desc"], options["disable"]) for options in made] == [("encoding", False)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("full", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("is_pipe", [False, True])
def test_output_that_is_lost_changes_no_exit_code(tmp_path, full, is_pipe):
    """Writing to /dev/full fails as on a full disk, to a pipe that nobody reads as after `head`.

    The log file has every line.
    """
    code = f"""
from ernie_m.utils import logging
from ernie_m.utils.errors import UserError, run
def main():
    logging.setup_logging({str(tmp_path)!r})
    for _ in range(2):
        logging.logger.info("a line")
    raise UserError("the end")
run(main)
"""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with open(writing_end, "w") as pipe, open("/dev/full", "w") as disk:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for name in streams:
            if full in (name, "both"):
                streams[name] = pipe if is_pipe else disk
        command = [sys.executable, "-c", code]
        assert subprocess.call(command, cwd=ROOT, env=clean_environment(), **streams) == 2
    lines = (tmp_path / "job.log.0").read_text().splitlines()
    # After the date, the time and the level.
    assert [line.split(" ", 3)[3] for line in lines] == ["a line", "a line", "the end"]


HOSTILE = "\x1b[2J\x9b31m"


# Program -> its command line, in a folder of hostile files. `predict` writes to the terminal.
PROGRAMS = {
    "convert": (convert, "encode out --to paddlenlp --drop_unknown"),
    "prepare": (prepare, "pairs my --model {}/encode --output out"),
    "predict": (predict, "--model classify --input rows.csv"),
}


@pytest.mark.parametrize(("command", "line"), PROGRAMS.values(), ids=PROGRAMS)
def test_escape_control_characters_from_files(
    models, tmp_path, in_tmp_path, monkeypatch, capsys, command, line
):
    """Of texts and labels, a tensor's name, a file's, a model's labels."""
    changed_copy(models / "classify", tmp_path / "classify", labels=[f"{i}{HOSTILE}" for i in range(3)])
    changed_copy(models / "encode", tmp_path / "encode")
    weights = tmp_path / "encode" / "model.safetensors"
    save_file(load_file(weights) | {HOSTILE: np.zeros(1, np.float32)}, weights)
    rows = [f"{text} {HOSTILE},{i % 2}{HOSTILE}" for i, text in enumerate(sentences(30))]
    write_lines(tmp_path / "rows.csv", ["text,label", *rows])
    write_lines(tmp_path / "my/en-de.tsv", [f"en {line}\tde {line}" for line in sentences(60)])
    write_lines(tmp_path / f"my/{HOSTILE}.md", ["nothing"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    call_main(command, line.format(models).split())
    printed = "".join(capsys.readouterr())
    assert "\\x1b[2J\\x9b31m" in printed
    assert {character for character in printed if unicodedata.category(character) == "Cc"} <= {"\n", "\t"}


def test_control_characters_in_the_log_are_escaped(caplog):
    """A value keeps to its line; a table is in the message, with its line ends."""
    logger.warning("%s: %s, %d", Path(HOSTILE), f"{HOSTILE}\n", 1)
    logger.warning(f"a table\n{HOSTILE}")
    escaped = "\\x1b[2J\\x9b31m"
    assert caplog.messages == [f"{escaped}: {escaped}\\n, 1", f"a table\n{escaped}"]
