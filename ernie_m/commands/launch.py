"""Launch a script in one or several processes, with the official flags.

    python launch.py --nproc_per_node 2 run_classifier.py --batch_size 16 ...

The script is the first argument that ends in .py, and the arguments after it are passed to it. Processes run
on GPUs if available, otherwise on the CPU. With a single process, the script replaces the launcher.

Process <rank> logs to <split_log_path>/<log_prefix>job.log.<rank>. The first process of a node prints to the
console, the others to <split_log_path>/workers, or workers-node<N> with several nodes.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile
from pathlib import Path

from ernie_m.finetune.finetune_args import log_ineffective_flags
from ernie_m.utils.args import OfficialFlags, list_options, option, parse_options
from ernie_m.utils.child_processes import end_with_parent, handle_shutdown_signals
from ernie_m.utils.errors import UserError, open_in_place, say
from ernie_m.utils.files import translate_write_errors
from ernie_m.utils.logging import LOG_DIR, LOG_PREFIX, setup_console
from ernie_m.utils.paddle_settings import check_paddle, has_gpu, reject_other_launchers
from ernie_m.utils.value_types import NonNegativeInt, PositiveInt

GRACE = 2.0  # seconds for the other processes to exit after one has failed
COUNT_GPUS = """
import paddle
print(paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0)
"""
INTERRUPTED = 130  # the exit code after Ctrl-C


@dataclass(kw_only=True)
class LaunchFlags(OfficialFlags):
    """Command-line options of launch.py: the official flags, and --master_port."""

    node_ips: str = "127.0.0.1"
    """Comma-separated addresses of all nodes, the master first."""

    node_id: NonNegativeInt = 0
    """Index of this node in --node_ips."""

    current_node_ip: str | None = option(None, no_effect="--node_ips and --node_id name this machine")

    master_port: PositiveInt | None = None
    """Port of the master (default: a free port, or with several nodes one derived from the command)."""

    nproc_per_node: PositiveInt | None = option(None, needed=True)
    """Number of processes on this node (default: one per GPU, or one on a CPU)."""

    selected_gpus: str | None = option(None, needed=True)
    """Comma-separated GPUs to use, ignored without GPUs (default: all)."""

    split_log_path: str | None = None
    """Directory for logs (default: the environment variable LOG_DIR, or log)."""

    log_prefix: str | None = None
    """Prefix of the log files job.log.<rank> (default: the environment variable LOG_PREFIX, or none)."""

    print_config: bool = False
    """Whether to print these flags and the command of the script."""

    def __post_init__(self) -> None:
        if self.node_id >= len(self.nodes):
            raise UserError(f"--node_id {self.node_id}: --node_ips has 0 to {len(self.nodes) - 1}")

    @property
    def nodes(self) -> list[str]:
        """The addresses of all nodes."""
        return self.node_ips.split(",")


def list_visible_gpus() -> list[str]:
    """Return the labels of the GPUs that Paddle can use, as in CUDA_VISIBLE_DEVICES; [] without GPUs.

    Raises:
        UserError: see `check_paddle`.
    """
    if not has_gpu():
        return []
    check_paddle()
    # In a subprocess, because importing Paddle changes the environment.
    output = subprocess.check_output([sys.executable, "-W", "ignore", "-c", COUNT_GPUS], text=True)
    count = int(output.split()[-1])  # Paddle may print other lines before
    labels = os.environ.get("CUDA_VISIBLE_DEVICES")
    return labels.split(",")[:count] if labels else [str(gpu) for gpu in range(count)]


def select_gpus(flags: LaunchFlags, visible: list[str]) -> list[str]:
    """Return the labels of the GPUs to use: --selected_gpus, by default all; [] without GPUs.

    Args:
        visible: the labels of all GPUs, from `list_visible_gpus`.

    Raises:
        UserError: a selected GPU is unknown, or --nproc_per_node exceeds the number of GPUs.
    """
    selected = flags.selected_gpus.split(",") if flags.selected_gpus and visible else visible
    if selected and (not {*selected} <= {*visible} or (flags.nproc_per_node or 1) > len(selected)):
        raise UserError(
            f"--nproc_per_node (NPROC) {flags.nproc_per_node or len(selected)} on --selected_gpus "
            f"{','.join(selected)}: not enough GPUs, or unknown ones (found: {','.join(visible)})"
        )
    return selected


def make_environments(
    flags: LaunchFlags, script: Sequence[str], processes: int, gpus: list[str]
) -> list[dict[str, str]]:
    """Return the environment variables of paddle.distributed for each process of this node.

    The processes connect to the port of the master. The other ports are only labels, because each process
    chooses its port itself.

    Args:
        script: the script and its arguments.
        processes: the number of processes on each node.
        gpus: the labels of the GPUs, one per process; empty on a CPU.
    """
    # All nodes run the same command and must derive the same port, from 20000 to 29999.
    port = flags.master_port or 20000 + zlib.crc32("\0".join([flags.node_ips, *script]).encode()) % 10000
    if len(flags.nodes) == 1 and flags.master_port is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:  # the system chooses a free port
            port = listener.getsockname()[1]
    addresses = [node for node in flags.nodes for _ in range(processes)]  # of each process, by rank
    endpoints = [f"{address}:{port + 1 + rank}" for rank, address in enumerate(addresses)]
    variables = []
    for local_rank in range(processes):
        rank = flags.node_id * processes + local_rank
        environment = {
            "PADDLE_MASTER": f"{flags.nodes[0]}:{port}",
            "PADDLE_TRAINERS_NUM": str(len(endpoints)),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_LOCAL_SIZE": str(processes),
            "PADDLE_RANK_IN_NODE": str(local_rank),
        }
        if gpus:  # each process has one visible GPU, with index 0
            environment |= {"CUDA_VISIBLE_DEVICES": gpus[local_rank], "FLAGS_selected_gpus": "0"}
        variables.append(environment)
    return variables


def run_processes(
    commands: Sequence[Sequence[str]], rank_environments: list[dict[str, str]], log_dir: Path
) -> int:
    """Start the processes of this node, and wait for them.

    The first process prints to the console, the others to `log_dir`. All processes receive signals. If
    one fails, the others are killed after `GRACE` seconds.

    Args:
        commands: the command of each process.
        rank_environments: the additional environment variables of each process.
        log_dir: the directory for the output of all processes except the first.

    Returns:
        The exit code: 0, or the code of the first process that failed.
    """
    with translate_write_errors(log_dir):
        log_dir.mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen] = []

    def forward_signal(signum: int, _frame: object) -> None:
        for process in processes:  # those started so far
            process.send_signal(signum)

    with handle_shutdown_signals(forward_signal), contextlib.ExitStack() as files:
        for number, (command, environment) in enumerate(zip(commands, rank_environments)):
            # The first process inherits the streams of the launcher.
            log = log_dir / f"workerlog.{number}"
            output = files.enter_context(open_in_place(log, "wb")) if number > 0 else None
            processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=output,
                    stderr=output,
                    process_group=0,  # Ctrl-C reaches only the launcher, which forwards it
                    preexec_fn=partial(end_with_parent, signal.SIGTERM),
                )
            )
        return wait_for_processes(processes, log_dir)


def wait_for_processes(processes: list[subprocess.Popen], log_dir: Path) -> int:
    """Wait for the processes of this node, kill the others if one fails, and return the exit code.

    Args:
        log_dir: see `run_processes`.
    """
    codes: list[int | None] = [None]  # None: running
    while None in codes and not {*codes} - {None, 0, INTERRUPTED}:
        time.sleep(0.05)
        codes = [process.poll() for process in processes]
    # After Ctrl-C the processes exit with INTERRUPTED, which is not a failure.
    failed = {number: code for number, code in enumerate(codes) if code not in (None, 0, INTERRUPTED)}
    if failed:
        time.sleep(GRACE)
    for process in processes:
        process.kill()  # no effect if it has exited
        process.wait()
    for number, code in failed.items():
        cause = "; out of memory?" if code == -signal.SIGKILL else ""
        ending = (
            f"was killed by signal {-code} ({signal.strsignal(-code)}{cause})"
            if code < 0
            else f"exited with code {code}; see {log_dir}/workerlog.{number}"
        )
        if code < 0 or number > 0:  # the first process has printed its error on the console
            say(f"error: process {number} {ending}", file=sys.stderr)
    code = next(iter(failed.values())) if failed else max(codes)
    return code if code >= 0 else 128 - code  # the shell's exit code of a signal


def main() -> None:
    """Run the command launch.py.

    Raises:
        UserError: the script does not exist, or a flag is invalid.
    """
    words = sys.argv[1:]
    script = [*dropwhile(lambda word: not word.endswith(".py"), words)]
    flags = parse_options(LaunchFlags, words[: len(words) - len(script)], __name__)
    # A file, or a command of the package, next to this file.
    if not script or not (Path(script[0]).is_file() or Path(__file__).with_name(script[0]).is_file()):
        raise UserError(f"{''.join(script[:1]) or 'SCRIPT'}: no such script (expected a .py file)")
    if len(flags.nodes) == 1:  # with several nodes, srun may start a launcher on each
        reject_other_launchers()
    setup_console()
    log_ineffective_flags(flags)
    if flags.print_config:
        lines = [f"launch: --{name} {getattr(flags, name)}" for name in list_options(LaunchFlags)]
        say(*lines, f"launch: script {shlex.join(script)}")
    gpus = select_gpus(flags, list_visible_gpus())
    processes = flags.nproc_per_node or len(gpus) or 1  # on this node

    os.environ[LOG_DIR] = flags.split_log_path or os.environ.get(LOG_DIR) or "log"
    os.environ[LOG_PREFIX] = flags.log_prefix or os.environ.get(LOG_PREFIX, "")
    say(
        f"launch: {processes} x {'GPU' if gpus else 'CPU'}, "
        f"log {os.environ[LOG_DIR]}/{os.environ[LOG_PREFIX]}job.log.0"
    )

    command = [sys.executable, "-u", *([] if Path(script[0]).is_file() else ["-m", "ernie_m"]), *script]
    rank_environments = make_environments(flags, script, processes, gpus)
    if processes * len(flags.nodes) == 1:  # replaces the launcher
        os.execve(sys.executable, command, os.environ | rank_environments[0])
    os.environ.setdefault("GLOG_minloglevel", "1")  # otherwise Paddle logs how the processes connect
    workers = f"workers-node{flags.node_id}" if len(flags.nodes) > 1 else "workers"
    sys.exit(run_processes([command] * processes, rank_environments, Path(os.environ[LOG_DIR], workers)))
