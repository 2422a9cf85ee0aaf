"""Commands that run in one process or in two, and the losses that `processes_script.py` has recorded."""

import json
import sys
from contextlib import chdir
from itertools import chain
from unittest import mock

from safetensors.numpy import load_file

from ernie_m.training.engine import Engine
from tests.finetune import processes_script
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.files import write_file
from tests.launching import check_success, launch


def start(folder, commands, processes):
    """Run commands (script, folder to run it in, flags) in one process or two."""
    path = write_file(
        folder / "commands.json",
        json.dumps([[script, str(directory), line] for script, directory, line in commands]),
    )
    if processes == 1:  # this one, which has Paddle already
        step = mock.patch.object(Engine, "step", Engine.step)  # put back at the end
        with chdir(folder), step, mock.patch.object(sys, "argv", [processes_script.__file__, str(path)]):
            processes_script.main()
    else:
        check_success(launch([processes_script.__file__, path], folder))


def losses(folder, rank=0):
    """The loss of each step of process `rank`."""
    return json.loads((folder / f"losses.{rank}.json").read_text())


def assert_close(expected_path, path):
    """Two files of weights agree within 1e-9."""
    assert_equal_arrays(load_file(path), load_file(expected_path), 1e-9)


def in_order(fractions):
    """The sentences of a step of retrieval, of which each process has a share, as one process has them.

    They are all sources, then all translations, then all given negatives.
    """
    parts = [
        (share.sentences[:count], share.sentences[count : 2 * count], share.sentences[2 * count :])
        for share, count in ((share, share.pair_count) for share in fractions)
    ]
    return [*chain.from_iterable(chain.from_iterable(zip(*parts)))]
