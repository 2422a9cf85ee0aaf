"""Run by test_distributed.py in each of several processes: writes what it saw to <argv 1>/<rank>.json."""

import json
import sys
from pathlib import Path

import paddle

from training import distributed

device = distributed.init()
rank, world = distributed.rank(), distributed.world_size()
small = [
    paddle.full([2, 3], float(rank + 1), dtype="float64"),
    paddle.full([4], 10.0 ** -(rank + 9), dtype="float64"),
]
single = [paddle.full([5], float(rank), dtype="float32")]
large = paddle.arange(1000, dtype="float64") * (rank + 1)
distributed.sum_([*small, *single, large], bucket_bytes=1024)
weight = paddle.full([3], float(rank + 7))
distributed.broadcast_([weight])
distributed.barrier()
seen = {
    "device": device,
    "world": world,
    "is_main": distributed.is_main(),
    "all_sum": distributed.all_sum([0.1 * (rank + 1), 1e-12, 1.0]),
    "gather": distributed.gather({"rank": rank, "text": "é"}),
    "small": [tensor.tolist() for tensor in small],
    "single": single[0].tolist(),
    "large": large[[0, 1, 999]].tolist(),
    "weight": weight.tolist(),
}
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(seen))
