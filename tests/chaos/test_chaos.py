"""The chaos passes a sound training and finds what is wrong with others. More rounds: sh scripts/chaos.sh."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos.__main__ import compare
from tests.chaos.trainings import BATCH, STEPS, Failed, Kind, Training, marked
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


def start(tmp_path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments, "--seed", "3"], cwd=ROOT, env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "script"), [("pretraining", ""), ("finetuning", "run_classifier")])
def test_a_round(tmp_path, monkeypatch, kind, script):
    """With `script`, the second start begins from scratch: the weights are equal, but the round fails."""
    monkeypatch.setenv("SCRIPT", script)
    changes = ", script='tests/chaos/forgetful.py'" if script else ""
    with start(tmp_path, "-c", COMMAND.format(kind=kind, changes=changes), "--rounds", "1") as command:
        (line, last), errors = command.stdout.read().splitlines(), command.stderr.read()
    assert (command.returncode, errors) == (int(bool(script)), "")
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


@pytest.mark.slow
def test_an_interrupted_command_leaves_nothing(tmp_path):
    with start(tmp_path, "-m", "tests.chaos", "--rounds", "2") as command:
        while not (started := list(tmp_path.glob("chaos-*/undisturbed-0/stderr"))):
            assert command.poll() is None, command.stderr.read()
            time.sleep(0.05)
        time.sleep(0.5)
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 130 and command.stderr.read().splitlines()[-1] == "interrupted"
    assert not list(marked(started[0].parent)) and not list(tmp_path.iterdir())
