"""The suite: what is finished is kept, what fails is left for the next time, nothing stays behind."""

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import finetune_step, page, suite
from benchmarks.rows import ROWS, Row
from utils.errors import UserError

FAKE = """
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
with open(folder / "order", "a") as file: file.write(" ".join(sys.argv[1:]) + "|")
print("a table")
if (folder / f"broken{sys.argv[1]}").exists(): sys.exit("no such thing")
print(json.dumps({"unit": "tokens/s", "contenders": {}, "flags": sys.argv[1:]}))
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Two rows whose benchmark notes that it ran."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    rows = {
        name: Row(f"Row {name}", "What it compares.", str(script), (name,), (name, "quick"))
        for name in ("one", "two")
    }
    for module in (suite, page):
        monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(suite, "current_commit", lambda: "abc")
    monkeypatch.setattr(suite, "versions", lambda: {".venv": {"python": "3.11.7"}})
    return rows


@pytest.fixture
def ran(tmp_path):
    """What has run since it was asked last."""

    def ran() -> list[str]:
        path = tmp_path / "order"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text.split("|")[:-1]

    return ran


def test_an_interrupted_suite_goes_on(tmp_path, rows, ran, monkeypatch, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    broken = tmp_path / "brokentwo"
    broken.touch()
    assert suite.run_rows(rows, folder, quick=False, again=False) == ["two"]
    assert ran() == ["one", "two"] and list(suite.finished(folder)) == ["one"]
    assert "no such thing" in capsys.readouterr().out
    broken.unlink()
    assert suite.run_rows(rows, folder, quick=False, again=False) == [] and ran() == ["two"]
    assert "one: finished before" in capsys.readouterr().out
    assert suite.run_rows(rows, folder, quick=False, again=False) == [] and ran() == []
    assert suite.run_rows(rows, folder, quick=False, again=True) == [] and ran() == ["one", "two"]
    suite.run_rows(rows, folder, quick=True, again=False)
    assert ran() == ["one quick", "two quick"]  # other flags
    monkeypatch.setattr(suite, "current_commit", lambda: "def")
    suite.run_rows({"two": rows["two"]}, folder, quick=True, again=False)
    assert ran() == ["two quick"]  # another commit
    kept = json.loads((folder / "two.json").read_text())
    assert kept["result"]["flags"] == ["two", "quick"] == kept["flags"] and kept["commit"] == "def"
    assert kept["machine"]["cores"] >= 1 and kept["versions"][".venv"]["python"] == "3.11.7"
    assert "a table" in (folder / "two.log").read_text()


def test_a_row_of_real_data_is_left_out_without_it(tmp_path, rows, ran, monkeypatch, capsys):
    wanted = {"two": dataclasses.replace(rows["two"], data=True)}
    monkeypatch.delenv("DATA", raising=False)
    assert suite.run_rows(wanted, tmp_path, quick=False, again=False) == [] and ran() == []
    assert "two: left out; set DATA" in capsys.readouterr().out
    monkeypatch.setenv("DATA", str(tmp_path))
    assert suite.run_rows(wanted, tmp_path, quick=False, again=False) == [] and ran() == ["two"]


def test_command_line(tmp_path, rows, ran, monkeypatch, capsys):
    folder = tmp_path / "out"
    monkeypatch.setattr(suite.sys, "argv", ["suite.py", "--quick", f"--folder={folder}", "--rows=two"])
    suite.main()
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["rows"]["two"]["flags"] == ["two", "quick"]
    assert "    a table" in lines and ran() == ["two quick"]
    assert "### Row two" in (folder / "performance.md").read_text()
    assert "### Row one" not in (folder / "performance.md").read_text()
    monkeypatch.setattr(suite.sys, "argv", ["suite.py", "--quick", f"--folder={folder}", "--rows=three"])
    with pytest.raises(UserError, match="--rows: no three; there are one, two"):
        suite.main()
    (tmp_path / "brokenone").touch()
    monkeypatch.setattr(suite.sys, "argv", ["suite.py", "--quick", f"--folder={folder}"])
    with pytest.raises(UserError, match="not finished: one; the logs are in"):
        suite.main()
    assert "### Row two" in (folder / "performance.md").read_text()


def test_an_interruption_ends_the_benchmark_and_its_workers(tmp_path, monkeypatch):
    script = tmp_path / "sleeps.py"
    script.write_text(
        "import subprocess\n"
        "worker = subprocess.Popen(['sleep', '60'])\n"
        "print(worker.pid, flush=True)\n"
        "print('more', flush=True)\n"
        "worker.wait()\n"
    )
    shown = []

    def interrupted(line, **_):
        shown.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "print", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        suite.run_row(str(script), (), tmp_path / "log")
    pid = int(shown[0])
    for _ in range(100):  # nobody has reaped it yet: it may stay as a zombie for a moment
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        if not state or state.startswith("Z"):
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the worker lived on")


def test_a_benchmark_that_prints_no_json_has_failed(tmp_path, capsys):
    script = tmp_path / "silent.py"
    script.write_text("print('nothing measured')")
    assert suite.run_row(str(script), (), tmp_path / "log") is None
    assert "silent.py failed" in capsys.readouterr().out


def test_commit_and_machine(tmp_path, monkeypatch):
    machine = suite.machine()
    assert machine["cores"] >= 1 and machine["memory_gb"] > 0 and machine["cpu"]
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = suite.current_commit()
    assert len(head) >= 7 and " " not in head
    (tmp_path / "notes.md").write_text("no code")
    assert suite.current_commit() == head
    (tmp_path / "code.py").write_text("2\n")
    assert suite.current_commit().startswith(f"{head} with changes ")


@pytest.mark.parametrize("name", ROWS)
def test_rows_name_what_is_there(name):
    row = ROWS[name]
    assert (Path(suite.ROOT) / "benchmarks" / row.script).is_file() and row.quick
    for flag in (*row.flags, *row.quick):
        if row.script == "finetune_step.py" and flag.startswith("--contenders="):
            assert set(flag.partition("=")[2].split(",")) <= set(finetune_step.CONTENDERS)
