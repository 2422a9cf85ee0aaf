"""The chaos passes a sound training and finds what is wrong with others. More rounds: sh scripts/chaos.sh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.__main__ import compare, draw_faults
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.trainings import BATCH, STEPS, Failed, Kind, Training
from tests.launching import ROOT, clean_environment

KIND = Kind(
    name="toy",
    processes=1,
    script="",
    flags=[],
    checkpoints="",
    resumed=r"from step_(\d+)",
    step=r"step (\d+): (\S+)",
)
# `python -m tests.chaos` with one kind of training and one fault, "kill". The kind is an expression, of which
# some fields are changed.
COMMAND = """
import sys
from dataclasses import replace
from tests.chaos import __main__ as chaos, trainings
chaos.KINDS = [lambda folder: replace(trainings.{kind}, {changes})]
chaos.draw_faults = lambda seed, rounds: ["kill"]
sys.exit(chaos.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", ["", "run_classifier"])
def test_a_round(tmp_path, monkeypatch, script):
    """A sound training passes a round. One that begins from scratch after the fault fails.

    The latter is run_classifier.py, started by forgetful.py: in the end its weights are right.
    """
    must_fail = bool(script)
    if must_fail:
        code = COMMAND.format(kind="finetuning(1, folder)", changes="script='tests/chaos/forgetful.py'")
    else:
        code = COMMAND.format(kind="pretraining(1, 'sample', folder)", changes="name='pre-training'")
    monkeypatch.setenv("SCRIPT", script)
    run = subprocess.run(
        [sys.executable, "-c", code, "--rounds", "1", "--seed", "3"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (1 if must_fail else 0, "")
    line, last_line = run.stdout.splitlines()
    assert line.startswith("round 1, seed 3 | ") and " | kill at step " in line
    counts = json.loads(last_line)
    assert counts.pop("seconds") > 0
    assert counts == {"rounds": 1, "kill": 1, "FAILED" if must_fail else "identical": 1}
    if must_fail:
        assert "FAILED: the newest checkpoint was of step " in line and "it went on from step 0" in line
    assert any(tmp_path.iterdir()) == must_fail, "only the folder of a failed round is kept"


def test_every_fault_comes_as_often():
    """In three times as many rounds as there are faults, and one more."""
    for seed in range(20):
        faults = draw_faults(seed, 3 * len(FAULTS) + 1)
        assert {faults.count(name) for name in FAULTS} == {3, 4}
        assert draw_faults(seed, 5) == faults[:5]
    assert draw_faults(1, 8) != draw_faults(2, 8)


def test_a_fault_that_comes_too_late_is_drawn_again(tmp_path, monkeypatch):
    """Such a round would test no resume."""
    results = [False, False, True]  # whether the fault comes in time, of each attempt
    monkeypatch.setattr(chaos, "strike", lambda training, fault, draw: results.pop(0))
    training = Training(KIND, tmp_path / "round")
    fault = Fault(strike=lambda training, draw: True, code=0)  # `chaos.strike` would use it
    chaos.strike_in_time(training, fault, seed="1/1")
    assert results == []
    monkeypatch.setattr(chaos, "strike", lambda training, fault, draw: False)
    with pytest.raises(Failed, match="it ended 5 times before the fault"):
        chaos.strike_in_time(Training(KIND, tmp_path / "other"), fault, seed="1/2")


def made_by_hand(folder: Path, starts: list[str], weights: bytes = b"weights") -> Training:
    """A training without processes, with the log of these starts and a last checkpoint."""
    training = Training(KIND, folder)
    last = training.output / f"step_{STEPS}"
    last.mkdir(parents=True)
    (last / "model.safetensors").write_bytes(weights)
    (folder / "log").mkdir()
    with open(folder / "log" / "job.log.0", "w") as log:
        for text in starts:
            training.log_began.append(log.tell())
            log.write(text)
    return training


def steps(first: int, last: int) -> str:
    """The log of these steps, with an eighth of its number as the loss of each."""
    return "".join(f"step {step}: {step / 8}\n" for step in range(first, last + 1))


def test_compare_accepts_a_resumed_training(tmp_path):
    """Steps 7 to 9 are done again, because the last checkpoint is that of step 6."""
    straight = made_by_hand(tmp_path / "straight", [steps(1, STEPS)])
    resumed = made_by_hand(tmp_path / "resumed", [steps(1, 9), "from step_6\n" + steps(7, STEPS)])
    compare(straight, resumed)


@pytest.mark.parametrize(
    "starts, weights, message",
    [
        ([steps(1, 9), "from step_6\n" + steps(8, STEPS)], b"weights", f"{BATCH} samples lost, 0 repeated"),
        ([steps(1, 9), "from step_6\n" + steps(5, STEPS)], b"weights", f"0 samples lost, {2 * BATCH} rep"),
        ([steps(1, STEPS).replace("0.375", "7")], b"weights", "step 3 was '7' instead of '0.375'"),
        ([steps(1, STEPS)], b"weighty", f"other contents: step_{STEPS}/model.safetensors"),
    ],
    ids=["a lost step", "repeated steps", "another loss", "another bit"],
)
def test_compare_finds(tmp_path, starts, weights, message):
    straight = made_by_hand(tmp_path / "straight", [steps(1, STEPS)])
    with pytest.raises(Failed, match=message):
        compare(straight, made_by_hand(tmp_path / "other", starts, weights))
