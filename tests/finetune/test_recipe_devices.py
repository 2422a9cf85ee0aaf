"""--recipe_devices: a recipe's total batch on any number of processes."""

import json
import logging

import pytest

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning import effective_batch_size
from ernie_m.utils.args import parse_options
from tests import command_lines, toys
from tests.finetune.processes import assert_close, losses, start
from tests.launching import read_log


@pytest.mark.parametrize(
    "line, processes, total",
    [
        ("--batch_size 16", 3, 48),  # as in the official code
        ("--batch_size 16 --recipe_devices 2", 1, 32),
        ("--batch_size 16 --recipe_devices 2", 4, 32),
        ("--batch_size 16 --recipe_devices 8", 2, 128),
        ("--batch_size 16 --recipe_devices 2 --batch_size 8 --recipe_devices 4", 1, 32),
        ("--batch_size 16 --recipe_devices 2 --recipe_devices=", 1, 16),
        ("--batch_size 4000 --recipe_devices 2 --in_tokens true", 3, 8000),
    ],
)
def test_the_batch_of_a_step(line, processes, total, caplog):
    assert effective_batch_size(parse_options(FinetuneFlags, line.split()), processes) == total
    assert caplog.messages == []


@pytest.mark.parametrize("devices, processes, even", [(2, 3, 2), (8, 7, 4)])
def test_unequal_shares_are_said(devices, processes, even, caplog):
    flags = FinetuneFlags(batch_size=16, recipe_devices=devices)
    with caplog.at_level(logging.WARNING, logger="ernie_m"):
        assert effective_batch_size(flags, processes) == 16 * devices
    (line,) = [
        record.message for record in caplog.records if f"the {16 * devices} examples" in record.message
    ]
    assert line.startswith(f"{processes} processes ") and f" {even} processes " in line


@pytest.mark.slow
def test_unequal_shares_are_the_same_step(toy_folder, tmp_path):
    """Of 3 x 3 examples two processes take 5 and 4, in micro-batches of 3; in float64 without dropout."""
    config = {**toys.TASK_CONFIG, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = command_lines.classification(
        toy_folder,
        "out",
        ernie_config_path=tmp_path / "config.json",
        dtype="float64",
        max_steps=4,
        batch_size=3,
        recipe_devices=3,
        do_val="false",
    )
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        start(tmp_path, [("run_classifier", tmp_path / str(processes), line)], processes)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), abs=1e-9, rel=0)
    weights = "out/step_4/model.safetensors"
    assert_close(tmp_path / "1" / weights, tmp_path / "2" / weights)
    assert "2 processes cannot share the 9 examples" in read_log(tmp_path / "2")
