"""Contenders in processes: who runs, who takes turns, who is left out; and the figures by hand."""

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side
from benchmarks.contenders import PARITY, Contender
from benchmarks.figures import figures
from benchmarks.side_by_side import choose, run_rounds
from utils.runtime import read_cpu

ROOT = Path(__file__).resolve().parents[2]
# Contenders that run in this environment. Their work is that of WORKER.
OURS = Contender("ours", environment=sys.prefix, is_ours=True, tuned=False)
PEER = Contender("peer", environment=sys.prefix, tuned=False)
CONTENDERS_HERE = {"ours": OURS, "peer": PEER, "broken": PEER}
# A benchmark of three steps. It writes its turns to the file ORDER, as NAME and the step; "broken" fails in
# its second step. Each step "takes" as many seconds as the contender's name has letters.
WORKER = f"""
import sys, json; sys.path.insert(0, {str(ROOT)!r})
from benchmarks.side_by_side import wait_for_turn
name = sys.argv[1].removeprefix("--worker=")
for step in range(3):
    wait_for_turn()
    with open(ORDER, "a") as file: file.write(NAME + str(step) + " ")
    if name == "broken" and step: sys.exit("no such thing")
print("chatter")
print(json.dumps({{"seconds": [len(name)] * 3, "peak": 1}}))
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


def test_rounds_one_after_the_other(checkout, tmp_path, capsys, monkeypatch):
    """A contender that fails, has no environment, or needs what the CPU lacks, is left out and named."""
    checkout()
    without_bfloat16 = dataclasses.replace(read_cpu(), flags=frozenset({"avx2"}))
    monkeypatch.setattr(side_by_side, "read_cpu", lambda: without_bfloat16)
    absent = dataclasses.replace(PEER, environment=".venv-absent")
    in_bfloat16 = dataclasses.replace(OURS, precision="bfloat16")
    runs = run_rounds(CONTENDERS_HERE | {"absent": absent, "in_bfloat16": in_bfloat16}, 2, [])
    of_a_round = {"seconds": [4] * 3, "peak": 1}  # "ours" and "peer" have four letters
    assert runs == {"ours": [of_a_round] * 2, "peer": [of_a_round] * 2}
    first_round = "ours0 ours1 ours2 peer0 peer1 peer2 broken0 broken1"
    second_round = "ours0 ours1 ours2 peer0 peer1 peer2"
    assert turns(tmp_path) == [*first_round.split(), *second_round.split()]
    output = capsys.readouterr().out
    assert "broken is left out: it ended with 1:\nno such thing" in output
    assert "absent is left out: no " in output
    assert "in_bfloat16 is left out: this CPU" in output


def test_taking_turns(checkout, tmp_path, capsys):
    """Ours runs alone, then with each other contender, a step each.

    The other's result has ours "beside" it.
    """
    checkout()
    runs = run_rounds(CONTENDERS_HERE, 1, [], in_turns=CONTENDERS_HERE)
    assert runs["peer"] == [{"seconds": [4] * 3, "peak": 1, "beside": [4] * 3}]
    assert runs["ours"] == [{"seconds": [4] * 3, "peak": 1}]
    assert turns(tmp_path)[3:9] == ["ours0", "peer0", "ours1", "peer1", "ours2", "peer2"]
    assert "broken is left out" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["", "benchmarks/row.py"])
def test_another_revision_runs_its_own_benchmark(checkout, tmp_path, monkeypatch, named):
    """The peer runs alone, the other revision in turns with ours.

    `named`: what of a checkout --against names.
    """
    old = checkout("old-")
    checkout()
    monkeypatch.setattr(side_by_side, "CONTENDERS", CONTENDERS_HERE)
    assert list(choose(CONTENDERS_HERE, None, old / named)) == ["ours", "previous"]  # peers only if named
    chosen = choose(CONTENDERS_HERE, ["ours", "peer"], old / named)
    runs = run_rounds(chosen, 1, [], in_turns=["previous"])
    assert turns(tmp_path) == [
        *("ours0", "ours1", "ours2", "peer0", "peer1", "peer2"),
        *("ours0", "old-ours0", "ours1", "old-ours1", "ours2", "old-ours2"),
    ]
    assert "beside" in runs["previous"][0] and "beside" not in runs["peer"][0]
    with pytest.raises(SystemExit, match="is not there; name a checkout of this project"):
        choose(CONTENDERS_HERE, None, tmp_path)


def test_other_work_ends_the_run():
    same = {"ours": [{"check": [3, 40]}], "peer": [{"check": [3, 40]}], "unchecked": [{}], "not yet": []}
    side_by_side.check_same_work(same)
    with pytest.raises(SystemExit, match="did not do the same work"):
        side_by_side.check_same_work(same | {"short": [{"check": [3, 39]}]})
    with pytest.raises(SystemExit, match="the same work, device"):
        side_by_side.check_same_work({"ours": [{"device": "cpu"}], "peer": [{"device": "gpu"}]})


# For tables of results that are given.
CONTENDERS = {
    "ours": Contender("ours", is_ours=True),
    "ours_int8": Contender("ours, int8", is_ours=True, precision="int8"),
    "best": Contender("transformers", environment=PARITY),
    "installed": Contender("transformers, as installed", environment=PARITY, tuned=False),
    "bfloat16": Contender("transformers, bfloat16", environment=PARITY, precision="bfloat16"),
    "grouped": Contender("transformers, grouped", environment=PARITY, counts=False),
    "previous": Contender("ours in old", is_ours=True),
}


def result(*seconds: float, peak: float = 4.0, **more) -> dict:
    """What a worker tells after a round. `peak`: GB."""
    return {"seconds": list(seconds), "peak": peak * 1e9, **more}


def test_speeds_and_ratios():
    """Two rounds, in which the median time of ours is 2 s."""
    runs = {
        "ours": [result(1.0, 2.0, 9.0, peak=6.0), result(2.0, 2.0)],
        "ours_int8": [result(0.5)] * 2,
        "best": [result(8.0, beside=[4.0]), result(9.0, beside=[3.0])],  # ratios 2 and 3
        "installed": [result(10.0), result(12.0)],  # ratios 5 and 6
        "bfloat16": [result(0.1)] * 2,
        "grouped": [result(2.0)] * 2,
    }
    of_all = figures(runs, CONTENDERS, amount=2048, unit="tokens/s")
    row = of_all["contenders"]["ours"]
    # 2048 tokens in 2 s, in 9 s and in 1 s.
    assert (row["value"], row["least"], row["most"]) == (1024, 227.6, 2048)
    assert (row["peak_gb"], row["peer"]) == (6.0, False)
    # The medians of the ratios of both rounds, such as 2 and 3.
    assert of_all["ratio_to_peer"] == {"best": 2.5, "installed": 5.5, "bfloat16": 0.05, "grouped": 1.0}
    # `ratio` is that to the fastest peer of the same precision and with the same batches.
    assert (of_all["ratio"], of_all["fastest_peer"]) == (2.5, "best")


def test_an_earlier_revision():
    assert "ratio" not in figures({"ours": [result(1.0)]}, CONTENDERS, 1, "tokens/s")
    runs = {"ours": [result(2.0)], "previous": [result(3.0)]}
    of_all = figures(runs, CONTENDERS, 1, "tokens/s")
    assert (of_all["ratio"], of_all["fastest_peer"]) == (1.5, "previous")
    # If there is a peer, the ratio is that to the peer.
    of_all = figures(runs | {"best": [result(8.0)]}, CONTENDERS, 1, "tokens/s")
    assert (of_all["ratio"], of_all["ratio_to_peer"]) == (4.0, {"previous": 1.5, "best": 4.0})
