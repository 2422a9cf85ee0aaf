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

from tests.chaos.trainings import MARK, marked
from tests.launching import ROOT, _free_ports, clean_environment
from tests.pretrain.test_distributed import EXACT, assert_same_run, losses_so_far
from tests.pretrain.tiny_run import flags, pretrain

ENDS = 20  # seconds: run.stall_ends_seconds


def start_nodes(launcher: str, script: list, folder: Path) -> list[subprocess.Popen]:
    """The same command on two nodes, with two shells; they share `folder`."""
    port = str(_free_ports(1)[0])
    nodes = []
    for node in range(2):
        if launcher == "launch.py":
            line = [ROOT / "launch.py", "--node_ips", "127.0.0.1,127.0.0.1", "--node_id", node]
            line += ["--master_port", port, "--nproc_per_node", 1]
        else:
            line = ["-m", "paddle.distributed.launch", "--nnodes", 2, "--rank", node]
            line += ["--master", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--nproc_per_node", 1]
            line += ["--devices", "-1", "--log_dir", f"workers-{node}"]
        place = clean_environment(PADDLE_DISTRI_BACKEND="gloo", **{MARK: str(folder)})
        if launcher != "launch.py":
            place["CUDA_VISIBLE_DEVICES"] = "-1"
        with open(folder / f"node-{node}.txt", "a") as output:
            command = [sys.executable, *map(str, [*line, *script])]
            nodes.append(
                subprocess.Popen(
                    command, cwd=folder, env=place, stdout=output, stderr=output, start_new_session=True
                )
            )
    return nodes


def wait(nodes: list[subprocess.Popen], seconds: float) -> list[int]:
    """Exit codes. None of the processes is left."""
    try:
        end = time.monotonic() + seconds
        return [node.wait(max(0.1, end - time.monotonic())) for node in nodes]
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


def worker_of(folder: Path, rank: int) -> int:
    """The process that trains: the launcher has no rank."""
    for pid, environment, words in marked(folder):
        if environment.get("PADDLE_TRAINER_ID") == str(rank) and "run_pretrain.py" in words:
            return pid
    raise AssertionError("no worker")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launch.py", "fleetrun"])
def test_a_node_dies_and_the_same_commands_go_on(tiny_corpus, tmp_path, launcher):
    options = EXACT | {"run__save_steps": 5, "run__stall_ends_seconds": ENDS}
    out = tmp_path / "out"
    script = [ROOT / "run_pretrain.py", *flags(tiny_corpus, out, **options)]
    nodes = start_nodes(launcher, script, tmp_path)
    try:
        end = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() or len(losses_so_far(out)) < 12:
            output = "".join((tmp_path / f"node-{node}.txt").read_text() for node in range(2))
            assert time.monotonic() < end and all(node.poll() is None for node in nodes), output
            time.sleep(0.02)
        os.kill(worker_of(tmp_path, 1), signal.SIGKILL)
    except BaseException:
        wait(nodes, 0)
        raise
    codes = wait(nodes, 3 * ENDS)
    assert all(codes), codes
    assert (
        max(int(step) for step in re.findall(r"step_(\d+)", str(list((out / "checkpoints").iterdir())))) < 40
    )
    codes = wait(start_nodes(launcher, script, tmp_path), 300)
    assert codes == [0, 0], "".join((tmp_path / f"node-{node}.txt").read_text() for node in range(2))
    straight = pretrain(tiny_corpus, tmp_path / "whole", **EXACT)
    assert_same_run(out, straight)
    if launcher == "launch.py":  # both logs are there, in one folder
        assert all((tmp_path / f"log/job.log.{rank}").exists() for rank in range(2))
