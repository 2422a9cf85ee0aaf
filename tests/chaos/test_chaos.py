"""The chaos passes a sound training and finds what is wrong with others. More rounds: sh scripts/chaos.sh."""

import json
import subprocess
import sys

import pytest

from tests.chaos.__main__ import compare
from tests.chaos.trainings import BATCH, STEPS, Failed, Kind, Training
from tests.launching import ROOT, clean_environment

# The command with one kind of training, struck by a kill once it has a checkpoint.
COMMAND = """
import sys
from dataclasses import replace
from tests.chaos import __main__ as chaos, trainings
chaos.KINDS = [lambda folder: replace(trainings.{kind}(1, folder){changes})]
chaos.FAULTS = {{'kill': chaos.FAULTS['kill']._replace(checkpoints=1)}}
sys.exit(chaos.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "script"), [("pretraining", ""), ("finetuning", "run_classifier")])
def test_a_round(tmp_path, monkeypatch, kind, script):
    """With `script`, the second start begins from scratch: the weights are equal, but the round fails."""
    monkeypatch.setenv("SCRIPT", script)
    changes = ", script='tests/chaos/forgetful.py'" if script else ""
    words = [sys.executable, "-c", COMMAND.format(kind=kind, changes=changes), "--rounds", "1", "--seed", "3"]
    environment = clean_environment(TMPDIR=str(tmp_path))
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (int(bool(script)), "")
    line, last = done.stdout.splitlines()
    assert line.startswith("round 1, seed 3 | ") and " | kill at step " in line
    last = json.loads(last)
    assert last.pop("seconds") > 0
    assert last == {"rounds": 1, "kill": 1, "FAILED" if script else "identical": 1}
    if script:
        assert "FAILED: the newest checkpoint was of step " in line and "it went on from step 0" in line
    assert bool(list(tmp_path.iterdir())) == bool(script), "the folder of a failed round is kept"


def test_compare_finds_lost_and_repeated_samples_and_one_bit(tmp_path):
    """With logs and files made by hand."""
    kind = Kind("toy", 1, "", [], "", r"from step_(\d+)", r"step (\d+): (\S+)")

    def made(name: str, lives: list[str], weights: bytes = b"weights") -> Training:
        one = Training(kind, tmp_path / name)
        last = one.output / f"step_{STEPS}"
        last.mkdir(parents=True)
        (last / "model.safetensors").write_bytes(weights)
        one.log_began.extend(sum(map(len, lives[:i])) for i in range(len(lives)))
        (one.folder / "log").mkdir()
        (one.folder / "log" / "job.log.0").write_text("".join(lives))
        return one

    def steps(first: int, last: int) -> str:
        return "".join(f"step {step}: {step / 8}\n" for step in range(first, last + 1))

    straight = made("straight", [steps(1, STEPS)])
    compare(straight, made("same", [steps(1, 9), "from step_6\n" + steps(7, STEPS)]))
    for message, lives, weights in (
        (f"{BATCH} samples lost, 0 repeated", [steps(1, 9), "from step_6\n" + steps(8, STEPS)], b"weights"),
        (f"0 samples lost, {2 * BATCH} rep", [steps(1, 9), "from step_6\n" + steps(5, STEPS)], b"weights"),
        ("step 3 was '7' instead of '0.375'", [steps(1, STEPS).replace("0.375", "7")], b"weights"),
        (f"other contents: step_{STEPS}/model.safetensors", [steps(1, STEPS)], b"weighty"),
    ):
        with pytest.raises(Failed, match=message):
            compare(straight, made(message[:12], lives, weights))
