"""`scripts/verify_weights.py` reproduces PaddleNLP's default mask; random weights are enough to see that."""

import numpy as np
import paddle
import pytest
from paddlenlp.transformers import ErnieMConfig as PaddleNLPConfig
from paddlenlp.transformers import ErnieMModel as PaddleNLPModel

from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from scripts.verify_weights import IDS, compute_hidden_states

CONFIG = {
    "vocab_size": 7000,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 514,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def model():
    paddle.seed(0)
    model = ErnieMModel(ErnieMConfig.from_dict(CONFIG))
    model.eval()
    return model


def test_paddlenlp_hides_position_0(model):
    """Its numbers are those of `masked=1`, with the first token masked, and not those without a mask."""
    reference = PaddleNLPModel(PaddleNLPConfig(**CONFIG))
    reference.eval()
    reference.set_state_dict(
        {name: paddle.to_tensor(array) for name, array in get_weight_arrays(model).items()}
    )
    with paddle.no_grad():
        by_default = reference(paddle.to_tensor([IDS]))[0][0].numpy()
    masked = compute_hidden_states(model, IDS, masked=1)
    unmasked = compute_hidden_states(model, IDS)
    np.testing.assert_allclose(masked[1:], by_default[1:], atol=1e-5)  # row 0 still sees itself in ours
    assert np.abs(unmasked[1:] - by_default[1:]).max() > 0.01
