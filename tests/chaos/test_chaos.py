"""A few rounds of chaos; and that the harness sees what it is there to see. More: sh scripts/chaos.sh."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.chaos.faults import KINDS
from tests.chaos.rounds import Chaos, End, Round, Struck, compare, summary, table
from tests.chaos.training import MARK, STEPS, _marked, read_trace
from tests.launching import ROOT, clean_environment
from tests.pretrain.tiny_run import make_corpus


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    corpus = make_corpus(tmp_path_factory.mktemp("texts"))
    return Chaos(tmp_path_factory.mktemp("chaos"), corpus, seed=1, say=print)


@pytest.mark.slow
def test_a_training_under_faults_ends_as_one_that_nothing_struck(chaos):
    kinds = ["flipped bit, checkpoint", "full disk", "flipped bit, shard"]
    end = chaos.train(0, 1, False, kinds)
    assert end.fault == "" and [one.kind for one in end.rounds] == kinds
    assert end.good and (end.lost, end.repeated, end.difference) == (0, 0, 0.0)
    log = (chaos.folder / "training-0/out/log/job.log.0").read_text()
    assert "is passed over" in log and list((chaos.folder / "training-0/out/checkpoints").glob("*.damaged"))
    assert not _marked(str(chaos.folder / "training-0"))


# What it would see. The undisturbed run of the test above is there.


@pytest.fixture
def copy(chaos, tmp_path):
    """The output of an undisturbed run, to be changed."""
    shutil.copytree(chaos.straight(1, False), tmp_path / "out")
    return tmp_path / "out"


def compared(chaos, output):
    end = End()
    compare(chaos.straight(1, False), output, end)
    return end


def change_trace(output, change):
    lines = (output / "trace.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    change(records)
    (output / "trace.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_it_sees_nothing_where_there_is_nothing(chaos, copy):
    end = compared(chaos, copy)
    assert end.good and sorted(read_trace(copy)) == list(range(1, STEPS + 1))
    assert all(len(samples) == 12 for samples in read_trace(copy).values())


def test_it_counts_lost_and_repeated_samples(chaos, copy):
    change_trace(copy, lambda records: records[5]["samples"].pop())
    assert (compared(chaos, copy).lost, compared(chaos, copy).repeated) == (1, 0)
    change_trace(copy, lambda records: records.pop(20))  # a step that was not done
    assert compared(chaos, copy).lost == 13
    change_trace(copy, lambda records: records.append(records[30]))  # one that was done twice
    end = compared(chaos, copy)
    assert (end.lost, end.repeated, end.good) == (13, 12, False)


def test_it_sees_one_bit_of_one_weight(chaos, copy):
    path = copy / "checkpoints" / f"step_{STEPS}" / "model.safetensors"
    weights = load_file(path)
    name = "encoder.layers.1.linear1.bias"
    weights[name][3] = np.nextafter(weights[name][3], np.float32(9))
    save_file(weights, path)
    end = compared(chaos, copy)
    assert end.difference > 0 and not end.good
    end.elastic = True
    assert end.good, "within the tolerance of another number of processes"


def test_it_sees_another_log(chaos, copy):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert not compared(chaos, copy).good


def test_a_fault_that_does_not_end_as_it_should_is_told(chaos, monkeypatch):
    def broken(training, draw):
        raise AssertionError("it was not noticed")

    monkeypatch.setitem(KINDS, "SIGTERM", broken)
    end = chaos.train(1, 1, False, ["SIGTERM"])
    assert not end.good and end.fault == "SIGTERM: AssertionError it was not noticed"


def test_the_report():
    one = Round("SIGTERM", "step 7", Struck("ended with 0", "from step_7"))
    other = Round("full disk", "step 9", Struck("ended with 2: x", "from step_9"))
    ends = [End([one, one]), End([other], lost=2), End([one], difference=1e-12, elastic=True)]
    lines = table(ends)
    assert "| SIGTERM | 3 | ended with 0 (3) | from a checkpoint (3) | 3 |" in lines
    assert "| full disk | 1 | ended with 2 (1) | from a checkpoint (1) | 0 |" in lines
    found = json.loads(summary(ends, 1.0))
    assert (found["rounds"], found["lost"], found["identical"], found["different"]) == (4, 2, 2, 1)
    assert (found["within_tolerance"], found["largest_difference"]) == (1, 1e-12)


def test_the_plan_is_a_function_of_the_seed(tmp_path, monkeypatch):
    plans = []

    def train(self, number, processes, elastic, kinds, done, rounds):
        plans[-1].append((processes, elastic, *kinds))
        return End([Round(kind, "", Struck("", "")) for kind in kinds])

    monkeypatch.setattr(Chaos, "train", train)
    for seed in (1, 1, 2):
        plans.append([])
        list(Chaos(tmp_path, tmp_path, seed, print).run(50))
    assert plans[0] == plans[1] != plans[2]
    kinds = [kind for _, _, *kinds in plans[0] for kind in kinds]
    assert len(kinds) == 50 and set(KINDS) < set(kinds)


def test_interrupted_it_leaves_nothing(tmp_path):
    environment = clean_environment(TMPDIR=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--rounds", "3"], cwd=ROOT, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while not (started := list(tmp_path.glob("chaos-*/undisturbed-1/stderr"))):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)
        folder = str(started[0].parent)
        time.sleep(random.Random(1).uniform(0.2, 0.5))
        assert _marked(folder), MARK
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted"
    assert not _marked(folder) and not list(tmp_path.glob("chaos-*"))
