"""Training state: exact there and back, damage is named, and only whole step folders are resumed from."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from model.checkpoint.manifest import MANIFEST, write_manifest
from model.checkpoint.training_state import (
    clear_leftovers,
    keep_last,
    load_newest,
    load_training_state,
    save_training_state,
    set_aside,
    step_folders,
)
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
DTYPES = ["bool", "int8", "uint8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


def bits(array):
    return array.dtype, array.shape, array.tobytes()


def test_arrays_come_back_bit_for_bit(tmp_path):
    state = {}
    for dtype in DTYPES:
        for shape in ((), (0, 3), (7,), (3, 4)):
            raw = np.random.default_rng(0).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            array = np.frombuffer(raw, np.uint8).view(dtype).reshape(shape)
            state[f"{dtype} {shape}"] = array if dtype != "bool" else np.ones(shape, bool)
    state["turned"] = np.arange(24, dtype=np.float32).reshape(4, 6).T
    save_training_state(tmp_path / "s", state)
    read = load_training_state(tmp_path / "s")
    assert {name: bits(array) for name, array in read.items()} == {n: bits(a) for n, a in state.items()}


def test_the_rest_comes_back_exactly(tmp_path):
    state = {
        "step": 2**63 + 1,
        "generator": {"state": 2**127 + 3, "words": ["α", "\ud800", 'a"b\n'], "none": None, "flag": True},
        "floats": [0.1, -0.0, 5e-324, 1e308, float("inf"), float("nan"), 1 / 3],
        "empty": {"dict": {}, "list": []},
        "a/b": np.arange(2),
        "a": {"b": np.arange(3), "~1": [np.arange(4), {"deep": np.float64(0.1)}]},
        "pair": (1, 2),
    }
    save_training_state(tmp_path / "s", state)
    read = load_training_state(tmp_path / "s")
    for key in ("step", "generator", "floats", "empty"):
        assert repr(read[key]) == repr(state[key])
    assert read["a/b"].tolist() == [0, 1] and read["a"]["b"].tolist() == [0, 1, 2]
    assert read["a"]["~1"][0].tolist() == [0, 1, 2, 3]
    assert bits(read["a"]["~1"][1]["deep"]) == bits(np.array(0.1))
    assert list(read) == list(state) and read["pair"] == [1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "bool"])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    tensor = (paddle.randn([5, 3]) * 100).astype(dtype)
    tensor.stop_gradient = dtype in ("int64", "bool")
    save_training_state(tmp_path / "s", {"t": tensor, "zero_d": tensor.sum()})
    read = load_training_state(tmp_path / "s")
    again = paddle.zeros([5, 3], dtype=dtype)
    again.set_value(read["t"])
    assert again.dtype == tensor.dtype and bits(again.numpy()) == bits(tensor.detach().numpy())
    assert read["zero_d"].shape == ()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, "/a: keys .1."),
        ({"a": [object()]}, "/a/0: object"),
        ({"a": b"bytes"}, "/a: bytes"),
        ({"__array__": 1}, "/: keys .'__array__'."),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        save_training_state(tmp_path / "s", state)
    assert not (tmp_path / "s").exists()


def make_step(folder, step):
    path = folder / f"step_{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"w" * step)
    write_manifest(path / MANIFEST, ("model.safetensors",))
    save_training_state(path / "training_state", {"step": step, "a": np.ones(9)}, beside=(MANIFEST,))
    return path


def test_step_folders_are_in_numeric_order_and_the_last_ones_are_kept(tmp_path):
    for step in (9, 100, 20, 3):
        make_step(tmp_path, step)
    others = ["step_x", "step_5.bak", "last", f".step_7.tmp-{os.getpid()}"]
    for other in others:
        (tmp_path / other).mkdir()
    (tmp_path / "step_300").write_text("a file")
    assert [step for step, _ in step_folders(tmp_path)] == [3, 9, 20, 100]
    assert step_folders(tmp_path / "absent") == [] and load_newest(tmp_path / "absent") is None
    path, state, damaged = load_newest(tmp_path)
    assert (path, state["step"], damaged) == (tmp_path / "step_100", 100, [])
    keep_last(tmp_path, 2, keep=(tmp_path / "step_3",))
    left = ["step_3", "step_20", "step_100", "step_300", *others]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = [
    lambda path: (path / "training_state/manifest.json").unlink(),
    lambda path: (path / "training_state/arrays.safetensors").write_bytes(b"half"),
    lambda path: (path / MANIFEST).unlink(),
    lambda path: _flip(path / "training_state/state.json"),
    lambda path: _flip(path / "model.safetensors"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_named_passed_over_and_kept_aside(tmp_path, caplog, damage):
    damage(make_step(tmp_path, 2))
    with pytest.raises(UserError, match="none of its 1 checkpoints is whole .*step_2"):
        load_newest(tmp_path)
    make_step(tmp_path, 1)
    with caplog.at_level(logging.WARNING):
        path, state, damaged = load_newest(tmp_path)
    assert (path.name, state["step"]) == ("step_1", 1)
    assert f"{tmp_path / 'step_2'}" in caplog.text and "step_2 is passed over" in caplog.text
    left = sorted(file.relative_to(tmp_path / "step_2") for file in (tmp_path / "step_2").rglob("*"))
    set_aside(damaged)
    assert step_folders(tmp_path) == [(1, tmp_path / "step_1")]
    aside = tmp_path / "step_2.damaged"
    assert sorted(file.relative_to(aside) for file in aside.rglob("*")) == left
    damage(make_step(tmp_path, 2))  # once more
    set_aside(load_newest(tmp_path)[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_2.damaged"]


PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
import utils.files
from model.checkpoint.training_state import save_training_state
left = int(sys.argv[2])
sync, count = os.fsync, 0
def fsync(descriptor):
    global count
    count += 1
    if count > left:
        os.kill(os.getpid(), 9)
    sync(descriptor)
os.fsync = fsync
with utils.files.atomic_dir(Path(sys.argv[1]) / "step_2") as folder:
    (folder / "model.safetensors").write_bytes(b"ww")
    save_training_state(folder / "training_state", {"a": np.ones(9)}, beside=("model.safetensors",))
"""


def test_a_save_killed_at_any_file_is_never_taken_as_complete(tmp_path):
    make_step(tmp_path, 1)
    seen = set()
    for left in range(12):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(left)], cwd=ROOT, check=False
        )
        newest = load_newest(tmp_path)[0]
        seen.add((done.returncode, newest.name))
        if done.returncode == 0:
            break
    # killed before the rename: step_1; killed after it, or not at all: a whole step_2
    assert {(-9, "step_1"), (0, "step_2")} <= seen <= {(-9, "step_1"), (-9, "step_2"), (0, "step_2")}
    clear_leftovers(tmp_path)
    keep_last(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


@pytest.fixture(params=["of another process", "of this one's namesake in a container"])
def ended(request):
    """The number of a process that does not run any more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid if "another" in request.param else os.getpid()


def test_a_folder_lost_between_two_renames_is_put_back(tmp_path, ended):
    make_step(tmp_path, 1).rename(tmp_path / f".best.old-{ended}")
    (tmp_path / f".best.tmp-{ended}").mkdir()
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert load_training_state(tmp_path / "best/training_state")["step"] == 1


def test_what_a_killed_process_left_is_cleared(tmp_path, ended):
    with subprocess.Popen(["sleep", "60"]) as running:
        stays = [f".best.tmp-{running.pid}", ".hidden", ".x.tmp-y", "best", "x.tmp-1"]
        for entry in (*stays, f".best.tmp-{ended}", f".best.old-{ended}", f".step_3.gone-{ended}"):
            (tmp_path / entry).mkdir()
        (tmp_path / "best" / "new").touch()
        (tmp_path / f".metrics.jsonl.tmp-{ended}").write_text("half")
        clear_leftovers(tmp_path)
        running.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stays)
    assert (tmp_path / "best" / "new").exists()
    clear_leftovers(tmp_path / "absent")
