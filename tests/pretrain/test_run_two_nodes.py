"""Two nodes on one machine: launched twice, they are one run; when one dies, both end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_lines import pretraining
from tests.helpers.processes import MARK, marked
from tests.launching import ROOT, clean_environment, free_ports
from tests.pretrain.test_run_processes import EXACT, assert_same_run, losses_so_far
from tests.pretrain.tiny_run import pretrain

STALL_ENDS_SECONDS = 20  # after which a node whose step does not end takes the other one for dead


def start_nodes(script: list, folder: Path) -> list[subprocess.Popen]:
    """The same command on two nodes, with two shells; they share `folder`."""
    port = str(free_ports(1)[0])
    nodes = []
    for node in range(2):
        environment = clean_environment(PADDLE_DISTRI_BACKEND="gloo", **{MARK: str(folder)})
        words = [ROOT / "launch.py", "--node_ips", "127.0.0.1,127.0.0.1", "--node_id", node]
        words += ["--master_port", port, "--nproc_per_node", 1]
        command = [sys.executable, *map(str, [*words, *script])]
        with open(folder / f"node-{node}.txt", "a") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        nodes.append(process)
    return nodes


def read_node_output(folder: Path) -> str:
    return "".join((folder / f"node-{node}.txt").read_text() for node in range(2))


def wait(nodes: list[subprocess.Popen], seconds: float) -> list[int]:
    """Wait for the exit codes, and kill what is left of the processes, also if the time is over."""
    try:
        deadline = time.monotonic() + seconds
        return [node.wait(max(0.1, deadline - time.monotonic())) for node in nodes]
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


def find_worker(folder: Path, rank: int) -> int:
    """The id of the process that trains as this rank. The launchers on the way to it have no rank."""
    for pid, environment, words in marked(folder):
        if environment.get("PADDLE_TRAINER_ID") == str(rank) and "run_pretrain.py" in words:
            return pid
    raise AssertionError("no worker")


@pytest.mark.slow
def test_resume_after_a_node_dies(tiny_corpus, tmp_path):
    """The other node ends, too, with an error; started again, both end with the losses of one process."""
    exact = EXACT | {"model__num_hidden_layers": 2}  # a step takes longer than the signal
    options = exact | {"run__save_steps": 5, "run__stall_ends_seconds": STALL_ENDS_SECONDS}
    out = tmp_path / "out"
    script = [ROOT / "run_pretrain.py", *pretraining(tiny_corpus, out, **options)]
    # Kill the worker of the second node after 8 steps.
    nodes = start_nodes(script, tmp_path)
    try:
        deadline = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() or len(losses_so_far(out)) < 8:
            assert all(node.poll() is None for node in nodes), read_node_output(tmp_path)
            assert time.monotonic() < deadline, read_node_output(tmp_path)
            time.sleep(0.02)
        os.kill(find_worker(tmp_path, 1), signal.SIGKILL)
    except BaseException:
        wait(nodes, 0)
        raise
    codes = wait(nodes, 3 * STALL_ENDS_SECONDS)
    assert all(codes), codes
    names = " ".join(path.name for path in (out / "checkpoints").iterdir())
    saved_steps = [int(step) for step in re.findall(r"step_(\d+)", names)]
    assert max(saved_steps) < EXACT["optimizer__steps"], "the run was over before the signal"

    codes = wait(start_nodes(script, tmp_path), 300)
    assert codes == [0, 0], read_node_output(tmp_path)
    assert_same_run(out, pretrain(tiny_corpus, tmp_path / "whole", **exact))
    assert all((tmp_path / f"log/job.log.{rank}").exists() for rank in range(2))  # both nodes, in one folder
