"""launch.py: the rank of each process, and the end of all when one, or launch.py, ends."""

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from ernie_m.commands import launch
from ernie_m.utils.args import parse_options
from tests.helpers.files import write_file
from tests.helpers.processes import is_running, wait_until
from tests.launching import ROOT, clean_environment, error_of, run_script

pytestmark = pytest.mark.usefixtures("default_signals")
parse = partial(parse_options, launch.LaunchFlags)


SCRIPT_WORDS = [str(ROOT / "run_classifier.py"), "--epoch", "1"]


@pytest.mark.parametrize(
    ("line", "visible", "used"),
    [
        ([], ["0", "1", "2", "3"], ["0", "1", "2", "3"]),
        (["--selected_gpus", "1,3", "--nproc_per_node", "2"], ["0", "1", "2", "3"], ["1", "3"]),
        (["--selected_gpus", "1,3"], [], []),
    ],
)
def test_gpus_that_are_used(line, visible, used):
    assert launch.select_gpus(parse(line), visible) == used


@pytest.mark.parametrize(
    ("line", "gpus"), [(["--selected_gpus", "0,7"], "0,7"), (["--nproc_per_node", "3"], "0,1")]
)
def test_reject_more_processes_than_gpus(line, gpus):
    assert f" on --selected_gpus {gpus}: " in error_of(launch.select_gpus, parse(line), ["0", "1"])


# A process without OMP_NUM_THREADS, in which launch.py asks Paddle for the number of GPUs.
COUNTING = """
import os
os.environ.pop("OMP_NUM_THREADS")
from ernie_m.commands import launch
launch.has_gpu = lambda: True
print(launch.list_visible_gpus(), os.environ.get("OMP_NUM_THREADS"))
"""


def test_counting_gpus_changes_no_environment(tmp_path):
    """Paddle sets OMP_NUM_THREADS to 1 when it is imported; the processes must not inherit that."""
    assert run_script(["-c", COUNTING], tmp_path).stdout == "[] None\n"  # a CPU build sees no GPU


@pytest.mark.parametrize(
    ("labels", "gpus"),
    [(None, ["0", "1"]), ("", ["0", "1"]), ("4,2,7", ["4", "2"]), ("5,7,no such GPU", ["5", "7"])],
)
def test_as_many_gpus_as_paddle_finds(monkeypatch, labels, gpus):
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **options: "a line before\n2\n")
    monkeypatch.setattr("os.environ", {} if labels is None else {"CUDA_VISIBLE_DEVICES": labels})
    assert launch.list_visible_gpus() == gpus


def test_gpus_without_paddle(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "has_gpu", lambda: True)
    monkeypatch.delitem(sys.modules, "paddle")  # or it is found there
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "Paddle is not installed" in error_of(launch.list_visible_gpus)


@pytest.mark.parametrize(
    "line, message",
    [
        (["--nproc_per_node", "0", *SCRIPT_WORDS], "--nproc_per_node 0: "),
        (["--nproc_per_nod", "2", *SCRIPT_WORDS], "--nproc_per_nod: unknown option; "),
        (["--node_ips", "10.0.0.1,10.0.0.2", "--node_id", "2"], "--node_id 2: --node_ips"),
        (["--node_id", "-1"], "--node_id -1: "),
        (["--recipe_devices", "8", *SCRIPT_WORDS], "--recipe_devices: "),
        (["--port", "80", *SCRIPT_WORDS], "--port: unknown option; did you mean --master_port?"),
        (["--node_ips", "::1", "127.0.0.1", *SCRIPT_WORDS], "'127.0.0.1'"),
        (["--nproc_per_node", "2"], "SCRIPT: "),
        (["run_nothing.py"], "run_nothing.py: "),
    ],
)
def test_reject_invalid_launcher_flags(monkeypatch, line, message):
    monkeypatch.setattr("sys.argv", ["launch.py", *line])
    assert message in error_of(launch.main)


def test_reject_log_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file" in error_of(launch.run_processes, [], [], tmp_path / "file" / "workers")


def test_single_process_replaces_the_launcher(tmp_path, in_tmp_path, monkeypatch, capsys):
    """The flags of the launcher end at the script, which is found by its name from every folder.

    Also from a folder that has one of this name.
    """
    (tmp_path / "run_classifier.py").mkdir()
    execve = mock.Mock(side_effect=SystemExit)
    monkeypatch.setattr("os.execve", execve)
    monkeypatch.setattr("os.environ", {"CUDA_VISIBLE_DEVICES": "", "LOG_DIR": "logs", "LOG_PREFIX": "b."})
    monkeypatch.setattr(
        "sys.argv", ["launch.py", "--print_config", "--split_log_path=a", "run_classifier.py", "--help"]
    )
    with pytest.raises(SystemExit):
        launch.main()
    program, words, environment = execve.call_args.args
    assert words == [program, "-u", "-m", "ernie_m", "run_classifier.py", "--help"]
    assert environment["PADDLE_TRAINERS_NUM"] == "1" and environment["LOG_PREFIX"] == "b."
    printed = capsys.readouterr().out
    assert "--node_id 0" in printed and printed.endswith("launch: 1 x CPU, log a/b.job.log.0\n")


def test_each_node_has_a_folder_for_its_processes(monkeypatch):
    started = mock.Mock(return_value=3)
    monkeypatch.setattr(launch, "run_processes", started)
    # As srun starts a launcher on each node.
    monkeypatch.setattr("os.environ", {"CUDA_VISIBLE_DEVICES": "", "SLURM_STEP_NUM_TASKS": "2"})
    nodes = ["--node_ips", "10.0.0.1,10.0.0.2", "--node_id", "1", "--nproc_per_node", "2"]
    monkeypatch.setattr("sys.argv", ["launch.py", *nodes, *SCRIPT_WORDS])
    with pytest.raises(SystemExit, match="3"):
        launch.main()
    commands, _, folder = started.call_args.args
    assert (commands, str(folder)) == ([[sys.executable, "-u", *SCRIPT_WORDS]] * 2, "log/workers-node1")


def test_each_process_knows_its_rank():
    """Two machines with two processes each: their ranks, devices and addresses."""
    nodes = ["--node_ips", "10.0.0.1,10.0.0.2", "--current_node_ip", "10.0.0.2", "--nproc_per_node", "2"]
    second = launch.make_environments(parse([*nodes, "--node_id", "1"]), SCRIPT_WORDS, 2, gpus=["2", "3"])
    first = launch.make_environments(parse([*nodes, "--node_id", "0"]), SCRIPT_WORDS, 2, gpus=[])
    endpoints = first[0]["PADDLE_TRAINER_ENDPOINTS"]
    master = first[0]["PADDLE_MASTER"]
    assert re.fullmatch(r"10.0.0.1:2\d{4}", master) and len({master, *endpoints.split(",")}) == 5
    again = launch.make_environments(parse([*nodes, "--node_id", "0"]), ["a.py", "--x"], 2, gpus=[])
    assert again[0]["PADDLE_MASTER"] == "10.0.0.1:21997"  # in each process: from the addresses and the script
    for rank, process in enumerate(first + second):
        expected = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": "4",
            "PADDLE_LOCAL_SIZE": "2",  # ernie_m/utils/paddle_settings.py divides the cores by this
            "PADDLE_CURRENT_ENDPOINT": endpoints.split(",")[rank],
            "PADDLE_TRAINER_ENDPOINTS": endpoints,
            "PADDLE_MASTER": master,
        }
        if rank >= 2:  # of the second machine, which has GPUs; 0 is the only one that a process sees
            expected |= {"CUDA_VISIBLE_DEVICES": str(rank), "FLAGS_selected_gpus": "0"}
        assert {name: process[name] for name in expected} == expected


def test_choose_port_on_one_machine():
    (process,) = launch.make_environments(parse(["--master_port", "7000"]), [], 1, gpus=[])
    assert process["PADDLE_MASTER"] == "127.0.0.1:7000"


# A process of a training. Its argument says what happens: "end" or "wait". It writes its id to RANK.pid once
# it handles signals.
SCRIPT = """
import os, pathlib, signal, sys, time
rank = os.environ["PADDLE_TRAINER_ID"]
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda *_: sys.exit(0))
pathlib.Path(f"{rank}.part").write_text(str(os.getpid()))
os.rename(f"{rank}.part", f"{rank}.pid")
print("printed by", rank, flush=True)
time.sleep(0 if sys.argv[1] == "end" else 100)
"""


@pytest.fixture
def started(tmp_path):
    """started(action): start launch.py with two processes of SCRIPT. Return it, and the ids of the two."""
    (tmp_path / "script.py").write_text(SCRIPT)
    running = []

    def start(action: str) -> tuple[subprocess.Popen, list[int]]:
        process = subprocess.Popen(
            [sys.executable, ROOT / "launch.py", "--nproc_per_node", "2", "script.py", action],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        files = [tmp_path / f"{rank}.pid" for rank in range(2)]
        assert wait_until(lambda: all(file.exists() for file in files), seconds=60)
        return process, [int(file.read_text()) for file in files]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_first_process_prints_on_the_console(started, tmp_path):
    logs = tmp_path / "log/workers"
    write_file(logs / "workerlog.1", "of an earlier run")
    process, _ = started("end")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    assert "printed by 0" in output and "printed by 1" not in output
    assert (logs / "workerlog.1").read_text() == "printed by 1\n"


def test_the_processes_end_when_their_launcher_is_killed(started):
    process, pids = started("wait")
    process.kill()
    assert wait_until(lambda: not any(is_running(pid) for pid in pids), seconds=60)


@pytest.mark.parametrize(
    "signal_number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
def test_a_signal_reaches_all_processes(started, signal_number, exit_code):
    """launch.py ends with the exit code of its processes, as SCRIPT has it for each signal."""
    process, pids = started("wait")
    process.send_signal(signal_number)
    assert process.wait(timeout=60) == exit_code
    assert not any(is_running(pid) for pid in pids)


# What each of two processes returns at each moment, None: it runs; the code of launch.py, and the errors.
ENDINGS = [
    ([0], [0], 0, []),
    ([0, 0], [None, 130], 130, []),  # after Ctrl-C the second one saves longer
    ([3], [130], 3, []),
    ([0], [4], 4, ["process 1 exited with code 4; see logs/workerlog.1"]),
    ([3], [-11], 3, ["process 1 was killed by signal 11 (Segmentation fault)"]),  # without the first one
    ([-9], [0], 137, ["process 0 was killed by signal 9 (Killed; out of memory?)"]),
    ([None, None], [None, 5], 5, ["process 1 exited with code 5; see logs/workerlog.1"]),
]


@pytest.mark.parametrize(("first", "second", "code", "errors"), ENDINGS)
def test_name_each_process_that_fails(monkeypatch, capsys, first, second, code, errors):
    monkeypatch.setattr(launch, "GRACE", 0)
    processes = [mock.Mock(**{"poll.side_effect": codes}) for codes in (first, second)]
    assert launch.wait_for_processes(processes, Path("logs")) == code
    assert capsys.readouterr().err.splitlines() == [f"error: {error}" for error in errors]
    assert [[call[0] for call in process.mock_calls[-2:]] for process in processes] == [["kill", "wait"]] * 2
