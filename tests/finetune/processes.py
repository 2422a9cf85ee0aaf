"""Commands that run in one process or in two, and what `processes_script.py` has recorded of their steps."""

import json
import sys
from contextlib import chdir
from unittest import mock

import numpy as np
from safetensors.numpy import load_file

from ernie_m.training.engine import Engine
from tests.finetune import processes_script
from tests.launching import launch, run_script

SCRIPT = processes_script.__file__


def start(folder, commands, processes, stop_at=0):
    """Run commands (script, folder to run it in, flags) in one process or two.

    Args:
        stop_at: the step in which all processes get SIGTERM; 0: none.
    """
    commands = [[script, str(place), line] for script, place, line in commands]
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    if processes == 1 and not stop_at:  # this one, which has Paddle already
        step = mock.patch.object(Engine, "step", Engine.step)  # put back at the end
        with chdir(folder), step, mock.patch.object(sys, "argv", [SCRIPT, str(path)]):
            processes_script.main()
        return
    run = run_script if processes == 1 else launch
    completed = run([SCRIPT, path], folder, STOP_AT=str(stop_at))
    assert completed.returncode == 0, completed.stderr


def recorded(folder, rank):
    """step -> [[loss, samples], ...], for each time that process `rank` did the step.

    The samples are the numbers of the examples that it read for the step.
    """
    path = folder / f"steps.{rank}.json"
    runs_by_step = json.loads(path.read_text()) if path.exists() else {}
    return {int(step): runs for step, runs in runs_by_step.items()}


def losses(folder, rank=0):
    """The loss of each step, when process `rank` did it for the first time."""
    losses_of_steps = []
    for _, runs in sorted(recorded(folder, rank).items()):
        loss, _ = runs[0]
        losses_of_steps.append(loss)
    return losses_of_steps


def assert_close(expected_path, path):
    """Two files of weights agree within 1e-9."""
    tensors = load_file(path)
    for name, expected in load_file(expected_path).items():
        np.testing.assert_allclose(tensors[name], expected, rtol=0, atol=1e-9, err_msg=name)


def in_order(shares):
    """The sentences of a step of retrieval, of which each process has a share, as one process has them.

    They are all sources, then all translations, then all given negatives.
    """
    sources = []
    translations = []
    negatives = []
    for share in shares:
        count = share.pair_count
        sources += share.sentences[:count]
        translations += share.sentences[count : 2 * count]
        negatives += share.sentences[2 * count :]
    return sources + translations + negatives
