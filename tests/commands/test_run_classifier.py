"""The training loop of run_classifier.py: it learns, selects a step, runs several seeds, resumes exactly."""

import json
import re

import pytest

from ernie_m.finetune import finetuning_run, run_setup
from ernie_m.model import kernel_selection
from ernie_m.model.optimization import build_optimizer
from tests import toys
from tests.helpers.checkpoints import assert_same_weights, changed_copy, stored
from tests.helpers.files import read_files, write_file
from tests.launching import error_of, read_log, read_masked_log


def test_the_flags_reach_the_optimizer(classify, monkeypatch):
    """Here of layer 1 of 2."""
    made = []

    def noted(model, *args, **options):
        optimizer = build_optimizer(model, *args, **options)
        made.append((model, optimizer))
        return optimizer

    monkeypatch.setattr(run_setup, "build_optimizer", noted)
    flags = {"layerwise_lr_decay": 0.5, "weight_decay": 0.1, "learning_rate": 1e-3, "warmup_proportion": 0.5}
    flags["recompute"] = "true"
    for style, expected_lr in (("official", 0.5e-3), ("paddlenlp", 1e-3)):
        classify(max_steps=4, do_val="false", out=style, lr_schedule_style=style, **flags)
        model, optimizer = made[-1]
        weight = dict(model.named_parameters())["ernie_m.encoder.layers.1.linear1.weight"]
        (group,) = [group for group in optimizer._param_groups if any(x is weight for x in group["params"])]
        # Paddle's kernel multiplies the decay by the layer's own learning rate, half of the full one.
        assert (group["learning_rate"], group["weight_decay"]) == (0.5, pytest.approx(0.2))
        schedule = optimizer.lr_scheduler
        assert schedule.base_lr * schedule.lr_lambda(2) == pytest.approx(expected_lr)
    classify(max_steps=4, do_val="false", out="noam", lr_scheduler="noam_decay", **flags)
    model, optimizer = made[-1]
    assert optimizer.lr_scheduler.lr_lambda(7) == 0.5  # sqrt(2 / 8): the warm-up has 2 of 4 steps
    assert model.ernie_m.recompute


def test_ignore_settings_stored_for_other_tasks(classify, random_encoder, tmp_path):
    start = changed_copy(
        random_encoder, tmp_path / "initial", pipeline=stored(label_pieces="all", split_han=False)
    )
    classify(max_steps=1, do_val="false", init_pretraining_params=start)
    assert "options of " not in read_log(tmp_path)


def test_plain_kernels_are_chosen_by_the_flag(classify, monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.FAST)
    classify(max_steps=1, kernels="plain")
    assert kernel_selection.has_plain_kernels()


# What a run with two seeds logs, as `read_masked_log` has it.
SEED = """\
INFO seed 1: 70 examples, 6 optimizer steps of 8 examples (batch 8 x accumulation 1 x processes 1)
WARNING no --init_pretraining_params: initializing all weights randomly
WARNING --warmup_proportion # of 6 steps rounds to 0: constant learning rate
INFO device: cpu; precision float32; attention unpadded; 1 process
INFO epoch: 0, progress: 32/70, step: 4/6, ave loss: #, ave acc: #, lr: #, grad norm: #, \
speed: # steps/s, # + 1 evaluation left
INFO saved RUN/out/seed_1/step_4
INFO epoch: 0, progress: 48/70, step: 6/6, ave loss: #, ave acc: #, lr: #, grad norm: #, \
speed: # steps/s, # + 1 evaluation left
INFO saved RUN/out/seed_1/step_6
INFO [dev evaluation] ave loss: #, en acc: #, data_num: 31, elapsed time: # s file: TOY/dev.en.tsv, \
epoch: 0, steps: 6
INFO [dev evaluation] ave loss: #, de acc: #, data_num: 31, elapsed time: # s file: TOY/dev.de.tsv, \
epoch: 0, steps: 6
INFO [dev evaluation] ave loss: #, fr acc: #, data_num: 31, elapsed time: # s file: TOY/dev.fr.tsv, \
epoch: 0, steps: 6
INFO seed 1: best score # (step 6, epoch 0)
INFO device: cpu; precision float32; attention unpadded; 1 process
INFO testing TOY/dev.en.tsv, save to RUN/test.en.tsv.seed_1.0.6
INFO testing TOY/dev.de.tsv, save to RUN/test.de.tsv.seed_1.0.6
INFO testing TOY/dev.fr.tsv, save to RUN/test.fr.tsv.seed_1.0.6
"""
LOG = f"""\
WARNING RUN/two.tsv: labels without training rows: tool
{SEED}{SEED.replace("seed 1", "seed 2").replace("seed_1", "seed_2")}\
INFO results
acc, TOY/dev.%s.tsv
 en de fr avg gap
 seed 1 # # # # #
 seed 2 # # # # #
 mean # # # # #
 deviation ± # ± # ± # ± # ± #
majority baseline # # # #
INFO wrote RUN/out/results.{{txt,md,json}}
"""


def test_log_and_files_of_a_run(classify, toy_folder, tmp_path):
    """One label has no row in the training data."""
    lines = (toy_folder / "train.tsv").read_text().splitlines(keepends=True)
    path = write_file(tmp_path / "two.tsv", "".join(line for line in lines if not line.endswith("\ttool\n")))
    tests = {"test_set": f"{toy_folder}/dev.%s.tsv", "test_save": f"{tmp_path}/test.%s.tsv"}
    classify(train_set=path, max_steps=6, random_seed="1,2", save_steps=4, do_test="true", **tests)
    assert read_masked_log(tmp_path, TOY=toy_folder) == LOG
    model = ("README.md", "config.json", "manifest.json", "model.safetensors", "piece.model")
    state = [f"training_state/{name}" for name in ("arrays.safetensors", "manifest.json", "state.json")]
    of_seed = {
        *(f"{folder}/{name}" for folder in ("best", "step_4", "step_6") for name in model),
        *(f"{folder}/{name}" for folder in ("step_4", "step_6") for name in state),
        *("metrics.jsonl", "selected.json", "selected.json.digest"),
    }
    seeds = ("seed_1", "seed_2")
    assert read_files(tmp_path).keys() == {
        *("two.tsv", "log/job.log.0", "out/log/job.log.0", "out/.lock", "out/run.json"),
        *(f"out/results.{ending}" for ending in ("txt", "md", "json")),
        *(f"test.{language}.tsv.{seed}.0.6" for language in toys.LANGUAGES for seed in seeds),
        *(f"out/{seed}/{name}" for name in of_seed for seed in seeds),
    }


def test_it_learns_the_toy_task_and_reports(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["tables"][0]["mean"] == {"en": 100.0, "de": 100.0, "fr": 100.0, "avg": 100.0, "gap": 0.0}
    log = read_log(trained.parent)
    # Of dev.en.tsv, after each of 10 epochs of 96 examples in batches of 8.
    ends_of_epochs = re.findall(r"dev\.en\.tsv, epoch: (\d+), steps: (\d+)$", log, re.M)
    assert ends_of_epochs == [(str(epoch), str(12 * (epoch + 1))) for epoch in range(10)]


# step -> pattern -> language -> accuracy, for evaluations that do not look at the model. On dev, English
# alone is best at step 4 and the mean at step 8; the second pattern is best at step 12.
SCRIPTED = {
    4: {"dev": {"en": 90.0, "de": 40.0, "fr": 41.0}, "heldout": {"en": 10.0, "de": 11.0, "fr": 12.0}},
    8: {"dev": {"en": 80.0, "de": 70.0, "fr": 71.0}, "heldout": {"en": 20.0, "de": 21.0, "fr": 22.0}},
    12: {"dev": {"en": 80.0, "de": 70.0, "fr": 71.0}, "heldout": {"en": 99.0, "de": 98.0, "fr": 97.0}},
}


@pytest.fixture
def scripted(monkeypatch):
    """Let evaluations have the scores of SCRIPTED."""

    def evaluate_files(task, engine, files, *_):
        names = {file.pattern: "heldout" if "heldout" in file.pattern else "dev" for file in files}
        return {
            pattern: {code: {"acc": accuracy} for code, accuracy in SCRIPTED[engine.steps][name].items()}
            for pattern, name in names.items()
        }

    monkeypatch.setattr(finetuning_run, "evaluate_files", evaluate_files)


@pytest.mark.parametrize(("select_on", "step"), [("mean", 8), ("en", 4)])
def test_the_first_pattern_selects_and_the_others_are_reported_at_that_step(
    classify, scripted, toy_folder, tmp_path, select_on, step
):
    patterns = f"{toy_folder}/dev.%s.tsv,{toy_folder}/heldout.%s.tsv"
    results = classify(
        dev_set=patterns, epoch=1, validation_steps=4, save_steps=2, keep_checkpoints=5, select_on=select_on
    )
    assert results["selected"]["1"]["step"] == step
    dev, heldout = results["tables"]
    assert dev["title"] == f"acc, {toy_folder}/dev.%s.tsv"
    for table, name in ((dev, "dev"), (heldout, "heldout")):
        assert {language: table["mean"][language] for language in toys.LANGUAGES} == SCRIPTED[step][name]
    assert_same_weights(tmp_path / "out" / "best", tmp_path / "out" / f"step_{step}")
    # The card of a step has the scores of that step, the best or not.
    card = (tmp_path / "out" / "step_12" / "README.md").read_text()
    facts = (
        "| 80.00 | 70.00 | 71.00 |",
        "| 99.00 | 98.00 | 97.00 |",
        "Languages: en, de, fr\n",
        "train.tsv",
        "run_classifier",
        "--select_on",
        "Seed: 1\n",
        "Epochs: 1\n",
        f"Selected by: acc, {select_on}, dev.%s.tsv\n",
    )
    assert [fact for fact in facts if fact not in card] == []
    assert "heldout.%s.tsv: not above the majority baseline: en (" in read_log(tmp_path)
    # After step 10 there was no evaluation, so its card has no scores.
    assert "| 70.00 |" not in (tmp_path / "out" / "step_10" / "README.md").read_text()


def test_the_last_step_is_reported_where_nothing_selects(classify, tmp_path):
    """Dev files are scored once, at the end; the weights are those of the last step."""
    assert classify(epoch=1, validation_steps=5, select_on="last")["selected"]["1"]["step"] == 12
    assert read_log(tmp_path).count("[dev evaluation]") == len(toys.LANGUAGES)
    assert_same_weights(tmp_path / "out" / "best", tmp_path / "out" / "step_12")


def test_several_seeds_run_in_turn_and_equal_single_runs(classify, tmp_path):
    seeds = classify(random_seed="3,4", epoch=1)["tables"][0]["seeds"]
    alone = classify(out="alone", random_seed=4, epoch=1)
    of_seed, of_run = tmp_path / "out/seed_4/step_12", tmp_path / "alone/step_12"
    assert_same_weights(of_seed, of_run)
    assert (of_seed / "config.json").read_bytes() == (of_run / "config.json").read_bytes()
    assert list(seeds) == ["3", "4"] and seeds["4"] == alone["tables"][0]["seeds"]["4"]


@pytest.mark.parametrize("in_tokens", ["false", "true"])
def test_resume_is_bit_identical(classify, tmp_path, in_tokens):
    """Dropout is on. The second run resumes from step 10, within the first of two epochs."""
    options = {"save_steps": 10, "validation_steps": 6, "keep_checkpoints": 9, "max_steps": 16}
    if in_tokens == "true":
        options |= {"in_tokens": in_tokens, "batch_size": 64, "max_seq_len": 64}
    straight = classify(**options)
    folder = tmp_path / "out"
    last = "step_16"
    resumed = classify(out="again", init_checkpoint=folder / "step_10", **options)
    assert not (tmp_path / "again" / "step_10").exists()
    assert_same_weights(folder / last, tmp_path / "again" / last)
    state = f"{last}/training_state"
    assert read_files(folder / state) == read_files(tmp_path / "again" / state)
    assert resumed["tables"] == straight["tables"] and resumed["selected"] == straight["selected"]


def test_max_steps_ends_the_run_and_its_schedule(classify, toy_folder, tmp_path):
    """Of 6 steps 3 warm up. Step i, from 0, has i/3 of the peak, and then 1 - i/6 of it.

    Nothing selects a step, so the last one predicts.
    """
    peak = 5e-3
    tests = {
        "do_val": "false",
        "do_test": "true",
        "test_set": f"{toy_folder}/test.%s.tsv",
        "test_save": "t.%s",
    }
    of_steps = {"max_steps": 6, "skip_steps": 1, "batch_size": 20, "epoch": 3}  # an epoch has 5 steps
    classify(**of_steps, warmup_proportion=0.5, learning_rate=peak, **tests)
    assert sorted(path.name for path in tmp_path.glob("t.*")) == ["t.de.1.6", "t.en.1.6", "t.fr.1.6"]
    learning_rates = [float(rate) for rate in re.findall(r"lr: (\S+),", read_log(tmp_path))]
    expected = [0, peak / 3, peak * 2 / 3, peak * 3 / 6, peak * 2 / 6, peak / 6]
    assert learning_rates == pytest.approx(expected, rel=1e-3)  # they are logged with 4 digits


def test_bf16_training_resumes_exactly(classify, tmp_path, cpu_with_bf16):
    """Dropout is on. A run in float32 does not resume it."""
    options = {"save_steps": 10, "keep_checkpoints": 9}
    classify(amp="bf16", **options)
    start = tmp_path / "out" / "step_10"
    classify(out="again", init_checkpoint=start, amp="bf16", **options)
    assert_same_weights(tmp_path / "again" / "step_24", tmp_path / "out" / "step_24")
    assert "amp: bf16 -> none" in error_of(classify, out="float32", init_checkpoint=start, **options)
