"""The comparison with published numbers agrees only where they do; that needs no real weights."""

import sys

import numpy as np
import paddle
import pytest

from model.ernie_m import ErnieMConfig, ErnieMModel
from scripts import verify_weights
from scripts.verify_weights import EXPECTED, TOLERANCE, agrees, hidden_states, load_base
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.plain_model import PlainErnieM
from utils.errors import UserError


@pytest.mark.parametrize(("factor", "fits"), [(0.0, True), (0.9, True), (-1.1, False), (np.nan, False)])
def test_one_number_off_is_enough(factor, fits, capsys):
    found = np.array(EXPECTED)
    found[2, 1] += factor * TOLERANCE
    assert agrees(found) == fits
    assert ("OFF" in capsys.readouterr().out) != fits


def test_a_hidden_position_reaches_no_other():
    model = ErnieMModel(ErnieMConfig.from_dict(official_config("tiny", initializer_range=1.0)))
    model.eval()
    ids = [0, 1, 7]
    with paddle.no_grad():
        plain = PlainErnieM(model.config)
        plain.set_state_dict(model.state_dict())
        seen = paddle.ones([1, 1, 3, 3], "bool")
        expected = plain(paddle.to_tensor([ids]), paddle.to_tensor([[2, 3, 4]]), seen).sequence[0].numpy()
    assert np.allclose(hidden_states(model, ids), expected, atol=1e-6)
    one, two = (hidden_states(model, [first, 7, 8, 9], masked=1) for first in (0, 5))
    assert np.array_equal(one[1:], two[1:]) and not np.allclose(one[0], two[0])


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_exit_code(off, monkeypatch, capsys):
    states = np.full((11, 8), 99.0)
    states[1:4, 1:4] = np.array(EXPECTED) + off
    monkeypatch.setattr(verify_weights, "load_base", lambda path: None)
    monkeypatch.setattr(verify_weights, "hidden_states", lambda *_, **__: states)
    monkeypatch.setattr(sys, "argv", ["verify_weights", "."])
    if off:
        with pytest.raises(SystemExit, match="1"):
            verify_weights.main()
    else:
        verify_weights.main()
    assert ("FAILED" if off else "verify: all numbers agree") in capsys.readouterr().out


def test_no_weights_and_other_sizes_are_one_line(tmp_path, monkeypatch):
    for arguments, message in (
        ([], "give the folder of the weights"),
        ([str(tmp_path / "absent")], "absent: no such folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["verify_weights", *arguments])
        with pytest.raises(UserError, match=message):
            verify_weights.main()
    make_official_weights(tmp_path, official_config("tiny"), seed=0)
    with pytest.raises(UserError, match="not the base size .vocab_size 50, hidden_size 8, num_hidden_layers"):
        load_base(str(tmp_path))
