"""Weights into a model: what may be absent, what may not, and how a misfit is said."""

import logging

import numpy as np
import pytest

from model.checkpoint.folder import load_from, load_into, model_weights, read_weights
from model.ernie_m import ErnieMConfig, ErnieMModel
from model.heads import SequenceClassifier
from tests.helpers.official_layout import make_official_weights, official_config
from utils.errors import UserError

CONFIG = official_config("tiny")


def config(**changes):
    return ErnieMConfig.from_dict({**CONFIG, **changes})


def classifier(labels=3):
    return SequenceClassifier(config(), labels)


# --- what may be absent, and what may not


def test_absent_pooler_is_warned_of(tmp_path, caplog):
    params = make_official_weights(tmp_path, CONFIG, seed=0, heads={"classification": 3}, pooler=False)
    model = classifier()
    before = model.ernie_m.pooler.dense.weight.numpy().copy()
    with caplog.at_level(logging.WARNING):
        _, report = load_from(model, params)
    assert f"pooled_fc is not in {params}, pooler starts fresh" in caplog.text
    assert report.fresh == ["pooler.dense.weight", "pooler.dense.bias"]
    assert np.array_equal(model.ernie_m.pooler.dense.weight.numpy(), before)


def test_head_may_be_absent_from_pre_trained_weights_but_not_from_a_checkpoint(tmp_path, caplog):
    params = make_official_weights(tmp_path, CONFIG, seed=0)
    with caplog.at_level(logging.WARNING):
        _, report = load_from(classifier(), params, optional=("pooler.", "classifier."))
    assert (
        report.fresh == ["classifier.weight", "classifier.bias"] and "classifier starts fresh" in caplog.text
    )
    with pytest.raises(UserError, match=f"{params}: 2 tensors missing: classifier.weight, classifier.bias"):
        load_from(classifier(), params)


def test_any_other_missing_variable_is_listed_and_nothing_is_touched(tmp_path):
    params = make_official_weights(tmp_path, CONFIG, seed=0, heads={"classification": 3})
    (params / "encoder_layer_0_ffn_fc_0.w_0").unlink()
    (params / "pos_embedding").unlink()
    model = classifier()
    before = {name: array.copy() for name, array in model_weights(model).items()}
    names_ = "embeddings.position_embeddings.weight, encoder.layers.0.linear1.weight"
    with pytest.raises(UserError, match=f"{params}: 2 tensors missing: {names_}$"):
        load_from(model, params)
    after = model_weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_another_tasks_head_is_ignored_on_request(tmp_path, caplog):
    params = make_official_weights(tmp_path, CONFIG, seed=0, heads={"tagging": 9})
    model = classifier(3)
    with caplog.at_level(logging.INFO):
        _, report = load_from(model, params, ignore=("classifier.",))
    assert report.unused == report.fresh == ["classifier.weight", "classifier.bias"]
    assert "2 tensors not used: classifier.weight, classifier.bias" in caplog.text


def test_two_heads_are_refused(tmp_path):
    heads = {"classification": 3, "question_answering": 2}
    params = make_official_weights(tmp_path, CONFIG, seed=0, heads=heads)
    with pytest.raises(UserError, match="heads of 2 tasks .classification, question_answering."):
        read_weights(params)


# --- weights and config that do not belong together


@pytest.mark.parametrize(
    ("changes", "tensor", "shapes", "key"),
    [
        ({"vocab_size": 60}, "embeddings.word_embeddings.weight", ([50, 8], [60, 8]), "vocab_size is 60"),
        ({"hidden_size": 16}, "embeddings.word_embeddings.weight", ([50, 8], [50, 16]), "hidden_size is 16"),
        (
            {"max_position_embeddings": 130}, "embeddings.position_embeddings.weight", ([514, 8], [130, 8]),
            "max_position_embeddings is 130 in the config and 514 in the weights",
        ),
        (
            {"intermediate_size": 20}, "encoder.layers.0.linear1.weight", ([8, 32], [8, 20]),
            "intermediate_size is 20 in the config and 32 in the weights",
        ),
    ],
)  # fmt: skip
def test_other_shapes_name_tensor_shapes_and_key(tmp_path, changes, tensor, shapes, key):
    params = make_official_weights(tmp_path, CONFIG, seed=0)
    with pytest.raises(UserError) as error:
        load_into(ErnieMModel(config(**changes)), read_weights(params).weights)
    message = str(error.value)
    assert message.startswith(f"{params}: {tensor} has shape {shapes[0]}, the model has {shapes[1]}")
    assert key in message and "\n" not in message


def test_another_number_of_labels_is_named():
    weights = {name: array.copy() for name, array in model_weights(classifier(3)).items()}
    with pytest.raises(UserError, match="num_labels is 2 in the config and 3 in the weights"):
        load_into(classifier(2), weights)


@pytest.mark.parametrize(
    ("layers", "message"), [(1, "left over: encoder.layers.1"), (3, "missing: encoder.layers.2")]
)
def test_another_number_of_layers_is_named(tmp_path, layers, message):
    params = make_official_weights(tmp_path, CONFIG, seed=0)
    with pytest.raises(
        UserError, match=f"num_hidden_layers is {layers} in the config, the weights have 2 .*{message}"
    ):
        load_into(ErnieMModel(config(num_hidden_layers=layers)), read_weights(params).weights)


def test_another_number_of_heads_is_named(tmp_path):
    make_official_weights(tmp_path, CONFIG, seed=0)
    with pytest.raises(
        UserError, match="ernie_config.json: num_attention_heads is 2, the model was built with 4"
    ):
        load_from(ErnieMModel(config(num_attention_heads=4)), tmp_path)
