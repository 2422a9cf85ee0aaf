"""A run that was stopped, or whose files are corrupt, ends bitwise equal to an uninterrupted run."""

import contextlib
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ernie_m.model.checkpoint.open import TRAINED_LENGTH, open_checkpoint
from ernie_m.pretrain import evaluate
from ernie_m.pretrain.evaluate import Evaluator
from ernie_m.pretrain.run import check_checkpoints, open_output_dir
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import write_vocab
from ernie_m.training.checkpoint import list_checkpoints
from ernie_m.training.engine import Engine
from ernie_m.training.log import METRICS
from ernie_m.training.output_dir import OutputDir
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.errors import run
from tests.command_lines import STEPS
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.files import disk_full_after, flip_middle_bit, names_in
from tests.launching import check_error, error_of
from tests.pretrain.builds import Stopped, stop_at
from tests.pretrain.tiny_run import assert_equal_runs, checkpoint, config, losses, pretrain, records
from tests.toys import make_small_corpus

# One layer and one pair are enough for what is stopped and resumed here. Evaluations come after 5, 10 and 12
# steps, lines of the log every 3 steps, and checkpoints every 4.
SMALL = {"model__num_hidden_layers": 1, "data__languages": ["de", "en"]}
USUAL = {"run__eval_steps": 5, "run__micro_batch_tokens": 512, **SMALL}


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory):
    """A run that nothing stopped."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("straight") / "out", **USUAL)


@pytest.fixture
def out(straight, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(straight, tmp_path / "out")


def read_log(output: Path) -> str:
    return (output / "log/job.log.0").read_text()


def test_writes_the_config_and_a_model_card(straight):
    assert "learning_rate: 0.01" in (straight / "config.yaml").read_text()
    card = (straight / "checkpoints/step_8/README.md").read_text()
    facts = "- Languages: de, en\n- Data: corpus\n- Initialized from: random\n- Steps: 8\n- Seed: 1\n"
    assert f"\n\n{facts}- Command: `ernie-m run_pretrain " in card


# Stopped


def test_stopped_after_a_step(straight, tiny_corpus, tmp_path):
    """The same command continues after that step. The corpus may move in the meantime."""
    out = pretrain(tiny_corpus, tmp_path / "out", run__stop_after_steps=2, **USUAL)
    assert "interrupted at step 2/12; run the same command without run.stop_after_steps" in read_log(out)
    assert (out / "checkpoints/step_2").is_dir()
    assert not (out / "full").exists()
    pretrain(shutil.copytree(tiny_corpus, tmp_path / "moved"), out, **USUAL)
    assert_equal_runs(straight, out)


def test_camlm_context_with_masks(straight, pretrain):
    """The model says how it was trained, and has other scores of the same pairs."""
    out = pretrain(objectives__camlm_context="with_masks", **USUAL)
    assert open_checkpoint(out / "full").pipeline_config.camlm_context == "with_masks"
    assert "camlm_context" not in (straight / "full/config.json").read_text()
    camlm, usual = (records(folder)[-1]["held_out"]["camlm"] for folder in (out, straight))
    assert camlm.keys() == usual.keys() and camlm != usual


def test_resume_without_the_initial_checkpoint(straight, pretrain):
    """Its weights were trained on inputs of 32 tokens before, and its own inputs are shorter."""
    short = {"optimizer__steps": 2, "data__max_seq_len": 16, **SMALL}
    pretrain(**short, init__encoder=str(straight / "full"), run__stop_after_steps=1)
    assert open_checkpoint(pretrain(**short) / "encoder").settings[TRAINED_LENGTH] == 32


def test_a_run_continues_that_of_another_folder(pretrain, refused):
    """With other objectives it is a run whose mixing ratios change at that step."""
    mixes = [f"{{{mix}}}" for mix in ("mmlm: 1", "mmlm: 1, camlm: 3")]
    changing = {"objectives__later_mixing_ratios": mixes[1], "objectives__later_start": 0.5}
    whole = pretrain("whole", objectives__mixing_ratios=mixes[0], **changing, **USUAL)
    start = pretrain("start", objectives__mixing_ratios=mixes[0], run__stop_after_steps=6, **USUAL)
    options = {
        "objectives__mixing_ratios": mixes[1],
        "init__checkpoint": str(start / "checkpoints/step_6"),
        **USUAL,
    }
    later = pretrain("later", **options)
    assert_equal_arrays(checkpoint(later, STEPS), checkpoint(whole, STEPS))
    assert records(later) == [record for record in records(whole) if record["step"] > 6]
    line = refused(optimizer__batch_size=4, optimizer__learning_rate=1e-3, **options)
    assert "step_6: made with other settings (optimizer.learning_rate: 0.01 -> 0.001)" in line


def test_records_are_on_the_disk_before_a_checkpoint(pretrain, tmp_path, monkeypatch):
    """A machine that crashes may otherwise lose the record of a step that a checkpoint has."""
    path = tmp_path / "out" / METRICS
    synced = [b""]
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes() if path.exists() else b""))
    save_step = OutputDir.save_step

    def save(*arguments) -> Path:
        assert synced[-1] == path.read_bytes() != b""
        return save_step(*arguments)

    monkeypatch.setattr(OutputDir, "save_step", save)
    pretrain(optimizer__steps=6, run__log_steps=1, run__save_steps=2, run__eval_sequences=1, **SMALL)


def fail_in_the_last_evaluation(patch, _) -> None:
    run_evaluation = Evaluator.run
    patch.setattr(
        Evaluator,
        "run",
        lambda self, engine, stop: run_evaluation(self, engine, stop) if engine.steps < STEPS else 1 / 0,
    )


def fill_the_disk_in_step_6(patch, until_the_run_ends) -> None:
    """No file may become larger than so many bytes. The log is larger by then."""
    do_step = Engine.step

    def step(self, *args, **options):
        if self.steps == 5:
            until_the_run_ends.enter_context(disk_full_after(2500))
        return do_step(self, *args, **options)

    patch.setattr(Engine, "step", step)


def send_signal(number: signal.Signals, call: int, owner, name: str) -> Callable:
    """The signal comes at this call of the function `owner.name`, from 1."""

    def install(patch, _) -> None:
        original = getattr(owner, name)
        calls = itertools.count(1)

        def function(*args, **options):
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return original(*args, **options)

        patch.setattr(owner, name, function)

    return install


def rename(number: int) -> Callable:
    """The run is stopped instead of a rename.

    From 0, number 4 completes step_8, 7 removes step_4, 10 replaces step_12 after its evaluation, and 14
    completes the export of the encoder.
    """
    return lambda patch, _: stop_at(patch, number)


@pytest.mark.parametrize(
    "event, ending, saved_step",
    [
        (rename(4), Stopped, 4),
        (rename(7), Stopped, 12),
        (rename(10), Stopped, 12),
        (rename(14), Stopped, 12),
        (fail_in_the_last_evaluation, ZeroDivisionError, 12),  # which costs no step
        (fill_the_disk_in_step_6, 2, 4),
        (send_signal(signal.SIGTERM, 1, Engine, "step"), 0, 0),  # the first step is given up
        (send_signal(signal.SIGTERM, 2, Engine, "step"), 0, 1),
        (send_signal(signal.SIGTERM, 2, OutputDir, "save_step"), 0, 8),
        (send_signal(signal.SIGINT, 1, evaluate, "compute_accuracy_by_layer"), 130, 5),
    ],
)
def test_a_run_that_ends_early(
    straight, tiny_corpus, tmp_path, monkeypatch, capsys, event, ending, saved_step
):
    """It ends with this exception or exit code, and the same command resumes from its last checkpoint."""
    out = tmp_path / "out"
    with contextlib.ExitStack() as until_the_run_ends, monkeypatch.context() as patched:
        event(patched, until_the_run_ends)
        with pytest.raises((Stopped, ZeroDivisionError, SystemExit)) as ended:
            sys.exit(run(lambda: pretrain(tiny_corpus, out, **USUAL)))
    assert (getattr(ended.value, "code", type(ended.value)) or 0) == ending
    assert max([0, *(step for step, _ in list_checkpoints(out / "checkpoints"))]) == saved_step
    assert (f"interrupted at step {saved_step}/12" in read_log(out)) == (ending in (0, 130))
    errors = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "Traceback"))
    ]
    assert len(errors) == (ending == 2) and all("no space left" in line for line in errors)
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)


# Lost or corrupt


@pytest.mark.parametrize(
    "lost, message",
    [
        (["full"], "for fine-tuning: "),  # the log of an export
        (["checkpoints", "full", "encoder"], "deleting 7 records from metrics.jsonl"),  # it begins again
    ],
)
def test_restores_lost_outputs(straight, tiny_corpus, out, lost, message):
    for name in lost:
        shutil.rmtree(out / name)
    pretrain(tiny_corpus, out, **USUAL)
    assert message in read_log(out)
    assert_equal_runs(straight, out)


@pytest.mark.parametrize("file", ["model.safetensors", "training_state/arrays.safetensors"])
def test_a_flipped_bit_in_the_newest_checkpoint(straight, tiny_corpus, out, file):
    """The run resumes from the checkpoint before it, and the corrupt one is put aside."""
    flip_middle_bit(out / "checkpoints/step_12" / file)
    (out / "full/old").touch()
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)
    assert not (out / "full/old").exists()  # what was trained again is exported again
    log = read_log(out)
    assert f"step_12/{file}: corrupt" in log and f"resuming from {out}/checkpoints/step_8" in log
    assert names_in(out / "checkpoints") == ["step_12", "step_12.corrupt", "step_8"]


def test_a_checkpoint_that_was_being_replaced_is_put_back(straight, tiny_corpus, out):
    """A process that was killed had given it another name."""
    shutil.rmtree(out / "checkpoints/step_8")
    (out / "checkpoints/step_12").rename(out / "checkpoints/.step_12.old-1-elsewhere-0123abcd")
    pretrain(tiny_corpus, out, **USUAL)
    assert f"resuming from {out}/checkpoints/step_12" in read_log(out)
    assert records(out) == records(straight)


def test_a_flipped_bit_in_a_shard(tiny_corpus, tmp_path, refused):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    name = "mono/en/train-00000.ids.npy"
    flip_middle_bit(corpus / name)
    assert f"{name}: " in refused(corpus=corpus, **USUAL)
    pretrain(corpus, tmp_path / "out", optimizer__steps=1, data__verify=False)
    # Another vocabulary is refused, also without checksums.
    *_, first, second = vocab = Tokenizer.from_folder(corpus).vocab
    write_vocab(vocab | {first: vocab[second], second: vocab[first]}, corpus / "vocab.txt")
    assert f"{corpus}: built with another vocabulary" in refused(corpus=corpus, data__verify=False)


# A folder that holds a run


def read_mtimes(folder: Path) -> dict[str, int]:
    """The time of the last change of every file but the lock and the log, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "log"]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files if path.name != ".lock"}


def test_a_finished_run_says_so(straight, tiny_corpus, out):
    """It trains and exports nothing."""
    before = read_mtimes(out)
    pretrain(tiny_corpus, out, **USUAL)
    changed = {name for name, changed_at in read_mtimes(out).items() if changed_at != before.get(name)}
    assert changed <= {"config.yaml", "metrics.jsonl"}  # these two are written again
    assert records(out) == records(straight)
    assert "already finished: 12 steps" in read_log(out)


def test_another_configuration_is_named(straight, out, refused):
    """run.eval_steps may change, so only the other two are named."""
    check_error(
        refused(optimizer__learning_rate=1e-3, data__max_seq_len=24, run__eval_steps=7, **SMALL),
        "step_12: made with other settings (",
        "data.max_seq_len: 32 -> 24; optimizer.learning_rate: 0.01 -> 0.001)",
    )
    assert records(out) == records(straight)


def test_a_longer_run_begins_from_the_finished_model_with_another_seed(out, pretrain, refused):
    """The message advises so; a new run with the same seed warns that it reads the same text again."""
    check_error(
        refused(optimizer__steps=20, **USUAL),
        "(optimizer.steps: 12 -> 20)",
        f"--init.encoder {out / 'full'} --init.lm_head same, and another run.seed",
    )
    start = {"init__encoder": str(out / "full"), "init__lm_head": "same", "optimizer__steps": 1, **SMALL}
    for seed in (1, 2):
        log = read_log(pretrain(f"further-{seed}", run__seed=seed, **start))
        assert ("samples the same examples again. Change run.seed" in log) == (seed == 1)
        assert "ignored" not in log  # the head and the language embeddings are used


def test_another_corpus_is_refused(straight, tmp_path, out, refused):
    check_error(
        refused(corpus=make_small_corpus(tmp_path, held_out=5), **USUAL),
        "step_12: made with other settings (digests.corpus: ",
        "--run.overwrite true",
    )
    assert records(out) == records(straight)


@pytest.mark.parametrize("name", ["full", "encoder"])
def test_a_model_without_checkpoints_is_not_replaced(tiny_corpus, tmp_path, name):
    """It may be a folder of the user's. Overwriting is asked for by an option."""
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    (out / "checkpoints").mkdir()
    folder = open_output_dir(config(tiny_corpus, out))
    assert error_of(check_checkpoints, folder).startswith(f"{out} contains {name}, ")
    check_checkpoints(open_output_dir(config(tiny_corpus, out, run__overwrite=True)))
    (out / "checkpoints/step_8").mkdir()  # of its own run
    check_checkpoints(folder)


def test_a_request_to_another_process_in_the_last_step(pretrain, monkeypatch, capsys):
    """The run is not finished: what follows the last step may take long."""
    short = {"optimizer__steps": 2, "run__eval_sequences": 0}
    monkeypatch.setattr(ShutdownHandler, "is_set_on_any_process", lambda self: True)
    assert not (pretrain(**short) / "encoder").exists()
    assert "interrupted at step 2/2" in capsys.readouterr().out


def test_overwrite_begins_anew_once(straight, tiny_corpus, out, refused):
    """Only the old run's files are removed, and only if the new run can begin. The flag is not saved."""
    (out / "mine.txt").write_text("a note")
    (out / "tensorboard").mkdir()
    before = read_mtimes(out)
    for key, value, message in (
        ("corpus", "nowhere", "nowhere: not a complete corpus (missing manifest.json)"),
        ("init__encoder", "nowhere", "nowhere: no such folder"),
        ("init__encoder", out / "full", f"overwrite would remove {out}/full, "),
        ("init__lm_head", out / "full", f"overwrite would remove {out}/full, "),
    ):
        assert message in refused(**{key: str(value)}, run__overwrite=True, **SMALL)
    assert read_mtimes(out) == before
    pretrain(tiny_corpus, out, **USUAL, run__overwrite=True, run__stop_after_steps=5)
    assert not (out / "full").exists() and (out / "mine.txt").exists()
    (notice,) = (line for line in read_log(out).splitlines() if "overwrite: " in line)
    assert f"removed the run in {out} (checkpoints, metrics.jsonl, tensorboard, full, encoder)" in notice
    assert "overwrite: false" in (out / "config.yaml").read_text()
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)


def test_resumes_with_other_run_options(straight, tiny_corpus, out):
    """From step 8 on the run resumes with other options of the section `run`, to the same weights."""
    for name in ("checkpoints/step_12", "full", "encoder"):
        shutil.rmtree(out / name)
    changes = {"run__save_steps": 3, "run__keep_checkpoints": 1, "run__stop_after_steps": 99}
    pretrain(tiny_corpus, out, **USUAL, **changes)
    assert_equal_arrays(checkpoint(out, STEPS), checkpoint(straight, STEPS))


BFLOAT16 = {
    "run__amp": "bf16",
    "run__log_steps": 1,
    "run__eval_sequences": 2,
    "run__micro_batch_tokens": 512,
    "optimizer__steps": 4,
    "model__num_hidden_layers": 1,
}


def test_a_stopped_run_ends_with_the_same_bits(cpu_with_bf16, tiny_corpus, tmp_path):
    """The resumed run is the uninterrupted one, and its losses are near those of float32."""
    straight = pretrain(tiny_corpus, tmp_path / "straight", **BFLOAT16)
    resumed = pretrain(tiny_corpus, tmp_path / "resumed", run__stop_after_steps=2, **BFLOAT16)
    pretrain(tiny_corpus, resumed, **BFLOAT16)
    assert_equal_runs(straight, resumed, 4)
    in_float32 = pretrain(tiny_corpus, tmp_path / "float32", **(BFLOAT16 | {"run__amp": "none"}))
    assert losses(straight) == pytest.approx(losses(in_float32), rel=0.01)
    assert losses(straight) != losses(in_float32)  # the products really were in bfloat16
