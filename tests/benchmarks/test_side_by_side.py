"""Contenders in processes: who is chosen, who is left out, equal work; training steps in small form."""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import mlm_step, side_by_side, turns
from benchmarks.side_by_side import Contender

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("script", "hidden_layers"), [("mlm_step.py", 1), ("finetune_step.py", 0)])
def test_our_worker(script, hidden_layers):
    flags = ["--worker=ours", "--layers=1", "--vocab=100", "--steps=1", "--batch=4", "--length=16"]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    layer = 12 * 768**2 + 13 * 768
    tables, norm, dense = (100 + 514) * 768, 2 * 768, 768**2 + 768
    head = dense + norm + 100 + 768 if script == "mlm_step.py" else 3 * 768 + 3
    assert found["kept"] == 16 * (tables + norm + layer + dense + head)
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0
    assert found["kept"] < found["peak"] < 3e9
    assert 1 < found["gflops"] < 1e5


def test_all_get_the_same_batches():
    batches = itertools.islice(mlm_step.mmlm_batches(300), 2)
    arrays = itertools.islice(mlm_step.ids_and_labels(300), 2)
    inputs = []
    for (batch,), (input_ids, labels) in zip(batches, arrays, strict=True):
        assert batch.valid.all() and input_ids.shape == labels.shape == (16, 128)
        assert np.array_equal(batch.input_ids, input_ids) and batch.masked == 16 * 19
        chosen = labels != mlm_step.IGNORED
        assert np.array_equal(np.flatnonzero(chosen), batch.target_positions)
        assert np.array_equal(labels[chosen], batch.target_ids)
        inputs.append(input_ids)
    assert not np.array_equal(*inputs)


HERE = {
    name: Contender(name, "ours" if name == "ours" else "peer", False, environment=str(Path(sys.prefix)))
    for name in ("ours", "peer", "broken")
}


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker that notes its name in a file, and fails where that is `broken`."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, pathlib\n"
        "name = sys.argv[1].removeprefix('--worker=')\n"
        f"with open({str(tmp_path / 'order')!r}, 'a') as file: file.write(name + ' ')\n"
        "if name == 'broken': sys.exit('no such thing')\n"
        'print(\'chatter\\n{"seconds": 2.0, "peak": 1}\')\n'
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    return tmp_path / "order"


def test_rounds_are_interleaved_and_a_failing_peer_is_left_out(worker, capsys):
    runs = side_by_side.interleave(HERE, 2, [], lambda found: f"{found['seconds']} s")
    assert runs == {"ours": [{"seconds": 2.0, "peak": 1}] * 2, "peer": [{"seconds": 2.0, "peak": 1}] * 2}
    assert worker.read_text().split() == ["ours", "peer", "broken", "ours", "peer"]
    assert "broken is left out: broken ended with 1:\nno such thing" in capsys.readouterr().out


def test_taking_turns(worker, tmp_path, monkeypatch, capsys):
    """A step each; who stands beside a peer is told with it."""
    script = tmp_path / "turns.py"
    script.write_text(
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks.turns import wait_for_turn\n"
        "name = sys.argv[1].removeprefix('--worker=')\n"
        "for step in range(3):\n"
        "    wait_for_turn()\n"
        f"    with open({str(worker)!r}, 'a') as file: file.write(name + str(step) + ' ')\n"
        "    if name == 'broken' and step: sys.exit('no such thing')\n"
        "print(json.dumps({'seconds': [len(name)], 'gflops': 7} if name == 'ours' else {'seconds': [9]}))\n"
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(turns, "REST", 0.0)
    runs = side_by_side.interleave(HERE, 2, [], str, in_turns=True)
    mine, theirs = {"seconds": [4], "gflops": 7}, {"seconds": [9], "beside": [4], "gflops": 7}
    assert runs == {"ours": [mine] * 2, "peer": [theirs] * 2}
    pair = ["ours0", "peer0", "ours1", "peer1", "ours2", "peer2"]
    assert worker.read_text().split() == [
        *pair, "ours0", "broken0", "ours1", "broken1", "ours2", *pair
    ]  # fmt: skip
    assert "broken is left out: broken ended with 1:\nno such thing" in capsys.readouterr().out

    # ours stands beside, wherever it is named, and runs alone where nobody is left
    for names, expected in (
        (("peer", "ours"), {"peer": [theirs], "ours": [mine]}),
        (("ours", "broken"), {"ours": [mine]}),
    ):
        chosen = {name: HERE[name] for name in names}
        assert side_by_side.interleave(chosen, 1, [], str, in_turns=True) == expected


def test_one_that_dies_before_its_first_turn_is_left_out(worker, capsys):
    """`broken` ends at once; the others never ask for a turn."""
    runs = side_by_side.interleave(HERE, 1, [], str, in_turns=True)
    assert list(runs) == ["ours", "peer"] and "broken is left out" in capsys.readouterr().out


def test_alone_nobody_waits(monkeypatch):
    monkeypatch.delenv(turns.TURNS, raising=False)
    turns.wait_for_turn()


def test_where_ours_fails_the_run_ends(worker):
    with pytest.raises(SystemExit, match="ended with 1"):
        side_by_side.interleave({"broken": Contender("ours", "ours", False)}, 1, [], str)


def test_who_can_run_here(monkeypatch, capsys):
    contenders = HERE | {
        "absent": Contender("absent", "torch", True, environment=".venv-absent"),
        "compiled": Contender("compiled", "torch", True, {"compile": True}, str(Path(sys.prefix))),
        "halved": Contender("halved", "ours", True, {"amp": "bf16"}, str(Path(sys.prefix))),
    }
    parser = argparse.ArgumentParser()
    assert list(side_by_side.choose(parser, "peer,ours", contenders)) == ["peer", "ours"]
    monkeypatch.setattr(side_by_side.shutil, "which", lambda name: None)
    monkeypatch.setattr(side_by_side, "has_gpu", lambda: False)
    assert list(side_by_side.choose(parser, "ours,absent,compiled,halved", contenders)) == ["ours"]
    said = capsys.readouterr().out
    assert "absent is left out" in said and "compiled is left out: torch.compile needs a C++ compiler" in said
    assert "halved is left out: it needs a GPU" in said
    monkeypatch.setattr(side_by_side.shutil, "which", str)
    monkeypatch.setattr(side_by_side, "has_gpu", lambda: True)
    assert list(side_by_side.choose(parser, "compiled,halved", contenders)) == ["compiled", "halved"]
    with pytest.raises(SystemExit):
        side_by_side.choose(parser, "nobody", contenders)


def test_other_work_ends_the_run():
    same = {"ours": [{"check": [3, 40]}], "peer": [{"check": [3, 40]}], "unchecked": [{}]}
    side_by_side.check_same_work(same)
    with pytest.raises(SystemExit, match="did not do the same work"):
        side_by_side.check_same_work(same | {"short": [{"check": [3, 39]}]})
    with pytest.raises(SystemExit, match="some contenders ran on a GPU"):
        side_by_side.check_same_work({"ours": [{"device": "cpu"}], "peer": [{"device": "gpu"}]})


def test_memory_is_that_of_a_gpu_where_one_is_used(monkeypatch, capsys):
    side_by_side.tell(1.0)
    assert json.loads(capsys.readouterr().out)["peak"] > 10 << 20  # of this process

    cuda = SimpleNamespace(is_available=lambda: True, max_memory_allocated=lambda: 7)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "paddle", None)
    side_by_side.tell(1.0)
    assert json.loads(capsys.readouterr().out)["peak"] == 7

    device = SimpleNamespace(get_device=lambda: "gpu:0", cuda=SimpleNamespace(max_memory_allocated=lambda: 9))
    monkeypatch.setitem(sys.modules, "paddle", SimpleNamespace(device=device))
    side_by_side.tell(1.0)
    assert json.loads(capsys.readouterr().out)["peak"] == 9


def test_time_since_the_start_of_the_process():
    code = "from benchmarks.side_by_side import since_start; print(since_start())"
    began = time.monotonic()
    command = ["sh", "-c", 'sleep 0.3; exec "$0" "$@"', sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.28 < float(done.stdout) < time.monotonic() - began + 0.02
