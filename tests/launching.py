"""Start a script as several processes, as a user does with fleetrun on a machine without GPUs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a fresh shell: nothing of a launcher, one thread, the repository importable."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


def run_script(arguments: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python arguments` in one process, in `cwd`."""
    command = [sys.executable, *map(str, arguments)]
    environment = clean_environment(**environment)
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def launch(arguments: list, cwd: Path, processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """`fleetrun --nproc_per_node <processes> --backend gloo arguments` in `cwd`."""
    launcher = [
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        processes,
        "--backend",
        "gloo",
    ]
    done = run_script([*launcher, "--log_dir", cwd / "workers", *arguments], cwd, **environment)
    for file in sorted((cwd / "workers").glob("workerlog.*")):
        done.stderr += f"\n--- {file.name}\n{file.read_text()}"
    return done
