"""--recipe_devices: a recipe's total batch on any number of processes."""

import logging
from types import SimpleNamespace

import pytest

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_run import FinetuningRun, compute_effective_batch_size
from ernie_m.utils.args import parse_options


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
def test_effective_batch_size(line, processes, total, caplog):
    assert compute_effective_batch_size(parse_options(FinetuneFlags, line.split()), processes) == total
    assert caplog.messages == []


@pytest.mark.parametrize("devices, processes, even", [(2, 3, 2), (8, 7, 4)])
def test_warn_about_unequal_shares(devices, processes, even, caplog):
    flags = FinetuneFlags(batch_size=16, recipe_devices=devices)
    with caplog.at_level(logging.WARNING, logger="ernie_m"):
        assert compute_effective_batch_size(flags, processes) == 16 * devices
    (line,) = [record.message for record in caplog.records if f"batch size {16 * devices}" in record.message]
    assert line.startswith(f"{processes} processes ") and f" {even} processes " in line


@pytest.mark.parametrize(("pooling", "unused"), [("mean", ("pooler.",)), (None, ())])
def test_a_head_on_means_has_no_new_pooler(pooling, unused):
    start, task = SimpleNamespace(has_pooler=False), SimpleNamespace(name="classification")
    run = SimpleNamespace(start=start, task=task, pooling=pooling)
    assert FinetuningRun._unused_prefixes.fget(run) == unused
