"""The encoder: its positions, dropout, initial weights and config. Its numbers: test_packed_layout.py."""

import json
import math
import re

import numpy as np
import pytest

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.layers import LayerNorm
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.batches import compute_as_on_a_gpu, packed_batch
from tests.launching import check_error, error_of

SIZES = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = ErnieMConfig(**SIZES, **NO_DROPOUT, max_position_embeddings=12, initializer_range=0.3)


pytestmark = pytest.mark.usefixtures("float64")


def test_initial_weights():
    """A normal distribution of deviation 0.1 that is cut at two deviations, and zeros at the pads."""
    sizes = {"vocab_size": 2000, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ErnieMModel(ErnieMConfig(**sizes, initializer_range=0.1, pad_token_id=0, layer_norm_eps=0.25))
    table = model.embeddings.word_embeddings.weight.numpy()
    assert 0.19 < np.abs(table).max() <= 0.2
    # The cut leaves 0.8796 of the deviation. Without rows 0 and 1, of which one is the pad's.
    assert table[2:].std() == pytest.approx(0.08796, rel=0.01)
    assert table.any(1).nonzero()[0].tolist() == [*range(1, 2000)]
    assert (model.embeddings.position_embeddings.weight == 0).all(1).nonzero().flatten().tolist() == [1]
    assert not model.encoder.layers[0].linear1.bias.numpy().any()
    assert [x.epsilon for x in model.sublayers() if isinstance(x, LayerNorm)] == [0.25] * 3


@pytest.mark.parametrize("position", [12, 500])
def test_a_position_past_the_table(position):
    """The table has the positions 0 to 11, of which the first token has 2."""
    model = ErnieMModel(CONFIG)
    batch = packed_batch([0, 5, 2], PackedLayout([3]), position_ids=np.array([2, 3, position]))
    check_error(error_of(model.encode, batch), f" {position - 1} tokens", " of 10. ", "max_seq_len")


def test_where_dropout_is(monkeypatch):
    """After the embeddings; in each layer on the weights of attention, after attention, and at its end."""
    calls = []

    def record(x, probability, training, residual=None):
        calls.append((x.shape, probability, training))
        return x if residual is None else x + residual

    monkeypatch.setattr("ernie_m.model.ernie.dropout", record)
    monkeypatch.setattr("ernie_m.model.transformer_encoder.dropout", record)
    monkeypatch.setattr("ernie_m.model.attention.dropout", record)
    compute_as_on_a_gpu(monkeypatch)
    model = ErnieMModel(ErnieMConfig(**SIZES, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3))
    model.encode(packed_batch(np.full(64, 5), PackedLayout([60, 4])))
    hidden = ([64, 12], 0.2, True)  # [N, H]
    # [sequences of a group, heads, T, T]
    of_a_layer = [([1, 3, 60, 60], 0.3, True), ([1, 3, 4, 4], 0.3, True), hidden, hidden]
    assert calls == [hidden, *of_a_layer, *of_a_layer]


def test_config_from_json(tmp_path):
    path = tmp_path / "config.json"
    values = SIZES | {
        "intermediate_size": 40,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.3,
        "max_position_embeddings": 20,
        "initializer_range": 0.5,
        "layer_norm_eps": 1e-3,
        "pad_token_id": 0,
    }
    path.write_text(json.dumps(values | {"type_vocab_size": 16}))
    assert ErnieMConfig.from_json(path, vocab_size=99).to_dict() == values
    assert ErnieMConfig.from_dict(SIZES | {"hidden_dropout_prob": None}).to_dict() == SIZES | {
        "intermediate_size": 48,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 514,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }
    path.write_text(json.dumps(SIZES | {"vocab_size": None}))
    check_error(error_of(ErnieMConfig.from_json, path), "config.json: ", "vocab_size")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"config.json: cannot be read \(No such file"),
        ("{", "config.json, line 1, column 2: not JSON"),
        ("[1]", "config.json: not a JSON object"),
        (json.dumps({"vocab_size": 4, "hidden_size": 8}), "num_hidden_layers, num_attention_heads"),
        (json.dumps(SIZES | {"hidden_size": 1 << 41}), "config.json: invalid hidden_size 2199023255552"),
        (
            json.dumps(SIZES | {"num_hidden_layers": 1_000_000}),
            "config.json: invalid num_hidden_layers 1000000",
        ),
        (json.dumps(SIZES | {"hidden_size": 13}), "config.json: hidden_size 13 is not a multiple of"),
        (json.dumps(SIZES | {"hidden_act": "swish"}), "config.json: invalid hidden_act .swish"),
        (json.dumps(SIZES | {"pad_token_id": SIZES["vocab_size"]}), "config.json: invalid pad_token_id"),
        (json.dumps(SIZES | {"max_position_embeddings": 2}), "config.json: invalid max_position_embeddings"),
        (json.dumps(SIZES | {"hidden_size": {}}), "json: invalid hidden_size {}"),
        (json.dumps(SIZES | {"hidden_dropout_prob": math.nan}), "invalid hidden_dropout_prob nan"),
        (json.dumps(SIZES | {"initializer_range": math.inf}), "invalid initializer_range inf"),
        (json.dumps(SIZES | {"layer_norm_eps": 10**400}), "invalid layer_norm_eps 10+"),
    ],
)
def test_reject_bad_config_in_one_line(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    error = error_of(ErnieMConfig.from_json, path)
    assert re.search(message, error) and "\n" not in error


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 3 << 30},
        {"vocab_size": 1 << 40},
        {"max_position_embeddings": 1 << 40},
        {"intermediate_size": 1 << 40},
        {"num_hidden_layers": 1000, "hidden_size": 12_000},
    ],
)
def test_rejects_an_encoder_that_is_larger_than_the_memory(sizes):
    line = error_of(ErnieMModel, ErnieMConfig(**SIZES | sizes))
    assert all(f"{key} {size}" in line for key, size in sizes.items())
