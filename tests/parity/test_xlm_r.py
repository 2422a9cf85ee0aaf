"""Weights that transformers saved as XLM-R give the same hidden states and MLM logits here."""

import numpy as np
import paddle
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel

from ernie_m.model.checkpoint.load import load_from
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.lm_head import PreTrainingModel
from tests.helpers.batches import padded_batch

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}


@pytest.fixture(scope="module")
def peer():
    """XLM-R of transformers, with a masked-LM head and random weights."""
    torch.manual_seed(0)
    config = XLMRobertaConfig(**SHAPE, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.3)
    model = XLMRobertaForMaskedLM(config).eval()
    with torch.no_grad():
        # New biases are all 0, and scales of norms all 1: if they were mixed up, no number would change.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save(peer, folder, form: str) -> None:
    """Save a model of transformers in one of FORMS."""
    largest_file = "20KB" if "shards" in form else "1GB"
    peer.save_pretrained(folder, safe_serialization="safetensors" in form, max_shard_size=largest_file)
    if form == "bin, old layout":
        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


FORMS = ["safetensors", "safetensors shards", "bin", "bin shards", "bin, old layout"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers(peer, tmp_path, form):
    """Hidden states and logits agree within 1e-4 where there are no pads."""
    save(peer, tmp_path, form)
    assert ("shards" in form) == bool(list(tmp_path.glob("*.index.json")))
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.unknown) == ("xlm-r", [])
    model = PreTrainingModel(checkpoint.config, ["en"])
    fresh = load_from(model, checkpoint, optional=("pooler.", "language_embeddings."))
    assert {name.split(".")[0] for name in fresh} == {"pooler", "language_embeddings"}
    model.eval()

    rng = np.random.default_rng(1)
    ids = rng.integers(4, 60, size=(3, 9))
    ids[:, 0] = 0  # [CLS]
    ids[:, -1] = 2  # [SEP]
    ids[1, 6:] = 1  # pads
    is_token = ids != 1
    with torch.no_grad():
        expected = peer(torch.tensor(ids), torch.tensor(is_token.astype("int64")), output_hidden_states=True)
    with paddle.no_grad():
        output = model.ernie_m.encode(padded_batch(ids), output_hidden_states=True)
        logits = model.lm_head(output.sequence)  # [N, V]
    for layer, expected_layer in zip(output.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(layer.numpy(), expected_layer.numpy()[is_token], atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), expected.logits.numpy()[is_token], atol=1e-4)


def test_an_encoder_without_a_head(peer, tmp_path):
    encoder = XLMRobertaModel(peer.config, add_pooling_layer=True).eval()
    encoder.load_state_dict(peer.roberta.state_dict(), strict=False)
    encoder.save_pretrained(tmp_path)
    weights = open_checkpoint(tmp_path).tensors
    assert not any(name.startswith("lm_head.") for name in weights)
    np.testing.assert_array_equal(weights["pooler.dense.bias"], encoder.pooler.dense.bias.detach().numpy())
    expected = peer.roberta.encoder.layer[1].intermediate.dense.weight.detach().numpy().T
    np.testing.assert_array_equal(weights["encoder.layers.1.linear1.weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_in_a_bin(peer, tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in peer.state_dict().items()}
    peer.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    table = open_checkpoint(tmp_path).tensors["embeddings.word_embeddings.weight"]
    expected = peer.roberta.embeddings.word_embeddings.weight.detach().to(dtype).to(torch.float64).numpy()
    np.testing.assert_array_equal(np.asarray(table, np.float64), expected)
