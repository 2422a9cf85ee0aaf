"""What reaches a terminal: control characters of files, which could move its cursor, are escaped."""

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.commands import convert, predict
from ernie_m.data import prepare
from ernie_m.utils.logging import logger
from tests.helpers.checkpoints import changed_copy
from tests.launching import call_main
from tests.toys import sentences, write_lines

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
