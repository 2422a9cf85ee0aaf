"""`scripts/verify_weights.py` reproduces what other libraries do when no mask is given (random weights)."""

import numpy as np
import paddle
import pytest
import torch
from paddlenlp.transformers import ErnieMConfig as PaddleNLPConfig
from paddlenlp.transformers import ErnieMModel as PaddleNLPModel
from transformers import ErnieMConfig as HuggingFaceConfig
from transformers import ErnieMModel as HuggingFaceModel

from model.checkpoint.folder import model_weights
from model.ernie_m import ErnieMConfig, ErnieMModel
from scripts.verify_weights import GOLDENS, encode_with

CONFIG = {
    "vocab_size": 7000, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 128, "max_position_embeddings": 514, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    paddle.seed(0)
    model = ErnieMModel(ErnieMConfig.from_dict(CONFIG))
    model.eval()
    return model


def test_paddlenlp_hides_position_0(model):
    ids = GOLDENS[0].ids
    peer = PaddleNLPModel(PaddleNLPConfig(**CONFIG))
    peer.eval()
    peer.set_state_dict({name: paddle.to_tensor(array) for name, array in model_weights(model).items()})
    with paddle.no_grad():
        by_default = peer(paddle.to_tensor([ids]))[0][0].numpy()
        ours, unmasked = (encode_with(model, ids, hidden) for hidden in ((0,), ()))
    np.testing.assert_allclose(ours[1:], by_default[1:], atol=1e-5)  # row 0 still sees itself in ours
    assert np.abs(unmasked[1:] - by_default[1:]).max() > 0.01


def test_hugging_face_hides_the_pad_id(model):
    ids = GOLDENS[1].ids
    peer = HuggingFaceModel(HuggingFaceConfig(**CONFIG)).eval()
    state = {}
    for name, array in model_weights(model).items():
        name = name.replace("_attn.q_", "_attn.self_attn.q_").replace("_attn.k_", "_attn.self_attn.k_")
        name = name.replace("_attn.v_", "_attn.self_attn.v_")
        linear = array.ndim == 2 and not name.startswith("embeddings.")
        state[name] = torch.from_numpy(array.T.copy() if linear else array.copy())
    peer.load_state_dict(state)
    with torch.no_grad(), paddle.no_grad():
        by_default = peer(torch.tensor([ids])).last_hidden_state[0].numpy()
        ours, unmasked = (encode_with(model, ids, hidden) for hidden in ((1,), ()))
    others = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(ours[others], by_default[others], atol=1e-5)
    assert np.abs(unmasked[others] - by_default[others]).max() > 0.01
