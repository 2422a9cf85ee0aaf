"""However a run is stopped, the same command again ends with the bits of an uninterrupted run."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint.formats import safetensors as safe
from pretrain import data_selection as streams
from pretrain.evaluate import Evaluator
from pretrain.trainer import Trainer
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import Stopped, stop_at
from tests.launching import clean_environment
from tests.pretrain.tiny_run import STEPS, assert_equal_runs, checkpoint, command, losses, pretrain, records
from utils.errors import run
from utils.files import sha256_of

# So that the lines of the log, the evaluations and the checkpoints end at different steps.
USUAL = {"run__eval_steps": 5}


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory):
    """A run that nothing stopped."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("straight") / "out", **USUAL)


def test_what_a_run_writes(straight):
    assert [record["step"] for record in records(straight)] == [3, 5, 6, 9, 10, 12, 12]
    assert sorted(path.name for path in (straight / "checkpoints").iterdir()) == ["step_12", "step_8"]
    assert "learning_rate: 0.01" in (straight / "config.yaml").read_text()
    card = (straight / "full" / "README.md").read_text()
    assert "Languages: de, en, fr" in card and "run_pretrain.py" in card and "Random seed: 1" in card


@pytest.mark.parametrize("step", [2, 5])
def test_stopped_after_a_step(straight, tiny_corpus, tmp_path, step):
    out = pretrain(tiny_corpus, tmp_path / "out", run__stop_after_steps=step, **USUAL)
    assert [path.name for path in (out / "checkpoints").iterdir()][-1] == f"step_{step}"
    assert not (out / "full").exists()
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)


# Configuration, three checkpoints, the removal of one and two exports are renames, in this order.
@pytest.mark.parametrize("write", [1, 3, 4, 6])
def test_killed_between_two_writes(straight, tiny_corpus, tmp_path, monkeypatch, write):
    with monkeypatch.context() as patched:
        stop_at(patched, write)
        with pytest.raises(Stopped):
            pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")


def files_of(folder: Path) -> dict[str, int]:
    """Every file but the lock and the log, with the time of its last change."""
    files = (path for path in folder.rglob("*") if path.is_file() and "log" not in path.parts[-2:])
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files if path.name != ".lock"}


def test_a_finished_run_says_so_and_repeats_its_report(straight, tiny_corpus, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    log = out / "log/job.log.0"
    report = [line.split("[held-out]")[1] for line in log.read_text().splitlines() if "[held-out]" in line]
    before = files_of(out)
    log.unlink()
    pretrain(tiny_corpus, out, **USUAL)
    assert {name for name, time_ in files_of(out).items() if time_ != before.get(name)} <= {
        "config.yaml", "metrics.jsonl",
    }  # fmt: skip
    assert records(out) == records(straight)
    said = log.read_text()
    assert "the run is finished: all 12 steps are done" in said
    repeated = [line.split("[held-out]")[1] for line in said.splitlines() if "[held-out]" in line]
    assert repeated == report[-len(repeated) :] != []


def remove(path: Path) -> None:
    shutil.rmtree(path)


def flip(path: Path) -> None:
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize("harm", [remove, flip])
@pytest.mark.parametrize("name", ["full", "encoder"])
def test_a_finished_model_that_was_lost_or_damaged_is_exported_again(
    straight, tiny_corpus, tmp_path, harm, name
):
    shutil.copytree(straight, tmp_path / "out")
    harm(tmp_path / "out" / name)
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert names == {"step_8", "step_12"}


def test_a_damaged_checkpoint_is_passed_over(straight, tiny_corpus, tmp_path):
    shutil.copytree(straight, tmp_path / "out")
    weights = tmp_path / "out" / "checkpoints" / "step_12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")


def test_a_full_disk(straight, tiny_corpus, tmp_path, monkeypatch, capsys):
    write = safe.write

    def full_at_step_8(path, arrays):
        write(path, arrays)
        if "step_8" in str(path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(safe, "write", full_at_step_8)
        with pytest.raises(SystemExit) as ended:
            run(lambda: pretrain(tiny_corpus, tmp_path / "out", **USUAL))
    assert ended.value.code == 2
    assert "step_8: no space left to write it" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step_4"]
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")


def signalled(corpus: Path, output: Path, number: signal.Signals, monkeypatch, where: tuple) -> int:
    """Run; at the second call of the method `where` the process gets a signal. Its exit code."""
    owner, name = where
    original, calls = getattr(owner, name), []

    def method(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, method)
        try:
            run(lambda: pretrain(corpus, output, **USUAL))
        except SystemExit as ended:
            return ended.code
    return 0


@pytest.mark.parametrize(
    "number, where, code, step",
    [
        (signal.SIGTERM, (Trainer, "step"), 0, 1),
        (signal.SIGTERM, (Evaluator, "_tlm"), 0, 5),
        (signal.SIGTERM, (Trainer, "save"), 0, 8),
        (signal.SIGINT, (Trainer, "step"), 130, 1),
        (signal.SIGINT, (Evaluator, "_btmlm"), 130, 5),
    ],
)
def test_a_signal_saves_and_ends(straight, tiny_corpus, tmp_path, monkeypatch, number, where, code, step):
    out = tmp_path / "out"
    assert signalled(tiny_corpus, out, number, monkeypatch, where) == code
    assert checkpoint(out, step)
    assert f"stopped at step {step} of 12; the same command goes on" in (out / "log/job.log.0").read_text()
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)


# Processes, killed at moments that nobody chose

LONG = {"optimizer__steps": 60, "run__save_steps": 7, "run__log_steps": 4, "run__eval_steps": 25}


def start(corpus: Path, output: Path) -> subprocess.Popen:
    """The run as a process group of its own, as a shell or a launcher starts it."""
    return subprocess.Popen(
        command(corpus, output, **LONG), cwd=output.parent, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_lines(output: Path, count: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has so many lines."""
    path, end = output / "metrics.jsonl", time.monotonic() + 120
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
def test_kill_9_and_sigterm(tiny_corpus, tmp_path):
    whole, out = pretrain(tiny_corpus, tmp_path / "whole", **LONG), tmp_path / "out"
    draw = random.Random(1)
    for lines in (1, 3, 5, 8, 10):
        with start(tiny_corpus, out) as process:
            wait_for_lines(out, lines, process)
            time.sleep(draw.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
    with start(tiny_corpus, out) as process:
        wait_for_lines(out, 12, process)
        asked = time.monotonic()
        for _ in range(3):  # as paddle.distributed.launch does, to every process of the group
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.05)
        assert process.wait(30) == 0
        assert time.monotonic() - asked < 30
        assert process.stderr.read() == ""
    assert not (out / "full").exists(), "the run was over before the signal"
    pretrain(tiny_corpus, out, **LONG)
    assert_equal_runs(whole, out, 60)
    assert len(losses(out)) == 15


def catches_sigterm(process: subprocess.Popen) -> bool:
    """Whether it listens: Python alone leaves SIGTERM to the system."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("later", [0.0, 1.5])
def test_ctrl_c_while_it_starts(tiny_corpus, tmp_path, later):
    """Before the log is there, and while Paddle is imported: it is answered, and nothing goes wrong."""
    log, errors = tmp_path / "out/log/job.log.0", tmp_path / "errors"

    def told() -> str:
        return errors.read_text() + (log.read_text() if log.exists() else "")

    with open(errors, "w") as file, subprocess.Popen(
        command(tiny_corpus, tmp_path / "out", **LONG), cwd=tmp_path, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=file,
    ) as process:  # fmt: skip
        while not catches_sigterm(process):
            time.sleep(0.01)
        time.sleep(later)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        while "Ctrl-C received: the run saves its state and ends" not in told():
            assert time.monotonic() - asked < 3  # one second, and two for a busy machine
            time.sleep(0.01)
        assert process.wait(120) == 130
    assert re.search(r"stopped at step \d+ of 60", told()) and "Traceback" not in told()


# A checkpoint of another run


def test_another_configuration_is_named(straight, tiny_corpus, tmp_path, refused):
    shutil.copytree(straight, tmp_path / "out")
    line = refused(optimizer__learning_rate=1e-3, data__max_seq_len=24, run__eval_steps=7)
    assert "step_12 was made with another configuration" in line
    assert "data.max_seq_len: 32 -> 24; optimizer.learning_rate: 0.01 -> 0.001)" in line
    assert records(tmp_path / "out") == records(straight)


def test_a_longer_run_begins_from_the_finished_model_with_another_seed(straight, tmp_path, pretrain, refused):
    out = shutil.copytree(straight, tmp_path / "out")
    line = refused(optimizer__steps=20, **USUAL)
    assert "(optimizer.steps: 12 -> 20): go on with that one" in line
    assert f"--init.encoder {out / 'full'} --init.lm_head encoder, and another run.seed" in line
    start = {"init__encoder": str(out / "full"), "init__lm_head": "encoder", "optimizer__steps": 1}
    for seed, said in ((1, 1), (2, 0)):
        log = (pretrain(f"further-{seed}", run__seed=seed, **start) / "log/job.log.0").read_text()
        assert log.count("draws the same items again: change run.seed") == said
        assert "not used" not in log  # the head and the language embeddings are


def other_corpus(folder: Path) -> Path:
    """Equal counts and vocabulary, but two tokens of the text are swapped."""
    ids = folder / "mono/en/train-00000.ids.npy"
    content = np.load(ids)
    place = next(i for i in range(1, len(content)) if content[i] != content[0])
    content[[0, place]] = content[[place, 0]]
    np.save(ids, content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["mono/en/train-00000.ids.npy"]["sha256"] = sha256_of(ids)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_another_corpus_of_equal_counts_is_refused(straight, tiny_corpus, tmp_path, refused):
    shutil.copytree(straight, tmp_path / "out")
    corpus = other_corpus(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
    line = refused(corpus=corpus, **USUAL)
    assert "step_12 was trained on another corpus: " in line
    assert str(tiny_corpus) in line and str(corpus) in line and "begin anew with --run.overwrite true" in line
    assert records(tmp_path / "out") == records(straight)


def test_another_vocabulary_of_equal_size_is_refused(straight, tiny_corpus, tmp_path, refused, monkeypatch):
    shutil.copytree(straight, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "digest", "0" * 64)
        patched.setattr(streams, "Corpus", lambda path, digest, verify: Corpus(path))
        line = refused(**USUAL)
    assert "step_12 was trained on another vocabulary: " in line and "has 000000000000" in line


def test_the_same_corpus_elsewhere_goes_on(straight, tiny_corpus, tmp_path):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "moved")
    out = pretrain(tiny_corpus, tmp_path / "out", run__stop_after_steps=5, **USUAL)
    pretrain(corpus, out, **USUAL)
    assert_equal_runs(straight, out)


def test_overwrite_begins_anew_once(straight, tiny_corpus, tmp_path):
    """It removes the run's own files and nothing else, and is not saved with the run."""
    out = tmp_path / "out"
    pretrain(tiny_corpus, out, **USUAL, run__seed=7)
    (out / "mine.txt").write_text("a note")
    pretrain(tiny_corpus, out, **USUAL, run__overwrite=True, run__stop_after_steps=5)
    assert not (out / "full").exists() and (out / "mine.txt").exists()
    (said,) = (line for line in (out / "log/job.log.0").read_text().splitlines() if "run.overwrite" in line)
    assert f"removed the run that was in {out} (checkpoints, metrics.jsonl, full, encoder," in said
    assert "overwrite: false" in (out / "config.yaml").read_text()
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)


def test_a_finished_model_without_checkpoints_is_not_overwritten(straight, tmp_path, refused):
    shutil.copytree(straight, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    assert "holds a finished model (full), but no checkpoint" in refused(**USUAL)
    assert records(tmp_path / "out") == records(straight)


def test_a_lost_training_state_is_no_reason_to_begin_anew(straight, tmp_path, refused):
    shutil.copytree(straight, tmp_path / "out")
    for step in ("step_8", "step_12"):
        shutil.rmtree(tmp_path / "out/checkpoints" / step / "training_state")
    assert "none of its 2 checkpoints is whole" in refused(**USUAL)


def test_a_start_without_checkpoints_says_what_it_drops(straight, tiny_corpus, tmp_path):
    shutil.copytree(straight, tmp_path / "out")
    for name in ("checkpoints", "full", "encoder"):
        shutil.rmtree(tmp_path / "out" / name)
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert (
        "begins at step 0, and the 7 records of metrics.jsonl are dropped"
        in (tmp_path / "out/log/job.log.0").read_text()
    )
    assert_equal_runs(straight, tmp_path / "out")


def test_what_does_not_matter_may_change(straight, tiny_corpus, tmp_path):
    shutil.copytree(straight, tmp_path / "out")
    for name in ("step_12", "../full", "../encoder"):
        shutil.rmtree(tmp_path / "out" / "checkpoints" / name)
    changed = {"run__save_steps": 3, "run__keep_checkpoints": 1, "run__max_bad_steps": 3}
    pretrain(tiny_corpus, tmp_path / "out", **USUAL, **changed)
    ours, theirs = checkpoint(straight, STEPS), checkpoint(tmp_path / "out", STEPS)
    assert all((value == theirs[name]).all() for name, value in ours.items())
    saved = json.loads((tmp_path / "out/checkpoints/step_12/training_state/state.json").read_text())
    assert saved["config"]["run"]["save_steps"] == 3
