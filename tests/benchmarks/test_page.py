"""The page of the benchmarks, from rows that were never measured."""

import json

import pytest

from benchmarks import page
from benchmarks.contenders import CONTENDERS as CONTENDERS_OF_ALL
from benchmarks.contenders import PARITY, Contender
from benchmarks.figures import figures
from utils.errors import UserError

CONTENDERS = {
    "ours": Contender("ours"),
    "int8": Contender("ours, int8", precision="int8"),
    "best": Contender("torch", environment=PARITY),
    "grouped": Contender("torch, grouped", environment=PARITY, grouped=True),
}


@pytest.fixture
def rows():
    """A row with the contenders of a step of 2,000 tokens.

    Of the contenders ours takes 1 s, in int8 0.5 s; the peer takes 2 s, grouped 3 s.
    """
    seconds = {"ours": 1.0, "int8": 0.5, "best": 2.0, "grouped": 3.0}
    results = {name: {"seconds": [value], "peak": 4e9} for name, value in seconds.items()}
    return {
        "fast": {
            "title": "A fast step",
            "what": "What it compares.",
            "command": "step.py",
            "minutes": 12.4,
            "result": figures(results, CONTENDERS, 2000, "tokens/s"),
            "conditions": "Measured here.",
        }
    }


def test_tables(rows):
    """A line of the summary ends with the ratios to the peer, grouped, in any precision.

    The last one is of the fastest of ours, which takes 0.5 s, to the fastest peer, which takes 2 s.
    """
    # A speed of another moment does not change the ratios, which were measured in turns.
    rows["fast"]["result"]["contenders"]["best"]["value"] = 1500
    lines = page.to_markdown(rows).splitlines()
    for line in (
        "| A fast step | 2,000 tokens/s | 4.00 | torch | 4.00 | **2.00** | 3.00 | 4.00 |",
        "| ours | 2,000 | 4.00 |  |",
        "| ours, int8 (another precision) | 4,000 | 4.00 |  |",
        "| torch, grouped | 666.7 | 4.00 | 3.00 times |",
        "What it compares. `--rows fast`: 12 min.",
    ):
        assert line in lines


def test_each_machine_has_its_table(rows):
    rows["slow"] = {**rows["fast"], "title": "A slow step", "conditions": "Measured there."}
    tables, _, _ = page.to_markdown(rows).partition("### A fast step")
    here, _, there = tables.partition("Measured there.")
    assert here.startswith("Measured here.") and "| A fast step |" in here and "| A slow step |" in there
    assert "| A slow step |" not in here and "| A fast step |" not in there


def test_command_line(rows, tmp_path, monkeypatch, capsys):
    """--rows names the row that is measured, with $DATA in its command. The others and the text stay."""
    docs = tmp_path / "docs"
    (tmp_path / "benchmarks").mkdir()
    docs.mkdir()
    monkeypatch.setattr(page, "DOCS", docs)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setenv("DATA", "a_table")
    script = tmp_path / "benchmarks" / "step.py"
    last_line = json.dumps(rows["fast"]["result"])
    script.write_text(f"import sys\nprint(sys.argv[1])\nprint({last_line!r})")
    new = {"title": "Another step", "what": "What.", "command": "step.py $DATA"}
    (docs / page.DATA).write_text(json.dumps({"new": new, **rows}))
    (docs / page.PAGE).write_text(f"# Ours\n\nbefore\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    monkeypatch.setattr(page.sys, "argv", ["page.py", "--rows=new"])
    page.main()
    assert "    a_table" in capsys.readouterr().out
    written = json.loads((docs / page.DATA).read_text())
    assert written["fast"] == rows["fast"] and written["new"]["result"] == rows["fast"]["result"]
    assert written["new"]["conditions"].startswith("Measured on ")
    text = (docs / page.PAGE).read_text()
    assert text.startswith("# Ours\n\nbefore\n") and text.endswith("\nafter\n") and "old" not in text
    assert "### Another step" in text
    script.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"step\.py .* ended with 3"):
        page.main()
    monkeypatch.setattr(page.sys, "argv", ["page.py", "--rows=three"])
    with pytest.raises(UserError, match="--rows: no three; there are new, fast"):
        page.main()


def test_the_page_is_that_of_its_data():
    rows = json.loads((page.DOCS / page.DATA).read_text())
    text = (page.DOCS / page.PAGE).read_text()
    assert f"{page.BEGIN}\n\n{page.to_markdown(rows)}\n{page.END}" in text


def test_the_rows_name_programs_and_contenders_that_are_there():
    for row in json.loads((page.ROOT / "docs" / page.DATA).read_text()).values():
        program, _, flags = row["command"].partition(" ")
        assert (page.ROOT / "benchmarks" / program).is_file()
        _, _, names = flags.partition("--contenders ")
        assert set(names.split()) <= CONTENDERS_OF_ALL.keys()
        for name, contender in row["result"]["contenders"].items():
            assert contender["label"] == CONTENDERS_OF_ALL[name].label
