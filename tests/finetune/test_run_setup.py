"""The folder of a run: where the same command resumes, which commands are refused, what begins again."""

import contextlib
import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.commands import run_classifier
from ernie_m.finetune.classifier import Classification
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.hyperparameters import choose_hyperparameters
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.run_setup import make_loop_config, open_output_dir
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.training.engine import Engine
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import LoopConfig
from ernie_m.utils.checksums import MANIFEST
from tests import command_lines
from tests.helpers.files import write_file
from tests.launching import another_process_writes, call_main, error_of, read_log

# 6 steps, evaluated after 3 and 6, saved after 2, 4 and 6.
FAST = {"max_steps": 6, "save_steps": 2, "validation_steps": 3, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def finished(toy_folder, module_folder):
    """The folder of a run that has ended, made once."""
    with contextlib.chdir(module_folder):
        call_main(run_classifier, command_lines.classification(toy_folder, module_folder / "out", **FAST))
    return module_folder / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def trained(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on interruptions: weights, moments, state, the selected evaluations."""
    endings = (".safetensors", "state.json", "selected.json")
    return {name: data for name, data in contents(folder).items() if name.endswith(endings)}


def interrupt(monkeypatch, owner, method: str, number: int) -> None:
    """Let this process get Ctrl-C in call `number`, from 0, of a method of class `owner`."""
    original = getattr(owner, method)
    calls = itertools.count()

    def signalled(self, *arguments, **keywords):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(owner, method, signalled)


def test_resume_after_ctrl_c_while_evaluating_the_second_seed(
    classify, monkeypatch, tmp_path, models_in_memory
):
    """The next command repeats the evaluation, and then everything is as without the interruption."""
    flags = {"random_seed": "1,2", **FAST}
    straight = classify(**flags)
    assert models_in_memory == [0, 0]
    # A seed is evaluated twice, on 3 files of 4 batches, which makes 24 calls: 0 to 23 are of seed 1, 24 to
    # 35 are the first evaluation of seed 2, and 36 to 47 the second.
    with monkeypatch.context() as patch:
        interrupt(patch, Classification, "predict", 40)
        with pytest.raises(SystemExit, match="130"):
            classify(out="broken", **flags)
    assert not (tmp_path / "broken" / "results.json").exists()
    log = read_log(tmp_path)
    assert "Ctrl-C received" in log and "run the same command to resume" in log
    seed_1 = contents(tmp_path / "broken" / "seed_1")
    again = classify(out="broken", **flags)
    assert contents(tmp_path / "broken" / "seed_1") == seed_1
    assert trained(tmp_path / "broken") == trained(tmp_path / "out")
    assert again["tables"] == straight["tables"] and again["selected"] == straight["selected"]


def test_a_request_to_another_process_ends_an_evaluation(classify, tmp_path, monkeypatch):
    """All processes stop if one of them gets a signal, or they would wait for each other."""
    monkeypatch.setattr(ShutdownHandler, "is_set_on_any_process", lambda self: True)
    assert classify(**FAST) is None
    log = read_log(tmp_path)
    assert "interrupted at step 3/6" in log and "[dev evaluation]" not in log
    assert (tmp_path / "out" / "log" / "job.log.0").read_text() == log


def test_a_finished_run_prints_its_report_again(
    finished, classify, toy_folder, tmp_path, monkeypatch, capsys
):
    """It neither trains nor evaluates. With --do_test it predicts, without any checkpoint."""
    shutil.copytree(finished, tmp_path / "out")
    first = json.loads((finished / "results.json").read_text())
    (tmp_path / "out" / "results.json").unlink()
    before = contents(tmp_path / "out")
    capsys.readouterr()
    monkeypatch.setattr(Engine, "step", None)  # a call would fail
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "predict", None)
        again = classify(**FAST | {"save_steps": 3, "skip_steps": 3})
        assert again == first | {"command": again["command"]}  # which names the folder
    after = contents(tmp_path / "out")
    del before["log/job.log.0"]  # it has the messages of both
    assert {name: after[name] for name in before} == before
    assert "| seed 1 |" in (tmp_path / "out" / "results.md").read_text()
    assert "seed 1  " in capsys.readouterr().out
    for step in (tmp_path / "out").glob("step_*"):
        shutil.rmtree(step)
    classify(do_test="true", test_set=f"{toy_folder}/test.%s.tsv", test_save="t.%s", **FAST)
    assert (tmp_path / f"t.en.0.{first['selected']['1']['step']}").is_file()


def test_files_with_other_paths(finished, classify, toy_folder, tmp_path, monkeypatch):
    """They are the same files, so the run is the same one, and its scores are those of the other paths."""
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "data").symlink_to(toy_folder)
    monkeypatch.setattr(Engine, "step", None)  # a call would fail
    first = json.loads((finished / "results.json").read_text())
    again = classify(dev_set="data/dev.%s.tsv", **FAST)
    assert again["tables"][0]["seeds"] == first["tables"][0]["seeds"]


def backwards(path: Path, target: Path) -> Path:
    """Write the rows of a TSV file, the last one first, to `target`, which is returned; the size is equal."""
    header, *rows = path.read_text().splitlines()
    return write_file(target, "\n".join([header, *reversed(rows)]) + "\n")


def test_a_second_training_is_refused(refused, train_on_pairs, tmp_path):
    """While another process writes the folder."""
    out = tmp_path / "out"
    with another_process_writes(f"run:{out}"):
        before = [*tmp_path.rglob("*")]
        assert f"{out}: " in refused(**FAST)
        assert error_of(train_on_pairs, "out").startswith(f"{out}: locked by another command")
        assert [path for path in tmp_path.rglob("*") if "log" not in path.parts] == before


def test_another_run_is_refused_and_nothing_changes(finished, classify, refused, toy_folder, tmp_path):
    source = shutil.copytree(finished, tmp_path / "source")
    weights = {"init_pretraining_params": source / "best", **FAST}
    classify(**weights)
    before = contents(tmp_path / "out")
    cases = [
        ({"learning_rate": 1e-3}, "learning_rate: 0.005 -> 0.001"),
        ({"batch_size": 4}, "global_batch: 8 -> 4"),
        ({"shuffle": "false"}, "shuffle: "),
        ({"random_seed": 2}, "random_seed: [1] -> [2]"),
        ({"dev_set": f"{toy_folder}/heldout.%s.tsv"}, "dev_set: "),
        ({"init_pretraining_params": source / "step_2"}, "start: "),
        ({"init_pretraining_params": None}, "-> random"),
        ({"train_set": backwards(toy_folder / "train.tsv", tmp_path / "train.tsv")}, "train_set: "),
    ]
    for changes, difference in cases:
        line = refused(**{**weights, **changes})
        assert "out: made with other settings (" in line and difference in line, changes
    # The same path, and one number of the first tensor is another.
    (source / "best" / MANIFEST).unlink()
    path = source / "best" / "model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)].flat[0] += 1
    save_file(tensors, path)
    assert "start: " in refused(**weights)
    assert contents(tmp_path / "out") == before


def test_an_evaluation_with_a_flipped_bit(finished, refused, classify, tmp_path):
    """It is valid JSON with other numbers. Removed, it is made again."""
    path = shutil.copytree(finished, tmp_path / "out") / "selected.json"
    evaluation = path.read_bytes()
    path.write_bytes(evaluation.replace(b'"epoch": 0', b'"epoch": 1'))
    assert f"{path}: " in refused(**FAST)
    path.unlink()
    classify(**FAST)
    assert path.read_bytes() == evaluation


def test_overwrite_begins_anew(classify, refused, tmp_path):
    """It removes only what this command writes: a user's files have names that are like its own."""
    out = tmp_path / "out"
    classify(random_seed="1,2", **FAST)
    of_the_user = {
        "notes.txt",
        "results.xlsx",
        "retrieval.md",
        "test_result.xlsx",
        "step_notes",
        "seed_1.txt",
    }
    for name in (*of_the_user, "evaluation.md", "test_result.0.6", "nbest_test_result.seed_2.0.6"):
        (out / name).write_text("a file")
    assert classify(overwrite="true", **{**FAST, "learning_rate": 1e-3})["selected"].keys() == {"1"}
    names = {path.name for path in out.iterdir()}
    classify(out="alone", **{**FAST, "learning_rate": 1e-3})
    assert names == {path.name for path in (tmp_path / "alone").iterdir()} | of_the_user
    assert trained(out) == trained(tmp_path / "alone")
    best = tmp_path / "alone" / "best"
    for flag, path in {"init_pretraining_params": best, "piece_model_path": best / "piece.model"}.items():
        line = refused(overwrite="true", out="alone", **{**FAST, flag: path})
        assert line.startswith(f"error: overwrite would remove {path}, ") and best.is_dir()


@pytest.mark.parametrize(
    "reads",
    [{"pairs": "out/predictions"}, {"pairs": "x", "init_pretraining_params": "%d", "random_seed": (1, 2)}],
)
def test_overwrite_removes_nothing_that_a_search_reads(tmp_path, in_tmp_path, reads):
    """Bitexts, and the weights of the second seed, in the folder of predictions, which it would remove."""
    (tmp_path / "out/predictions").mkdir(parents=True)
    (tmp_path / "2").symlink_to("out/predictions")
    folder = open_output_dir(RetrievalFlags(checkpoints="out", overwrite=True, **reads), {})
    path = "2" if "random_seed" in reads else reads["pairs"]
    assert error_of(folder.__enter__).startswith(f"overwrite would remove {path}, ")


def test_flags_of_the_loop():
    flags = SimpleNamespace(skip_steps=3, save_steps=4, stall_ends_seconds=5.0, tensorboard=True)
    expected = LoopConfig(log_steps=3, save_steps=4, stall_ends_seconds=5.0, tensorboard=True)
    assert make_loop_config(flags) == expected


@pytest.mark.parametrize(
    ("task", "width", "rows", "chosen"),
    [
        # 40 steps of 32 at least, then 20 epochs of up to 500 rows, and one of 10,000 or more.
        (CLASSIFICATION, 256, 16, (5e-4, 1.0, 80)),
        (CLASSIFICATION, 258, 200, (1.5e-4, 0.9, 20)),
        (CLASSIFICATION, 512, 1000, (1.5e-4, 0.9, 10)),
        (CLASSIFICATION, 768, 39_302, (5e-5, 0.8, 1)),
        (TOKEN_CLASSIFICATION, 128, 16, (5e-4, 1.0, 80)),
        (TOKEN_CLASSIFICATION, 384, 200, (4e-4, 0.9, 20)),
        (TOKEN_CLASSIFICATION, 1024, 1000, (4e-4, 0.8, 6)),
        # Contexts are long: half as many epochs, but two at least.
        (QUESTION_ANSWERING, 128, 16, (5e-4, 1.0, 10)),
        (QUESTION_ANSWERING, 384, 1000, (3e-4, 0.9, 3)),
        (QUESTION_ANSWERING, 768, 39_302, (3e-4, 0.8, 2)),
        (QUESTION_ANSWERING, 1024, 200, (8e-5, 0.9, 10)),
    ],
)
def test_choose_hyperparameters_by_width_and_rows(caplog, info_log, task, width, rows, chosen):
    """Flags that are given stay."""
    config = ErnieMConfig(9, width, 2, num_attention_heads=2)
    names = ("learning_rate", "layerwise_lr_decay", "epoch")
    for given in ((), names):
        flags = FinetuneFlags(learning_rate=7, on_command_line=given)
        suited = dict(zip(names, () if given else chosen))
        assert choose_hyperparameters(flags, config, rows, task) == replace(flags, **suited)
    said = f"hyperparameters for a 2-layer, {width}-wide model and {rows} examples: "
    flags = " ".join(f"--{name} {value}," for name, value in zip(names, chosen)).rstrip(",")
    assert caplog.messages == [said + flags, f"{said}as given"]
