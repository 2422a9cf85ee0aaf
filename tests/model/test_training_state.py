"""Training state comes back exactly as it was saved, or is refused."""

import numpy as np
import paddle
import pytest

from model.checkpoint.training_state import load_training_state, save_training_state, write_part
from tests.helpers.damaged import flip_last_bit
from utils.errors import UserError

DTYPES = ["bool", "int8", "uint8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


def bits(array):
    """What two arrays have in common only if all their bits are equal."""
    return array.dtype, array.shape, array.tobytes()


def test_arrays_come_back_bit_for_bit(tmp_path):
    state = {}
    for dtype in DTYPES:
        for shape in ((), (0, 3), (7,), (3, 4)):
            raw = np.random.default_rng(0).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            array = np.frombuffer(raw, np.uint8).view(dtype).reshape(shape)
            if dtype == "bool":  # not every byte is a bool
                array = np.ones(shape, bool)
            state[f"{dtype} {shape}"] = array
    state["transposed"] = np.arange(24, dtype=np.float32).reshape(4, 6).T
    save_training_state(tmp_path / "s", state)
    loaded = load_training_state(tmp_path / "s")
    assert loaded.keys() == state.keys()
    for name, array in loaded.items():
        assert bits(array) == bits(state[name]), name


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
    loaded = load_training_state(tmp_path / "s")
    for key in ("step", "generator", "floats", "empty"):  # compared as text, because nan is not equal to nan
        assert repr(loaded[key]) == repr(state[key])
    assert loaded["a/b"].tolist() == [0, 1]
    assert loaded["a"]["b"].tolist() == [0, 1, 2]
    assert loaded["a"]["~1"][0].tolist() == [0, 1, 2, 3]
    assert bits(loaded["a"]["~1"][1]["deep"]) == bits(np.array(0.1))
    assert list(loaded) == list(state)
    assert loaded["pair"] == [1, 2]  # JSON has no tuples


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "bool"])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    tensor = (paddle.randn([5, 3]) * 100).astype(dtype)
    tensor.stop_gradient = dtype in ("int64", "bool")
    save_training_state(tmp_path / "s", {"tensor": tensor, "zero_d": tensor.sum()})
    loaded = load_training_state(tmp_path / "s")
    new_tensor = paddle.zeros([5, 3], dtype=dtype)
    new_tensor.set_value(loaded["tensor"])
    assert new_tensor.dtype == tensor.dtype
    assert bits(new_tensor.numpy()) == bits(tensor.detach().numpy())
    assert loaded["zero_d"].shape == ()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, "/a: keys .1."),
        ({"a": [object()]}, "/a/0: object"),
        ({"a": b"bytes"}, "/a: bytes"),
        ({"__array__": 1}, "/: keys .'__array__'."),
    ],
)
def test_a_value_that_has_no_form_is_refused_with_its_place(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        save_training_state(tmp_path / "s", state)
    assert not (tmp_path / "s").exists()


def write_two_parts(folder):
    """The state of two processes, each with its own part of the moments."""
    folder.mkdir()
    write_part(folder, {"step": 7, "moments": {"a": np.zeros(3)}}, 0, 2)  # part 0 of 2
    write_part(folder, {"moments": {"b": np.ones(3)}}, 1, 2)


def test_parts_are_merged(tmp_path):
    write_two_parts(tmp_path / "s")
    loaded = load_training_state(tmp_path / "s")
    assert loaded["step"] == 7
    assert loaded["moments"].keys() == {"a", "b"}
    assert loaded["moments"]["a"].tolist() == [0, 0, 0]
    assert loaded["moments"]["b"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["arrays-1-of-2.safetensors", "state-1-of-2.json", "manifest-1-of-2.json"])
def test_every_part_is_compared_with_its_manifest(tmp_path, name):
    write_two_parts(tmp_path / "s")
    path = tmp_path / "s" / name
    flip_last_bit(path)
    with pytest.raises(UserError, match=f"{path.parent}/"):
        load_training_state(tmp_path / "s")


def test_the_number_of_parts_is_not_guessed(tmp_path):
    write_two_parts(tmp_path / "s")
    manifest = tmp_path / "s/manifest.json"
    manifest.write_text(manifest.read_text().replace('"parts"', '"partt"'))  # one bit
    with pytest.raises(UserError, match="manifest.json: damaged"):
        load_training_state(tmp_path / "s")
