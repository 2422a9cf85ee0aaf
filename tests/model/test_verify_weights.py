"""The comparison with published numbers agrees only where they do; that needs no real weights."""

import sys

import numpy as np
import paddle
import pytest

from model.ernie_m import ErnieMConfig, ErnieMModel
from scripts import verify_weights
from scripts.verify_weights import GOLDENS, encode_with, load_encoder, verify
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.plain_model import PlainErnieM
from utils.errors import UserError


def stub(golden, off=0.0, at=(0, 0)):
    """An encoder that gives the expected numbers, one of them wrong by `off`."""

    def encode(ids, hidden):
        assert ids == golden.ids
        states = np.full((len(ids), 8), 99.0)
        numbers = np.array(golden.expected)
        numbers[at] += off
        states[np.ix_(golden.rows, golden.columns)] = numbers
        return states

    return encode


@pytest.mark.parametrize("golden", GOLDENS)
@pytest.mark.parametrize(("factor", "agrees"), [(0.0, True), (0.9, True), (-1.1, False), (np.nan, False)])
def test_one_number_off_is_enough(golden, factor, agrees, capsys):
    # row 2 is masked under none of the candidates
    assert verify(golden, stub(golden, factor * golden.tolerance, at=(2, 1))) == agrees
    assert ("OFF" in capsys.readouterr().out) != agrees


def test_positions_count_on_over_a_pad_id_and_a_hidden_one_reaches_no_other():
    model = ErnieMModel(ErnieMConfig.from_dict(official_config("tiny", initializer_range=1.0)))
    model.eval()
    ids = [0, 1, 7]
    with paddle.no_grad():
        plain = PlainErnieM(model.config)
        plain.set_state_dict(model.state_dict())
        seen = paddle.ones([1, 1, 3, 3], "bool")
        expected = plain(paddle.to_tensor([ids]), paddle.to_tensor([[2, 3, 4]]), seen).sequence[0].numpy()
        assert np.allclose(encode_with(model, ids, ()), expected, atol=1e-6)
        one, two = (encode_with(model, [first, 7, 8, 9], (0,)) for first in (0, 5))
    assert np.array_equal(one[1:], two[1:]) and not np.allclose(one[0], two[0])


def test_exit_code(monkeypatch, capsys):
    answer = {len(golden.ids): stub(golden) for golden in GOLDENS}
    monkeypatch.setattr(
        verify_weights, "load_encoder", lambda path: lambda ids, hidden: answer[len(ids)](ids, hidden)
    )
    monkeypatch.setattr(sys, "argv", ["verify_weights", "."])
    verify_weights.main()
    assert "verify: all numbers agree" in capsys.readouterr().out
    answer[6] = stub(GOLDENS[1], 1.0, (2, 2))
    with pytest.raises(SystemExit) as end:
        verify_weights.main()
    assert end.value.code == 1 and "FAILED" in capsys.readouterr().out


def test_no_weights_and_other_sizes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["verify_weights", str(tmp_path / "absent")])
    with pytest.raises(UserError, match="absent: no weights here; sh scripts/data/get_weights.sh"):
        verify_weights.main()
    make_official_weights(tmp_path, official_config("tiny"), seed=0)
    with pytest.raises(UserError, match="not the base size .vocab_size 50, hidden_size 8, "):
        load_encoder(str(tmp_path))
