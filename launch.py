"""Start a script as one or several processes, with the official flags, through paddle.distributed.launch.

    python launch.py --nproc_per_node 2 run_classifier.py --batch_size 16 ...

The processes use the GPUs, or the CPU if there are none. A single process runs the script without a launcher.
The logs are <split_log_path>/<log_prefix>job.log.<rank>; other output is in <split_log_path>/workers. With
several machines, this is workers-node<N>, so that the machines can share <split_log_path>.
"""

import argparse
import contextlib
import math
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from utils.environment import run
from utils.errors import UserError
from utils.logging import LOG_DIR, LOG_PREFIX, RECIPE_BATCH
from utils.runtime import has_gpu, read_cpu, settings_for


def make_parser() -> argparse.ArgumentParser:
    """The official flags, and --recipe_devices."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--node_ips", default="", help="addresses of all machines, separated by commas; the first leads")
    add("--node_id", type=int, default=0, help="this machine's index in --node_ips")
    add("--master_port", type=int, help="port of the leader; default: made from the command, above 20000")
    add("--current_node_ip", help="this machine's address")
    add("--nproc_per_node", type=int, help="processes here; default: one per GPU, one on a CPU")
    add("--selected_gpus", help="GPUs to use: 0,1")
    add("--split_log_path", default=os.environ.get(LOG_DIR) or "log", help="folder of the logs")
    add("--log_prefix", default=os.environ.get(LOG_PREFIX, ""), help="prefix of job.log.<rank>")
    add("--recipe_devices", type=int, help="devices that --batch_size was chosen for: fewer processes reach "
        "the total by accumulation, rounded up")  # fmt: skip
    add("training_script")
    add("training_script_args", nargs=argparse.REMAINDER)
    return parser


def gpu_count() -> int:
    """The number of GPUs that Paddle can use. Paddle is imported only if the system has a GPU."""
    if not has_gpu():
        return 0
    import paddle

    return paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


def gpus_to_use(args: argparse.Namespace, gpus: int) -> list[str]:
    """The labels of --selected_gpus, or of all `gpus`. UserError: one is not on this machine."""
    seen = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
    chosen = args.selected_gpus.split(",") if args.selected_gpus else seen
    if wrong := [label for label in chosen if label not in seen]:
        raise UserError(f"launch.py: --selected_gpus {wrong[0]}: there are only the GPUs {','.join(seen)}")
    return chosen


def choose_processes(args: argparse.Namespace, gpus: int) -> int:
    """How many processes to start on this machine. UserError: more than GPUs, or less than one."""
    if gpus:
        gpus = min(gpus, len(gpus_to_use(args, gpus)))
    processes = args.nproc_per_node
    if processes is None:
        processes = min(gpus or 1, args.recipe_devices or gpus or 1)
    if processes < 1 or (gpus and processes > gpus):
        most = f"only {gpus} GPUs" if processes > 0 else "there must be at least 1"
        raise UserError(f"launch.py: {processes} processes, but {most} (--nproc_per_node, NPROC)")
    return processes


def keep_total(arguments: Sequence[str], recipe_devices: int, processes: int) -> tuple[list[str], str]:
    """Add accumulation for missing devices, rounded up, unless the user chose it. Also return a log line."""
    batch = integer_flag(arguments, "--batch_size") or 32  # the default of the scripts
    steps = integer_flag(arguments, "--gradient_accumulation_steps")
    if steps is None:
        steps = math.ceil(recipe_devices / processes)
        arguments = [*arguments, "--gradient_accumulation_steps", str(steps)]
    total = batch * steps * processes
    line = f"batch: {batch} x accumulation {steps} x processes {processes} = {total} in all"
    return list(arguments), f"{line} (the recipe is for {recipe_devices} devices)"


def integer_flag(arguments: Sequence[str], name: str) -> int | None:
    """The value of the last `name 8` or `name=8`. None: there is none, or one that the script refuses."""
    text = ""
    for word, following in pairwise([*arguments, ""]):
        if word == name:
            text = following
        elif word.startswith(f"{name}="):
            text = word.partition("=")[2]
    return int(text) if text.isdecimal() else None


def command(args: argparse.Namespace, processes: int, gpus: int) -> tuple[list[str], dict[str, str]]:
    """The command line to run, and the environment variables that it needs."""
    environment = {LOG_DIR: args.split_log_path, LOG_PREFIX: args.log_prefix}
    script = [args.training_script, *args.training_script_args]
    nodes = args.node_ips.split(",")
    if not 0 <= args.node_id < len(nodes):
        raise UserError(f"launch.py: --node_id {args.node_id}: --node_ips has 0 to {len(nodes) - 1}")
    if processes == 1 and len(nodes) < 2:
        if args.selected_gpus and gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus_to_use(args, gpus)[0]
        return [sys.executable, "-u", *script], environment
    if "OMP_NUM_THREADS" not in os.environ:
        # The launcher imports Paddle, which would set it to 1 for every process.
        environment["OMP_NUM_THREADS"] = settings_for(read_cpu(), processes)["OMP_NUM_THREADS"]
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    launcher += ["--log_level", "WARNING", "--log_dir", str(_workers(args))]
    if gpus:
        launcher += ["--devices", ",".join(gpus_to_use(args, gpus)[:processes])]
    elif "CUDA_VISIBLE_DEVICES" in os.environ:
        # It is empty, but the launcher needs one label per process; -1 is no GPU.
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(["-1"] * processes)
    if len(nodes) > 1:
        # A port from 20000 to 29999, the same on each machine, and likely another one for another command.
        port = args.master_port or 20000 + zlib.crc32("\0".join([args.node_ips, *script]).encode()) % 10000
        launcher += ["--master", f"{nodes[0]}:{port}", "--nnodes", str(len(nodes))]
        launcher += ["--rank", str(args.node_id), "--host", args.current_node_ip or nodes[args.node_id]]
    return [*launcher, *script], environment


def _workers(args: argparse.Namespace) -> Path:
    return Path(args.split_log_path, f"workers-node{args.node_id}" if "," in args.node_ips else "workers")


def signal_workers(launcher: subprocess.Popen, number: int) -> None:
    """Send a signal to each process of the run. They save and end, and then the launcher ends.

    On SIGTERM the launcher would end without them; after Ctrl-C it would kill them before they have saved.
    """
    workers = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = path.read_text().rpartition(")")[2].split()[1]  # 17 (sh) S 16 ...
            workers += [int(path.parent.name)] * (int(parent) == launcher.pid)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):  # it has just ended, or is not a group leader
            os.killpg(worker, number)
    if not workers:  # there is no /proc, or nothing has been started yet
        launcher.terminate()


def start(line: list[str], workers: Path) -> int:
    """Run a launcher to its end. The error of a process is printed again, as the console may not show it."""
    for log in workers.glob("workerlog.*"):  # left by an earlier run
        log.unlink()
    launcher = subprocess.Popen(line, process_group=0)  # a group that a terminal's Ctrl-C does not reach
    received: list[int] = []

    def hand_on(number: int, _) -> None:
        received.append(number)
        signal_workers(launcher, number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    code = launcher.wait()
    if code and signal.SIGINT in received:
        return 130
    if code:
        logs = (path.read_text("utf-8", "replace") for path in sorted(workers.glob("workerlog.*")))
        errors = (line for log in logs for line in log.splitlines() if line.startswith("error: "))
        print(next(errors, f"the processes ended with {code}; see {workers}"), file=sys.stderr)
    return code


def main() -> None:
    args = make_parser().parse_args()
    if not Path(args.training_script).is_file():
        raise UserError(f"launch.py: {args.training_script}: no such file")
    gpus = gpu_count()
    processes = choose_processes(args, gpus)
    if args.recipe_devices is not None:
        all_processes = processes * len(args.node_ips.split(","))
        kept, line = keep_total(args.training_script_args, args.recipe_devices, all_processes)
        args = argparse.Namespace(**vars(args) | {"training_script_args": kept})
        print(f"launch: {line}", flush=True)
        os.environ[RECIPE_BATCH] = line
    line, environment = command(args, processes, gpus)
    log = f"{args.split_log_path}/{args.log_prefix}job.log.0"
    print(f"launch: {processes} x {'GPU' if gpus else 'CPU'}, log {log}", flush=True)
    os.environ.update(environment)
    if line[1] == "-u":  # one process: become it
        os.execv(line[0], line)
    sys.exit(start(line, _workers(args)))


if __name__ == "__main__":
    run(main)
