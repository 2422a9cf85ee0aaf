"""Several processes compute what one process computes, with and without sharding."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ernie_m.commands import launch as launcher
from ernie_m.commands import run_pretrain, run_retrieval
from ernie_m.model import kernel_selection
from ernie_m.model.checkpoint import safetensors as safe
from ernie_m.training import distributed
from ernie_m.training.checkpoint import write_checkpoint
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import reject_other_launchers
from tests.helpers.arrays import assert_equal_arrays
from tests.launching import ROOT, call_main, error_of, launch, run_script
from tests.training.custom_loop import LOOPS, OPTIMIZERS, assert_same_gradients, gradients
from tests.training.toy_training import FILES, add_part, get_state, make, read_step, run, weights

SCRIPT = Path(__file__).with_name("processes_script.py")


def assert_same_bits(state: dict, expected: dict) -> None:
    """Two results of `Engine.state_dict` are equal: numbers, and the arrays of the optimizer."""
    assert {**state, "optimizer": None} == {**expected, "optimizer": None}
    assert_equal_arrays(state["optimizer"], expected["optimizer"])


def start(folder: Path, *proofs: str, processes: int = 2, code: int = 0) -> None:
    """Run the script on several processes, with exit code `code`. Results go to the folder."""
    completed = launch([SCRIPT, folder, *proofs], folder, processes)
    assert completed.returncode == code, completed.stderr


def end(folder: Path, name: str) -> dict:
    """The result of a toy training: steps, weights, state and numbers of accumulators."""
    return np.load(folder / f"{name}.npy", allow_pickle=True).item()


def split_state_in_three() -> tuple[dict, list[dict]]:
    """The state after step 8 of one process, and its arrays as three processes divide them."""
    engine = make()
    run(engine, 8)
    state = get_state(engine)
    arrays = list(state["optimizer"].items())
    return state, [dict(arrays[rank::3]) for rank in range(3)]


@pytest.fixture(scope="module")
def proofs(module_folder):
    """The folder of all proofs: "0" has trainings without sharding, and "1" those with it.

    Two processes train `whole` from the first step, load and save the parts of three in `three`, and gather
    the weights of O2 in `master_weights`.
    """
    for stage in ("0", "1"):
        (module_folder / stage).mkdir()
    values, (arrays, *parts) = split_state_in_three()
    del values["optimizer"]
    write_checkpoint(module_folder / "1/three.start", FILES, arrays, values)
    for rank, part in enumerate(parts, 1):
        add_part(module_folder / "1/three.start", rank, part)
    trainings = ("0/whole", "1/whole", "1/three")
    # The last proof kills process 1.
    start(
        module_folder, "collectives", *trainings, "master_weights", "own_loops", "lost", code=-signal.SIGKILL
    )
    return module_folder


def test_raise_main_process_error_on_the_others(monkeypatch):
    """Otherwise they would wait for it forever."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "gather", lambda item: [(None, UserError("x.tsv: missing")), item])
    calls = []
    assert "x.tsv: missing" in error_of(distributed.run_on_main, lambda: calls.append(1))
    assert calls == []


def test_a_process_raises_its_own_error(monkeypatch):
    """Also if another one has an error, and if the system gives no reason."""

    def fail():
        raise OSError("stale")

    monkeypatch.setattr(distributed, "gather", lambda item: [(None, UserError("x.tsv: missing")), item])
    assert error_of(distributed.run_on_all, fail) == "a file: stale"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[../gloo/transport/tcp/pair.cc:589] Connection closed by peer", UserError),
        ("NCCL error: remote process exited or there was a network error", UserError),
        ("the shapes differ", RuntimeError),
    ],
)
def test_only_a_lost_connection_blames_another_process(text, kind):
    with pytest.raises(kind), distributed.translate_connection_errors():
        raise RuntimeError(text)


@pytest.mark.parametrize(
    ("use_gpu", "count", "device"), [(True, 1, "gpu"), (True, 0, "cpu"), (False, 1, "cpu")]
)
def test_a_gpu_is_taken_if_there_is_one(monkeypatch, use_gpu, count, device):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: count)
    chosen = []
    monkeypatch.setattr(paddle, "set_device", chosen.append)
    monkeypatch.setattr(paddle, "set_flags", chosen.append)
    monkeypatch.delenv("FLAGS_use_stride_kernel", raising=False)
    distributed.init(use_gpu)
    # On a CPU, kernels do not read strided views, also on a machine with a GPU.
    assert chosen == [{"FLAGS_use_stride_kernel": False}] * (device == "cpu") + [device]
    monkeypatch.setenv("FLAGS_use_stride_kernel", "1")  # as the user has set it
    distributed.init(use_gpu)
    assert chosen.pop() == chosen.pop() == device


def test_owners_have_equally_many_elements(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parameters = [SimpleNamespace(name=f"p{size}", size=size) for size in (1, 2, 3, 6, 4)]
    assert distributed.assign_owners(parameters) == {"p6": 0, "p4": 1, "p3": 1, "p2": 0, "p1": 1}


def test_nccl_without_gpus_is_one_line(monkeypatch):
    for name in distributed._OF_LAUNCHERS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "nccl")
    assert "gloo" in error_of(distributed.init, use_gpu=False)
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "")
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    assert distributed.init(use_gpu=False) == "cpu" and os.environ["PADDLE_DISTRI_BACKEND"] == "gloo"


@pytest.mark.parametrize(
    "left",
    [
        {"PADDLE_TRAINERS_NUM": "2"},
        {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0", "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:9"},
        {"PADDLE_TRAINER_ID": "1"},  # alone it is a process that writes no file
    ],
    ids=lambda left: f"{len(left)} {next(iter(left))}",
)
def test_variables_that_a_launcher_left_are_named(monkeypatch, left):
    for name in distributed._OF_LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert f"nset {' '.join(left)}, " in error_of(distributed.init)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2: "),  # torchrun
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "SLURM_STEP_NUM_TASKS=2: "),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "SLURM_PROCID=1: "),
        ({"OMPI_COMM_WORLD_SIZE": "12", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=12: "),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "PMI_SIZE=2: "),
        # One process, a shell of sbatch, a word, and fleetrun on each of two nodes, started by srun.
        ({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"}, ""),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, ""),
        ({"WORLD_SIZE": "all"}, ""),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PADDLE_TRAINER_ID": "0"}, ""),
    ],
)
def test_processes_of_another_launcher_are_refused(monkeypatch, variables, named):
    monkeypatch.setattr("os.environ", variables)
    if named:
        assert error_of(reject_other_launchers).startswith(named)
    else:
        reject_other_launchers()


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (run_retrieval, ["--pairs", "absent"]),
        (run_pretrain, ["--data.corpus", "absent"]),
        (launcher, ["run_classifier.py"]),
    ],
)
def test_no_program_trains_under_another_launcher(monkeypatch, tmp_path, program, flags):
    """Each program says it before it writes to an output, or reads its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert error_of(call_main, program, flags).startswith("WORLD_SIZE=2: ")
    assert list(tmp_path.iterdir()) == []


# Two processes add up 1 and 2, under the launcher that has started them.
JOIN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from ernie_m.utils.paddle_settings import prepare
prepare()
from ernie_m.training import distributed
distributed.init()
print("sum", distributed.all_reduce_sum([distributed.rank() + 1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launch.py", "paddle.distributed.launch", "fleetrun"])
def test_join_processes_from_each_launcher(tmp_path, launcher):
    (tmp_path / "join.py").write_text(JOIN)
    of_paddle = ["-m", launcher, "--devices=-1,-1"]
    command, environment = {
        "launch.py": ([ROOT / "launch.py"], {}),
        "paddle.distributed.launch": (of_paddle, {"CUDA_VISIBLE_DEVICES": "-1"}),
        "fleetrun": ([Path(sys.executable).with_name("fleetrun"), "--backend", "gloo"], {}),
    }[launcher]
    completed = run_script([*command, "--nproc_per_node", "2", "join.py"], tmp_path, **environment)
    assert "sum [3.0]" in completed.stdout, completed.stderr


def test_sums_are_sums_and_equal_on_every_process(proofs):
    results = [json.loads((proofs / f"{rank}.json").read_text()) for rank in range(2)]
    assert [result.pop("is_main") for result in results] == [True, False]
    rows = np.full([2, 3], [[0.1], [0.2]], np.float32).tolist()
    # The script's two processes give 0.1 and 0.2, 1e-12 each, and 1 each to `all_reduce_sum`; their
    # gradients are 1e-9 and 1e-10, 1 and 2, and 2 and 3. The weight is that of process 0, which is 7.
    expected = {
        "world": 2,
        "all_reduce_sum": pytest.approx([0.3, 2e-12, 2.0], rel=1e-15),
        "gather": [{"rank": 0, "text": "é"}, {"rank": 1, "text": "é"}],
        "all_gather_rows": [[rows[:1], 5], [rows[1:] * 2, 6]],
        "gradients": [[pytest.approx([1.1e-9] * 3, rel=1e-12)] * 2, [3.0] * 4, [5.0]],
        "weight": [7.0] * 3,
    }
    assert results == [expected] * 2


def test_custom_loop_gradients_are_equal_in_two_processes(proofs, monkeypatch):
    """With each optimizer, whose gradients are cleared to zeros or to None."""
    found = dict(np.load(proofs / "own_loops.npz"))
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    for optimizer, zeros in itertools.product(OPTIMIZERS, (True, False)):
        assert_same_gradients(found[f"{optimizer} {zeros}"], gradients(LOOPS[1], optimizer, zeros))


def test_a_killed_process_is_one_line_to_the_other(proofs):
    text = (proofs / "lost.txt").read_text()
    assert text.startswith("another process of the run has ended") and "Rerun to resume" in text


@pytest.mark.parametrize("stage", [0, 1])
def test_two_processes_equal_one(straight_run, proofs, stage):
    """Losses, norms, sums, weights and moments of a training without (0) and with (1) sharding."""
    trained = end(proofs / str(stage), "whole")
    steps, final_weights, state = straight_run
    for name in ("loss", "grad_norm"):
        expected = [getattr(step, name) for step in steps]
        assert [step[name] for step in trained["steps"]] == pytest.approx(expected, abs=1e-9, rel=0)
    assert [step["sums"] for step in trained["steps"]] == [step.sums for step in steps]
    assert_equal_arrays(trained["weights"], final_weights, 1e-9)
    moments = trained["state"]["optimizer"]
    assert_equal_arrays(state["optimizer"], moments, 1e-9)
    if stage == 1:
        assert sum(trained["accumulators"]) == len(moments), "each is on one process"
        assert min(trained["accumulators"]) > 0
        assert_same_bits(read_step(proofs / "1" / "whole.parts"), trained["state"])
    else:
        assert trained["accumulators"] == [len(moments), len(moments)]


def test_o2_exports_all_master_weights(proofs):
    """They are as exact as those of one process: the weights themselves are rounded to bfloat16."""
    expected = {name: value + np.float32(1e-4) for name, value in weights(make("float32")).items()}
    with np.load(proofs / "master_weights.npz") as exported:
        assert_equal_arrays(exported, expected)


def test_two_and_one_processes_load_state_from_three(proofs):
    """Two processes have written what they read of three as two parts, each with some arrays."""
    saved, _ = split_state_in_three()
    parts = [safe.read(path) for path in (proofs / "1/three.loaded").rglob("arrays*")]
    assert len(parts) == 2 and all(parts) and sum(map(len, parts)) == len(saved["optimizer"])
    for folder in ("three.start", "three.loaded"):
        assert_same_bits(read_step(proofs / "1" / folder), saved)
    engine = make()
    engine.load_state_dict(read_step(proofs / "1/three.start"))
    assert_same_bits(get_state(engine), saved)
