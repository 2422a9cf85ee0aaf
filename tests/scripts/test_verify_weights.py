"""The comparison with published numbers fails if one of them differs. That is tested without real weights."""

import sys

import numpy as np
import paddle
import pytest

from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from scripts import verify_weights
from scripts.verify_weights import EXPECTED, TOLERANCE, compute_hidden_states, load_released
from tests.foreign import make_official, official_config
from tests.helpers.plain_model import PlainErnieM
from tests.launching import error_of


@pytest.fixture
def model():
    paddle.seed(0)
    model = ErnieMModel(ErnieMConfig.from_dict(official_config(initializer_range=1.0)))
    model.eval()
    return model


def test_states_equal_the_plain_model(model):
    """Positions 2, 3 and 4, and every token attends to all, also the pad (1)."""
    ids = [0, 1, 7]
    plain_model = PlainErnieM(model.config)
    plain_model.set_state_dict(model.state_dict())
    everything = paddle.ones([1, 1, 3, 3], "bool")
    output = plain_model(paddle.to_tensor([ids]), paddle.to_tensor([[2, 3, 4]]), everything)
    assert np.allclose(compute_hidden_states(model, ids), output.sequence[0].numpy(), atol=1e-6)


def test_a_masked_position_reaches_no_other(model):
    """With masked=1, the first token may be any other: only its own state changes."""
    states = compute_hidden_states(model, [0, 7, 8, 9], masked=1)
    with_another_token = compute_hidden_states(model, [5, 7, 8, 9], masked=1)
    assert np.array_equal(states[1:], with_another_token[1:])
    assert not np.allclose(states[0], with_another_token[0])


@pytest.mark.parametrize("off", [0.0, 0.9, -1.1, np.nan])
def test_one_number_off_is_enough(off, monkeypatch, capsys):
    """A number is off by `off` times the tolerance."""
    states = np.full((11, 8), 99.0)
    states[1:4, 1:4] = EXPECTED  # the published part of the states
    states[3, 2] += off * TOLERANCE
    monkeypatch.setattr(verify_weights, "load_released", lambda path: ("base", None))
    monkeypatch.setattr(verify_weights, "compute_hidden_states", lambda *_, **__: states)
    monkeypatch.setattr(sys, "argv", ["verify_weights", "."])
    if abs(off) < 1:
        verify_weights.main()
    else:
        with pytest.raises(SystemExit, match="1"):
            verify_weights.main()
    assert ("verify: all values agree" if abs(off) < 1 else "FAILED") in capsys.readouterr().out


def test_no_weights_and_other_sizes_are_one_line(tmp_path, monkeypatch):
    for arguments, message in (
        ([], "missing required option PATH"),
        ([str(tmp_path / "absent")], "absent: no such folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["verify_weights", *arguments])
        assert message in error_of(verify_weights.main)
    make_official(tmp_path, official_config(), seed=0)
    assert "not the base size (vocab_size 50, hidden_size 8, num_hidden_layers" in error_of(
        load_released, str(tmp_path)
    )


def test_weights_without_numbers(tmp_path, monkeypatch, capsys):
    """A large model, here a tiny one, has only names, shapes and finite values to check."""
    make_official(tmp_path, official_config(), seed=0)
    tiny = {key: official_config()[key] for key in verify_weights.SIZES["large"]}
    monkeypatch.setattr(verify_weights, "SIZES", {"base": EXPECTED, "large": tiny})
    monkeypatch.setattr(sys, "argv", ["verify_weights", str(tmp_path)])
    verify_weights.main()
    lines = capsys.readouterr().out.splitlines()
    assert "ernie-m-large" in lines[0] and "no values of this size" in lines[-1]
    weight = np.zeros([8, 32], "float32")
    weight[3, 4] = np.nan
    lod_tensors.write(tmp_path / "params/encoder_layer_1_ffn_fc_0.w_0", weight)
    assert "encoder.layers.1.linear1.weight contains NaN" in error_of(verify_weights.main)
