"""A round of chaos, and that the harness sees what it is there to see. More: sh scripts/chaos.sh."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos.__main__ import Round, compare
from tests.chaos.trainings import BATCH, STEPS, Failed, Kind, Training, marked
from tests.launching import ROOT, clean_environment

# The real command line, with one thing changed before it.
HARNESS = """
import sys
from dataclasses import replace
from tests.chaos import __main__ as chaos, faults, trainings
{change}
sys.exit(chaos.main())
"""


@pytest.fixture
def harness(tmp_path):
    """harness(change): a round of it; returns its exit code, its lines, and its last line as JSON."""

    def call(change: str):
        done = subprocess.run(
            [sys.executable, "-c", HARNESS.format(change=change), "--rounds", "1", "--seed", "3"], cwd=ROOT,
            env=clean_environment(TMPDIR=str(tmp_path)), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        *lines, last = done.stdout.splitlines()
        return done.returncode, lines, json.loads(last)

    return call


def only(kind: str, changes: str = "") -> str:
    """One kind of training, on one process, struck by kill -9 when it has a checkpoint."""
    return (
        f"chaos.KINDS = [lambda folder: replace(trainings.{kind}(1, folder), {changes})]\n"
        "chaos.FAULTS = {'kill': faults.FAULTS['kill']._replace(checkpoints=1)}\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "finetuning"])
def test_a_round(harness, tmp_path, kind):
    code, lines, last = harness(only(kind))
    assert code == 0 and " | kill at step " in lines[0] and " | identical | " in lines[0]
    assert last.pop("seconds") > 0
    assert last == {"rounds": 1, "faults": {"kill": 1}, "lost": 0, "repeated": 0, "identical": 1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "script"), [("pretraining", "run_pretrain"), ("finetuning", "run_classifier")]
)
def test_a_restart_from_scratch(harness, tmp_path, monkeypatch, kind, script):
    """It ends with the same weights, and yet the checkpoints were worth nothing."""
    monkeypatch.setenv("SCRIPT", script)
    code, (line,), last = harness(only(kind, "script='tests/chaos/forgetful.py'"))
    assert code == 1 and line.startswith("round 1, seed 3 | ")
    assert "FAILED: the newest checkpoint was of step " in line and "it went on from step 0" in line
    assert last["identical"] == 0 and list(tmp_path.iterdir()), "the folder is kept"


@pytest.mark.slow
def test_a_fault_that_strikes_nothing(harness):
    """It is drawn again; in the end the round has failed."""
    never = "chaos.FAULTS = {'nothing': faults.FAULTS['kill']._replace(strike=lambda *_: False)}"
    code, lines, last = harness(only("finetuning") + never)
    assert code == 1 and last["identical"] == 0
    assert ["drawn again: the fault struck nothing" in line for line in lines] == [True, True, False]
    assert "FAILED: the fault struck nothing" in lines[2]


@pytest.mark.slow
def test_a_fault_after_the_end(harness):
    """A signal to a training that has done its last step and ends as if nothing had happened."""
    late = (
        "chaos.FAULTS = {'late': faults.FAULTS['SIGTERM']._replace("
        "strike=lambda one, draw: one.wait() == 0)}\nchaos.DRAWS = 1"
    )
    code, (line,), _ = harness(only("finetuning") + late)
    assert code == 1 and "FAILED: the fault struck nothing" in line


def test_it_sees_lost_and_repeated_samples_and_one_bit(tmp_path):
    """From logs and files made by hand."""
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


def test_interrupted_it_leaves_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--rounds", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=clean_environment(TMPDIR=str(tmp_path)), stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while not (started := list(tmp_path.glob("chaos-*/undisturbed-1/stderr"))):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130 and process.stderr.read().splitlines()[-1] == "interrupted"
    assert not list(marked(started[0].parent)) and not list(tmp_path.iterdir())
