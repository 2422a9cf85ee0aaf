"""Run by test_distributed.py in each of several processes: writes what it saw to <argv 1>/<rank>.json."""

import json
import sys
from pathlib import Path

import paddle

from training import distributed

device = distributed.init()
rank, world = distributed.rank(), distributed.world_size()
kinds = ([2, 3], "float64"), ([4], "float32")
parameters = [paddle.create_parameter(shape, dtype) for shape, dtype in kinds]
parameters[0].grad = paddle.full([2, 3], 10.0 ** -(rank + 9), dtype="float64")
parameters[1].grad = paddle.full([4], float(rank + 1))
distributed.sum_gradients(parameters)
weight = paddle.full([3], float(rank + 7))
distributed.broadcast_([weight])
distributed.barrier()
seen = {
    "device": device,
    "world": world,
    "is_main": distributed.is_main(),
    "all_sum": distributed.all_sum([0.1 * (rank + 1), 1e-12, 1.0]),
    "gather": distributed.gather({"rank": rank, "text": "é"}),
    "gradients": [parameter.grad.tolist() for parameter in parameters],
    "weight": weight.tolist(),
}
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(seen))
