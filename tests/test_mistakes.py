"""Mistakes of users: each ends with code 2 and one line that names its location.

Nearly all rows of mistakes.tsv are by somebody who had read README, docs/ and --help, and not the code:

- the files that the command finds, by their names. "@kind" copies a folder of `locations`, null removes a
  file, "-> name" is a symbolic link, and a lone surrogate is a byte that is no UTF-8
- the command, in which {kind} is a folder of `locations`; what is before && succeeds
- what the line names, between semicolons. "my.csv:3" is line 3 of a file, however that is written
"""

import csv
import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest

from ernie_m import __main__ as cli
from tests import toys
from tests.launching import call_main, one_error

with open(Path(__file__).with_name("mistakes.tsv"), encoding="utf-8") as table:
    _, *ROWS = csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)


@pytest.fixture(scope="module")
def locations(tmp_path_factory):
    """A folder for each kind of model, and a corpus."""
    folder = toys.make_models(tmp_path_factory.mktemp("mistakes"))
    return {kind: folder / kind for kind in toys.SETTINGS} | {"corpus": toys.make_small_corpus(folder)}


@pytest.mark.parametrize(("files", "command", "names"), ROWS, ids=range(2, len(ROWS) + 2))
def test_a_mistake_is_one_line(locations, in_tmp_path, capsys, files, command, names):
    for name, text in json.loads(files).items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        elif text.startswith("@"):
            shutil.copytree(locations[text[1:]], path)
        elif text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
    *before, last = (
        shlex.split(line.removeprefix("ernie-m ")) for line in command.format(**locations).split(" && ")
    )
    for line in before:
        call_main(cli, line)
    error = one_error(partial(call_main, cli, last), capsys)
    for name in names.split("; "):
        location = re.sub(r"(\\\.\w+):(\d+)$", r"\1\\D{1,9}\2\\b", re.escape(name))
        assert re.search(location, error), error


@pytest.mark.parametrize(
    "line",
    ["build_corpus --output", "run_pretrain --data.corpus", "run_classifier --train_set", "fit", "launch"],
)
def test_an_argument_that_is_not_utf8(line, capsys):
    """It could not be written to a manifest, nor pasted from a printed command."""
    words = [*line.split(), "a\udcff"]
    assert r"a\udcff: the name " in one_error(partial(call_main, cli, words), capsys)
