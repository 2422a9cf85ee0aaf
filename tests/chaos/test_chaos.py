"""The chaos passes a sound training and finds what is wrong with others. More rounds: sh scripts/chaos.sh."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.__main__ import CameTooLate, Round, compare
from tests.chaos.trainings import BATCH, STEPS, Failed, Kind, Training, marked
from tests.launching import ROOT, clean_environment

# The command with one kind of training, struck by a kill once it has a checkpoint.
COMMAND = """
import sys
from dataclasses import replace
from tests.chaos import __main__ as chaos, faults, trainings
chaos.KINDS = [lambda folder: replace(trainings.{kind}(1, folder){changes})]
chaos.FAULTS = {{'kill': faults.FAULTS['kill']._replace(checkpoints=1)}}
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
    assert last == {
        "rounds": 1,
        "faults": {"kill": 1},
        "lost": 0,
        "repeated": 0,
        "identical": int(not script),
    }
    if script:
        assert "FAILED: the newest checkpoint was of step " in line and "it went on from step 0" in line
    else:
        assert " | identical | " in line
    assert bool(list(tmp_path.iterdir())) == bool(script), "the folder of a failed round is kept"


def test_a_fault_that_comes_too_late_is_drawn_again(tmp_path, monkeypatch, capsys):
    kind = Kind("toy", 1, "", [], "", r"from step_(\d+)", r"step (\d+): (\S+)")

    def late(one, fault, draw: random.Random):
        raise CameTooLate("the fault came too late")

    monkeypatch.setattr(chaos, "strike", late)
    assert (
        chaos.run_round(tmp_path, 1, 0, Training(kind, tmp_path / "x")).problem == "the fault came too late"
    )
    lines = capsys.readouterr().out.splitlines()
    assert ["drawn again: the fault came too late" in line for line in lines] == [True, True, False]
    assert "FAILED: the fault came too late" in lines[2]


def test_compare_finds_lost_and_repeated_samples_and_one_bit(tmp_path):
    """With logs and files made by hand."""
    kind = Kind("toy", 1, "", [], "", r"from step_(\d+)", r"step (\d+): (\S+)")

    def made(name: str, lives: list[str], weights: bytes = b"weights") -> Training:
        one = Training(kind, tmp_path / name)
        last = one.output / f"step_{STEPS}"
        last.mkdir(parents=True)
        (last / "model.safetensors").write_bytes(weights)
        starts = [sum(map(len, lives[:i])) for i in range(len(lives))]
        one.log_began.extend(starts)
        (one.folder / "log").mkdir()
        (one.folder / "log" / "job.log.0").write_text("".join(lives))
        return one

    def steps(first: int, last: int) -> str:
        return "".join(f"step {step}: {step / 8}\n" for step in range(first, last + 1))

    straight = made("straight", [steps(1, STEPS)])
    compare(straight, made("same", [steps(1, 9), "from step_6\n" + steps(7, STEPS)]), Round("kill"))
    for name, lives, lost, repeated in (
        ("lost", [steps(1, 9), "from step_6\n" + steps(8, STEPS)], BATCH, 0),
        ("repeated", [steps(1, 9), "from step_6\n" + steps(5, STEPS)], 0, 2 * BATCH),
    ):
        found = Round("kill")
        with pytest.raises(Failed, match=f"{lost} samples lost, {repeated} repeated"):
            compare(straight, made(name, lives), found)
        assert (found.lost, found.repeated) == (lost, repeated)
    with pytest.raises(Failed, match="step 3 was '7' instead of '0.375'"):
        compare(straight, made("loss", [steps(1, STEPS).replace("0.375", "7")]), Round("kill"))
    with pytest.raises(Failed, match=f"other contents: step_{STEPS}/model.safetensors"):
        compare(straight, made("bit", [steps(1, STEPS)], b"weighty"), Round("kill"))


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
