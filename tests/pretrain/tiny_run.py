"""Runs of run_pretrain.py that are small enough for tests, what they log, and their comparison."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ernie_m.commands import run_pretrain
from ernie_m.pretrain.batches import StepReader
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.utils.args import parse_options
from ernie_m.utils.checksums import MANIFEST
from tests import command_lines
from tests.command_lines import STEPS
from tests.helpers.arrays import assert_equal_arrays
from tests.launching import call_main

SPEEDS = ("tokens_per_second", "teraflops")  # values of metrics.jsonl that a clock decides


def config(corpus: Path, output: Path = Path("unused"), **changes) -> PretrainConfig:
    """The configuration that `command_lines.pretraining` gives."""
    return parse_options(PretrainConfig, command_lines.pretraining(corpus, output, **changes))


def make_reader(settings: PretrainConfig, text: TrainingData, phases, *of_process) -> StepReader:
    """A reader of batches with this configuration. `of_process`: rank, world_size, position."""
    run = settings.run
    batch_size = settings.optimizer.batch_size
    return StepReader(text, phases, batch_size, run.micro_batch_tokens, run.seed, *of_process)


def pretrain(corpus: Path, output: Path, **changes) -> Path:
    """run_pretrain.py with these flags in this process; returns `output`."""
    call_main(run_pretrain, command_lines.pretraining(corpus, output, **changes))
    return output


def records(output: Path) -> list[dict]:
    """The lines of metrics.jsonl, of training and of evaluations, without what a clock decides."""
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for record in logged:
        for name in SPEEDS:
            record.pop(name, None)
    return logged


def losses(output: Path) -> list[float]:
    """The loss of every record of training."""
    return [record["loss"] for record in records(output) if "loss" in record]


def checkpoint(output: Path, step: int) -> dict[str, np.ndarray]:
    """Weights and optimizer state of a checkpoint."""
    folder = output / "checkpoints" / f"step_{step}"
    state = load_file(folder / "training_state" / "arrays.safetensors")
    return load_file(folder / "model.safetensors") | {f"state/{name}": value for name, value in state.items()}


def assert_equal_runs(straight: Path, resumed: Path, step: int = STEPS) -> None:
    """Weights, optimizer state, positions, losses and exported files of two runs are the same bits."""
    assert_equal_arrays(checkpoint(resumed, step), checkpoint(straight, step))
    state_path = f"checkpoints/step_{step}/training_state/state.json"
    state = json.loads((resumed / state_path).read_text())["trainer"]
    assert state == json.loads((straight / state_path).read_text())["trainer"]
    assert records(resumed) == records(straight)
    for export in ("full", "encoder"):
        for path in (straight / export).iterdir():
            if path.name not in ("README.md", MANIFEST):  # the card has the command, the manifest its digest
                assert (resumed / export / path.name).read_bytes() == path.read_bytes(), path
