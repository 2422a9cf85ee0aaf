"""Check that this device computes what a CPU computes in float64: `sh scripts/gpu_check.sh [--quick]`.

One line for each check: ok, skipped or failed. The first line is what a bug report needs. A failed line says
what to do. The last line is JSON. The exit code is 1 if a check failed. --quick uses tiny shapes.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

from utils.runtime import prepare

if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's warnings are about its own code
    prepare(quiet=True)

import paddle

from scripts.gpu import export, kernels, machine, processes, speed, step, training
from scripts.gpu.report import Check, run_checks

# In the order of what finds most in the least time.
CHECKS: dict[str, Check] = {
    "environment": machine.check_environment,
    "device": machine.check_device,
    "operations": kernels.check_operations,
    "attention": kernels.check_attention,
    "flash mask": kernels.check_flash_mask,
    "loss": kernels.check_loss,
    "dropout": training.check_dropout,
    "objectives": training.check_objectives,
    "tasks": training.check_tasks,
    "options": training.check_options,
    "overflow": training.check_overflow,
    "processes": processes.check_processes,
    "step": step.check_step,
    "kernels": step.check_kernels,
    "export": export.check_export,
    "speed": speed.check_speed,
}
NEEDED = ("device",)  # if one of these fails, no other check is run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes")
    processes.add_arguments(parser)
    args = parser.parse_args()
    if args.worker is not None:
        processes.work(args.worker, args.stage)
        return
    if paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        paddle.set_device("gpu")
    sys.exit(run_checks(args.quick, CHECKS, NEEDED))


if __name__ == "__main__":
    run(main)
