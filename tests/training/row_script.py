"""What `test_row_adam.py` runs on several processes: <folder> <sharding stage>."""

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from model import device
from tests.training.row_toy import STEPS, RowToy
from training import distributed

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stage = int(sys.argv[2])
    distributed.init(sharding_stage=stage)
    with (
        mock.patch.object(device, "on_cpu", return_value=False),
        mock.patch.object(device, "uses_gpu_kernels", return_value=True),
    ):
        toy = RowToy(stage)
        norms = toy.train(0, STEPS)
    np.savez(folder / f"{distributed.rank()}.npz", norms=norms, **toy.weights())
