import json

import numpy as np
import paddle
import pytest

from model.attention import Layout
from model.ernie_m import ErnieMConfig, ErnieMModel, absolute_positions
from tests.helpers.plain_model import PlainErnieM
from utils.errors import UserError

SIZES = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = ErnieMConfig(**SIZES, **NO_DROPOUT, max_position_embeddings=12, initializer_range=0.3)
IDS = np.array([[0, 7, 8, 9, 2, 2, 11, 2], [0, 30, 2, 1, 1, 1, 1, 1]])


pytestmark = pytest.mark.usefixtures("float64")


def gradients_of(model, output) -> dict[str, np.ndarray]:
    weight = np.random.default_rng(1).standard_normal(output.sequence.shape) * (IDS != 1)[..., None]
    weight = paddle.to_tensor(weight)
    ((output.sequence * weight).sum() + output.pooled.sum()).backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return gradients


def test_equals_the_same_encoder_in_plain_paddle():
    model, plain = ErnieMModel(CONFIG), PlainErnieM(CONFIG)
    plain.set_state_dict(model.state_dict())
    ids = paddle.to_tensor(IDS)
    ours, theirs = model(ids, output_hidden_states=True), plain(ids)
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert np.abs((a - b).numpy()).max() < 1e-9
    for pooled in (ours.pooled, model.pool(ids)):
        assert np.abs((pooled - theirs.pooled).numpy()).max() < 1e-9
    gradients, expected = gradients_of(model, ours), gradients_of(plain, theirs)
    assert gradients.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert np.abs(gradient - expected[name]).max() < 1e-9, name


def test_base_has_the_official_number_of_parameters():
    config = ErnieMConfig(250002, 768, 12, 12)
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    tables = (config.vocab_size + config.max_position_embeddings + 2) * 768
    assert tables + 12 * layer + 768 * 768 + 768 == 278_042_880
    small = ErnieMModel(ErnieMConfig(50, 768, 1, 12, max_position_embeddings=10))
    assert sum(p.size for p in small.parameters()) == (50 + 10 + 2) * 768 + layer + 768 * 768 + 768


def test_initial_weights():
    config = ErnieMConfig(2000, 64, 1, 2, initializer_range=0.1)
    model = ErnieMModel(config)
    table = model.embeddings.word_embeddings.weight.numpy()
    assert np.abs(table).max() <= 0.2 and np.abs(table).max() > 0.19
    # a normal distribution cut at two deviations has 0.8796 of the deviation
    assert table[2:].std() == pytest.approx(0.08796, rel=0.01)
    assert not table[1].any() and table[0].any()
    assert not model.embeddings.position_embeddings.weight.numpy()[1].any()
    assert not model.encoder.layers[0].linear1.bias.numpy().any()


def test_positions():
    ids = paddle.to_tensor(IDS)
    positions = absolute_positions(ids, 1)
    assert positions.numpy().tolist() == [[2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 1, 1, 1, 1, 1]]
    model = ErnieMModel(CONFIG)
    counted = model(ids).sequence.numpy()
    given = positions.clone()
    assert np.array_equal(model(ids, given).sequence.numpy(), counted)
    assert np.array_equal(given.numpy(), positions.numpy())
    shifted = paddle.where(positions == 1, positions, positions + 1)
    assert np.abs(model(ids, shifted).sequence.numpy() - counted).max() > 1e-3


@pytest.mark.parametrize("position", [12, 500])
def test_a_position_past_the_table(position):
    model = ErnieMModel(CONFIG)
    with pytest.raises(UserError, match=rf"position {position} is past.*at most 10 tokens.*max_seq_len"):
        model(paddle.to_tensor([[0, 5, 2]]), paddle.to_tensor([[2, 3, position]]))
    with pytest.raises(UserError, match="position 12 is past"):
        model(paddle.full([1, 11], 5, "int64"))


def test_input_bias_is_added_before_the_layer_norm():
    model, ids, layout = ErnieMModel(CONFIG), paddle.to_tensor([0, 7, 8, 2, 0, 2]), Layout([4, 2])
    nines = paddle.full_like(ids, 9)
    bias = model.embeddings.word_embeddings(nines) - model.embeddings.word_embeddings(ids)
    found = model(ids, None, layout, bias).sequence
    assert np.abs((found - model(nines, None, layout).sequence).numpy()).max() < 1e-9


def test_dropout_is_on_in_training_only():
    model = ErnieMModel(ErnieMConfig(**SIZES, max_position_embeddings=12))
    ids = paddle.to_tensor(IDS)
    assert np.abs((model(ids).sequence - model(ids).sequence).numpy()).max() > 1e-3
    model.eval()
    assert np.array_equal(model(ids).sequence.numpy(), model(ids).sequence.numpy())


def test_where_dropout_is(monkeypatch):
    calls = []

    def record(x, probability, training, residual=None):
        calls.append((x.shape, probability, training))
        return x if residual is None else x + residual

    monkeypatch.setattr("model.ernie_m.dropout", record)
    monkeypatch.setattr("model.attention.dropout", record)
    monkeypatch.setattr("model.attention.on_cpu", lambda x: False)
    model = ErnieMModel(ErnieMConfig(**SIZES, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3))
    model(IDS)
    hidden, longest, shortest = ([11, 12], 0.2, True), ([1, 3, 8, 8], 0.3, True), ([1, 3, 3, 3], 0.3, True)
    assert calls == [hidden, *[longest, shortest, hidden, hidden] * 2]


def test_config_from_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SIZES | {"type_vocab_size": 16, "hidden_dropout_prob": 0.3}))
    config = ErnieMConfig.from_json(path)
    assert (config.hidden_dropout_prob, config.intermediate_size, config.layer_norm_eps) == (0.3, 48, 1e-5)
    assert ErnieMConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"config.json: cannot be read \(No such file"),
        ("{", "config.json, line 1, column 2: not JSON"),
        ("[1]", "config.json: a JSON object is expected"),
        (json.dumps({"vocab_size": 4, "hidden_size": 8}), "lacks num_hidden_layers, num_attention_heads"),
        (json.dumps(SIZES | {"hidden_size": 13}), "config.json: hidden_size 13 is no multiple of"),
        (json.dumps(SIZES | {"hidden_act": "swish"}), "config.json: hidden_act 'swish' is not supported"),
    ],
)
def test_bad_config(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        ErnieMConfig.from_json(path)
    assert "\n" not in str(caught.value)
