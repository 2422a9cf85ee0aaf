"""Two processes: one stands still before a sum that the other one waits in."""

import sys
import time

from training import distributed
from training.guard import StallWatch
from utils.logging import setup

distributed.init(use_gpu=False)
setup(sys.argv[1], distributed.rank())
with StallWatch(0.5) as stalls:
    distributed.barrier()
    if distributed.rank() == 1:
        time.sleep(3)
    with stalls.during("step 1"):
        distributed.barrier()
