"""The page of the suite, from rows that were never measured."""

import json

import pytest

from benchmarks import page
from benchmarks.figures import figures
from benchmarks.rows import Row
from benchmarks.side_by_side import Contender

CONTENDERS = {
    "ours": Contender("ours", "ours", True),
    "int8": Contender("ours, int8", "ours", True, precision="int8"),
    "best": Contender("torch", "torch", True),
    "installed": Contender("torch, as installed", "torch", False),
    "bfloat16": Contender("torch, bfloat16", "torch", True, precision="bfloat16"),
}
COST = {
    "ratio": 1.052, "operations": 1.0504, "operations_naive": 1.075, "alternations": 16,
    "spread": [1.04, 1.05, 1.052, 1.06, 1.08], "tokens_per_second": {"mmlm + tlm": 400.0, "full": 380.2},
    "peak_gb": 7.44,
}  # fmt: skip
MACHINE = {"cpu": "Some CPU", "cores": 2, "instructions": ["avx2"], "memory_gb": 25.3, "system": "Linux"}


def record(result, **more):
    return {
        "commit": "abc1234", "script": "step.py", "flags": ["--rounds=2"], "date": "2026-01-02",
        "minutes": 12.4, "load": 0.1, "machine": MACHINE,
        "versions": {".venv": {"python": "3.11", "numpy": "2"}},
        "result": result, **more,
    }  # fmt: skip


def result(ours: float, unit: str = "tokens/s", **more):
    """Seconds of ours beside 2 of the peer and 4 of the peer as installed."""
    seconds = {"ours": ours, "int8": ours / 2, "best": 2.0, "installed": 4.0, "bfloat16": 0.5}
    runs = {name: [{"seconds": value, "peak": 4e9}] for name, value in seconds.items()}
    return figures(runs, CONTENDERS, 2000, unit) | more


@pytest.fixture
def records(monkeypatch):
    rows = {
        "fast": Row("A fast step", "What it compares.", "step.py"),
        "slow": Row("A slow step", "As above.", "step.py", why="It reads twice."),
        "strange": Row("Slow without a reason", "As above.", "step.py"),
        "cost": Row("A cost", "Ours alone.", "cost.py"),
    }
    monkeypatch.setattr(page, "ROWS", rows)
    return {
        "cost": record(COST),
        "fast": record(result(1.0, left_out=["newest torch"])),
        "slow": record(result(2.5, "s")),
        "strange": record(result(4.0), commit="def5678"),
    }


def test_tables(records):
    text = page.to_markdown({name: records[name] for name in page.ROWS})
    lines = text.splitlines()
    assert lines[0] == "Measured on 2 cores of Some CPU (avx2), 25 GB, Linux."
    assert "- `.venv`: python 3.11, numpy 2" in lines
    # The fastest of ours in float32, the fastest peer in float32, and the peer as installed.
    assert "| A fast step | 2,000 tokens/s | torch: 1,000 | **2.00** | 2.00 to 2.00 | 4.00 | 1.00 |" in lines
    assert "| A slow step | 2.5 s | torch: 2 | **0.80** | 0.80 to 0.80 | 1.60 | 0.40 |" in lines
    assert "| ours | 2,000 | 2,000 | 2,000 | 4.00 |  |" in lines
    assert "| ours, int8 (another precision) | 4,000 | 4,000 | 4,000 | 4.00 |  |" in lines
    assert "| torch, as installed | 500 | 500 | 500 | 4.00 | 4.00 times |" in lines
    assert "| torch, bfloat16 (another precision) | 4,000 | 4,000 | 4,000 | 4.00 | 0.50 times |" in lines
    assert "Not run: newest torch." in lines
    assert (
        "`python benchmarks/step.py --rounds=2` (12 minutes, 2026-01-02, commit abc1234, load before 0.1)"
        in lines
    )


def test_where_a_peer_is_faster_the_page_says_why(records):
    text = page.to_markdown({name: records[name] for name in page.ROWS})
    fast, slow, strange, _ = (part for part in text.split("### ")[1:])
    assert "A peer is faster" not in fast
    assert "**A peer is faster.** It reads twice." in slow
    assert "**A peer is faster.** The reason has not been found." in strange


def test_the_cost_of_the_strategy(records):
    text = page.to_markdown({"cost": records["cost"]})
    assert "takes 1.052 times the time for a token (median of 16 alternations, 1.040 to 1.080)" in text
    assert "by the count of operations 1.050, in the naive form 1.075. Peak memory 7.4 GB." in text
    assert "| full | 380.2 |" in text


def test_what_people_wrote_stays(tmp_path, records):
    path = tmp_path / "performance.md"
    path.write_text(f"# Speed\n\nAbove.\n\n{page.BEGIN}\nold figures\n{page.END}\n\n## Below\n")
    assert page.write_page(tmp_path, records) == path
    text = path.read_text()
    assert text.startswith(f"# Speed\n\nAbove.\n\n{page.BEGIN}\n") and "old figures" not in text
    assert text.endswith(f"\n{page.END}\n\n## Below\n")
    page.write_page(tmp_path, records)
    assert path.read_text() == text
    assert (tmp_path / "images/performance.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "performance.json").read_text())
    assert list(data) == ["fast", "slow", "strange", "cost"] and data["fast"]["result"]["ratio"] == 2.0


def test_a_page_that_is_not_there_yet(tmp_path, records):
    page.write_page(tmp_path, {"cost": records["cost"]})
    assert (tmp_path / "performance.md").read_text().startswith(f"# Speed\n\n{page.BEGIN}\n")
