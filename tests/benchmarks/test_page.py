"""The page of the benchmarks, from rows that were never measured."""

import json

import pytest

from benchmarks import page
from benchmarks.contenders import CONTENDERS as CONTENDERS_OF_ALL
from benchmarks.contenders import PARITY, Contender
from benchmarks.figures import figures
from utils.errors import UserError

CONTENDERS = {
    "ours": Contender("ours", is_ours=True),
    "int8": Contender("ours, int8", is_ours=True, precision="int8"),
    "best": Contender("torch", environment=PARITY),
    "grouped": Contender("torch, grouped", environment=PARITY, counts=False),
    "installed": Contender("torch, as installed", environment=PARITY, tuned=False),
}
# What benchmarks/pretrain_cost.py prints.
COST = {
    "ratio": 1.052,
    "alternations": 16,
    "spread": [1.04, 1.05, 1.052, 1.06, 1.08],
    "tokens_per_second": {"mmlm + tlm": 400.0, "full": 380.2},
    "peak_gb": 7.44,
}
MACHINE = {"cpu": "Some CPU", "cores": 2, "instructions": ["avx2"], "memory_gb": 25.3, "system": "Linux"}


def row(title: str, command: str, **more) -> dict:
    """A row of the JSON, with `more`: its result."""
    return {
        "title": title,
        "what": "What it compares.",
        "command": command,
        "commit": "abc1234",
        "date": "2026-01-02",
        "minutes": 12.4,
        "machine": MACHINE,
        "versions": {".venv": {"python": "3.11", "numpy": "2"}},
        **more,
    }


@pytest.fixture
def rows():
    """Two rows: the contenders of a step of 2,000 tokens, and the cost of a strategy.

    Of the contenders ours takes 1 s, in int8 0.5 s; the peer takes 2 s, grouped 3 s, as installed 4 s.
    """
    seconds = {"ours": 1.0, "int8": 0.5, "best": 2.0, "grouped": 3.0, "installed": 4.0}
    runs = {name: [{"seconds": [value], "peak": 4e9}] for name, value in seconds.items()}
    fast = figures(runs, CONTENDERS, 2000, "tokens/s") | {"left_out": ["newest torch"]}
    return {
        "fast": row("A fast step", "step.py --rounds=2", result=fast),
        "cost": row("A cost", "cost.py", result=COST),
    }


def test_tables(rows):
    """A line of the summary ends with the ratios to the peer, grouped, as installed, in any precision.

    The last one is of the fastest of ours, which takes 0.5 s, to the fastest peer, which takes 2 s.
    """
    # A speed of another moment does not change the ratios, which were measured in turns.
    rows["fast"]["result"]["contenders"]["best"]["value"] = 1500
    lines = page.to_markdown(rows).splitlines()
    conditions = "Measured on 2026-01-02, commit abc1234, on 2 cores of Some CPU (avx2), 25 GB, Linux."
    assert lines[0] == conditions
    for line in (
        "- `.venv`: python 3.11, numpy 2",
        "| A fast step | 2,000 tokens/s | torch | **2.00** | 3.00 | 4.00 | 4.00 |",
        "| ours | 2,000 | 4.00 |  |",
        "| ours, int8 (another precision) | 4,000 | 4.00 |  |",
        "| torch, as installed | 500 | 4.00 | 4.00 times |",
        "Not run: newest torch.",
        "What it compares. `--rows fast`: 12 min.",
        "| full | 380.2 |",
    ):
        assert line in lines
    assert any("takes 1.052 times the time for a token (median of 16" in line for line in lines)


def test_each_machine_has_its_table(rows):
    """Also if the machines differ only in the model of their CPU."""
    other = {**MACHINE, "cpu_model": "cpu family 25, model 17"}
    rows["slow"] = {**rows["fast"], "title": "A slow step", "machine": other}
    tables, _, _ = page.to_markdown(rows).partition("### A fast step")
    table, _, table_of_other = tables.partition("Some CPU, cpu family 25")
    assert "| A fast step |" in table and "| A slow step |" in table_of_other
    assert "| A slow step |" not in table and "| A fast step |" not in table_of_other


def test_command_line(rows, tmp_path, monkeypatch, capsys):
    """--rows names the row that is measured; the others stay, and the text around the figures."""
    script = tmp_path / "step.py"
    last_line = json.dumps(rows["fast"]["result"])
    script.write_text(f"print('a table')\nprint({last_line!r})")
    new = {"title": "Another step", "what": "What.", "command": f"{script} --rounds=1"}
    (tmp_path / page.DATA).write_text(json.dumps({"new": new, "cost": rows["cost"]}))
    (tmp_path / page.PAGE).write_text(f"# Ours\n\nbefore\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    monkeypatch.setattr(page.sys, "argv", ["page.py", f"--docs={tmp_path}", "--rows=new"])
    page.main()
    assert "    a table" in capsys.readouterr().out
    written = json.loads((tmp_path / page.DATA).read_text())
    assert written["cost"] == rows["cost"] and written["new"]["result"] == rows["fast"]["result"]
    assert written["new"]["machine"]["cores"] >= 1 and written["new"]["commit"]
    text = (tmp_path / page.PAGE).read_text()
    assert text.startswith("# Ours\n\nbefore\n") and text.endswith("\nafter\n") and "old" not in text
    assert "### Another step" in text
    script.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"step\.py ended with 3"):
        page.main()
    monkeypatch.setattr(page.sys, "argv", ["page.py", f"--docs={tmp_path}", "--rows=three"])
    with pytest.raises(UserError, match="--rows: no three; there are new, cost"):
        page.main()


def test_the_page_is_that_of_its_data(tmp_path):
    docs = page.ROOT / "docs"
    rows = json.loads((docs / page.DATA).read_text())
    (tmp_path / page.PAGE).write_text((docs / page.PAGE).read_text())
    page.write_page(tmp_path, rows)
    assert (tmp_path / page.PAGE).read_text() == (docs / page.PAGE).read_text()


def test_the_rows_name_programs_and_contenders_that_are_there():
    for row in json.loads((page.ROOT / "docs" / page.DATA).read_text()).values():
        program, _, flags = row["command"].partition(" ")
        assert (page.ROOT / "benchmarks" / program).is_file()
        _, _, names = flags.partition("--contenders ")
        assert set(names.split()) <= CONTENDERS_OF_ALL.keys()
        for name, contender in row["result"].get("contenders", {}).items():
            assert contender["label"] == CONTENDERS_OF_ALL[name].label


def test_the_json_does_not_hold_the_path_of_the_data(monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    script = "import json, sys; print(json.dumps({'data': sys.argv[1]}))"
    (tmp_path / "benchmarks/some.py").write_text(script)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    assert page.measure("some.py $DATA/nli/train-en.tsv")["result"] == {"data": "$DATA/nli/train-en.tsv"}
