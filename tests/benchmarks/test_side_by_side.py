"""Contenders in processes: who runs, who takes turns, who is left out; and the figures by hand."""

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side
from benchmarks.contenders import PARITY, Contender
from benchmarks.figures import figures
from benchmarks.side_by_side import choose, run_all
from utils.runtime import read_cpu

ROOT = Path(__file__).resolve().parents[2]
# Contenders that run in this environment. Their work is that of WORKER.
OURS = Contender("ours")
PEER = Contender("peer", environment=sys.prefix)
CONTENDERS_HERE = {"ours": OURS, "peer": PEER}
# A benchmark of three steps. It writes its turns to the file ORDER, as NAME and the step; "broken" fails in
# its second step. Each step "takes" as many seconds as the contender's name has letters.
WORKER = f"""
import os, sys, json; sys.path.insert(0, {str(ROOT)!r})
assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
from benchmarks.side_by_side import wait_for_turn
name = sys.argv[1].removeprefix("--worker=")
for step in range(3):
    wait_for_turn()
    with open(ORDER, "a") as file: file.write(NAME + str(step) + " ")
    if name == "broken" and step: sys.exit("no such thing")
print("chatter")
print(json.dumps({{"seconds": [len(name)] * 3, "peak": 1, "check": name == "other"}}))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """checkout(prefix): a folder with the benchmark WORKER, whose turns are written with the prefix."""
    monkeypatch.setattr(side_by_side, "REST", 0.0)

    def make(prefix: str = "") -> Path:
        script = tmp_path / (prefix or "here") / "benchmarks" / "row.py"
        script.parent.mkdir(parents=True)
        order = repr(str(tmp_path / "order"))
        script.write_text(WORKER.replace("ORDER", order).replace("NAME", f"{prefix!r} + name"))
        (script.parents[1] / "scripts").mkdir()
        (script.parents[1] / "scripts" / "env.sh").write_text("")
        monkeypatch.setattr(sys, "argv", [str(script)])
        return script.parents[1]

    return make


def turns(tmp_path) -> list[str]:
    """The steps in the order in which they were done, such as "ours0"."""
    return (tmp_path / "order").read_text().split()


TOLD = {"seconds": [4] * 3, "peak": 1, "check": False}  # the names have four letters


def test_one_after_the_other(checkout, tmp_path):
    checkout()
    assert run_all(CONTENDERS_HERE, []) == {"ours": TOLD, "peer": TOLD}
    assert turns(tmp_path) == ["ours0", "ours1", "ours2", "peer0", "peer1", "peer2"]


@pytest.mark.parametrize(
    "name, message",
    [("broken", "broken ended with 1:\nno such thing"), ("other", "did not do the same work")],
)
def test_a_contender_that_fails_or_does_other_work_ends_the_run(checkout, name, message):
    checkout()
    with pytest.raises(SystemExit, match=message):
        run_all({"ours": OURS, name: PEER}, [])


def test_who_cannot_run_here_is_left_out(capsys, monkeypatch):
    """A contender without an environment, or that needs what the CPU lacks."""
    without_bfloat16 = dataclasses.replace(read_cpu(), flags=frozenset({"avx2"}))
    monkeypatch.setattr(side_by_side, "read_cpu", lambda: without_bfloat16)
    absent = dataclasses.replace(PEER, environment=".venv-absent")
    in_bfloat16 = dataclasses.replace(OURS, precision="bfloat16")
    here = CONTENDERS_HERE | {"absent": absent, "in_bfloat16": in_bfloat16}
    monkeypatch.setattr(side_by_side, "CONTENDERS", here)
    assert choose(here) == CONTENDERS_HERE
    output = capsys.readouterr().out
    assert "absent is left out: no " in output
    assert "in_bfloat16 is left out: this CPU" in output


def test_taking_turns(checkout, tmp_path):
    """Ours runs alone, then with each other contender, a step each.

    The other's result has ours "beside" it.
    """
    checkout()
    results = run_all(CONTENDERS_HERE, [], in_turns=CONTENDERS_HERE)
    assert results == {"ours": TOLD, "peer": TOLD | {"beside": [4] * 3}}
    assert turns(tmp_path)[3:9] == ["ours0", "peer0", "ours1", "peer1", "ours2", "peer2"]


@pytest.mark.parametrize("named", ["", "benchmarks/row.py"])
def test_another_revision_runs_its_own_benchmark(checkout, tmp_path, monkeypatch, named):
    """The peer runs alone, the other revision in turns with ours.

    `named`: what of a checkout --against names.
    """
    old = checkout("old-")
    checkout()
    monkeypatch.setattr(side_by_side, "CONTENDERS", CONTENDERS_HERE)
    chosen = choose(["ours", "peer"], old / named)
    results = run_all(chosen, [], in_turns=["previous"])
    assert turns(tmp_path) == [
        *("ours0", "ours1", "ours2", "peer0", "peer1", "peer2"),
        *("ours0", "old-ours0", "ours1", "old-ours1", "ours2", "old-ours2"),
    ]
    assert "beside" in results["previous"] and "beside" not in results["peer"]
    with pytest.raises(SystemExit, match="is not there; name a checkout of this project"):
        choose(["ours"], tmp_path)


# For tables of results that are given.
CONTENDERS = {
    "ours": Contender("ours"),
    "ours_bfloat16": Contender("ours, bfloat16", precision="bfloat16"),
    "best": Contender("transformers", environment=PARITY),
    "slow": Contender("transformers, eager", environment=PARITY),
    "bfloat16": Contender("transformers, bfloat16", environment=PARITY, precision="bfloat16"),
    "grouped": Contender("transformers, grouped", environment=PARITY, grouped=True),
    "previous": Contender("ours in old"),
}


def result(*seconds: float, peak: float = 4.0, **more) -> dict:
    """What a worker tells. `peak`: GB."""
    return {"seconds": list(seconds), "peak": peak * 1e9, **more}


def test_speeds_and_ratios():
    """The median time of ours is 2 s."""
    results = {
        "ours": result(1.0, 2.0, 9.0, peak=6.0),
        "ours_bfloat16": result(0.5),
        "best": result(8.0, beside=[4.0]),
        "slow": result(10.0, 12.0),
        "bfloat16": result(0.1),
        "grouped": result(2.0),
    }
    of_all = figures(results, CONTENDERS, amount=2048, unit="tokens/s")
    row = of_all["contenders"]["ours"]
    assert (row["value"], row["peak_gb"]) == (1024, 6.0)  # 2048 tokens in 2 s
    assert times(of_all) == {"best": 2.0, "slow": 5.5, "bfloat16": 0.05, "grouped": 1.0}
    # The fastest of the same precision and with the same batches.
    assert of_all["fastest_peer"] == "best"


def times(of_all: dict) -> dict[str, float]:
    """How many times as fast ours is as each contender that is not ours."""
    return {name: row["times"] for name, row in of_all["contenders"].items() if "times" in row}


def test_an_earlier_revision():
    assert "fastest_peer" not in figures({"ours": result(1.0)}, CONTENDERS, 1, "tokens/s")
    runs = {"ours": result(2.0), "previous": result(3.0)}
    of_all = figures(runs, CONTENDERS, 1, "tokens/s")
    assert (times(of_all), of_all["fastest_peer"]) == ({"previous": 1.5}, "previous")
    # If there is a peer, it is the fastest peer.
    of_all = figures(runs | {"best": result(8.0)}, CONTENDERS, 1, "tokens/s")
    assert (times(of_all), of_all["fastest_peer"]) == ({"previous": 1.5, "best": 4.0}, "best")


def test_other_precisions_are_compared_if_ours_has_no_other():
    runs = {"ours_bfloat16": result(2.0), "bfloat16": result(3.0), "best": result(8.0)}
    assert figures(runs, CONTENDERS, 1, "tokens/s")["fastest_peer"] == "bfloat16"
