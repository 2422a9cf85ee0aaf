"""Filling a model with weights: what may be absent, what may not, and how a misfit is reported."""

from dataclasses import replace

import numpy as np
import pytest

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.official import write_config
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.open_model import open_model
from ernie_m.reader.tokenization import Tokenizer
from tests.foreign import make_official, official_config
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.checkpoints import change_config, stored
from tests.launching import error_of
from tests.toys import CONFIG as TOY_CONFIG
from tests.toys import make_ours, train_piece_model

CONFIG = official_config()


def classifier(labels=3):
    return SequenceClassifier(ErnieMConfig.from_dict(CONFIG), labels)


def official_checkpoint(folder, **options):
    return open_checkpoint(make_official(folder, CONFIG, seed=0, **options))


def test_a_config_beside_the_weights_precedes_one_above(tmp_path):
    params = make_official(tmp_path, CONFIG, seed=0)
    write_config(params / "ernie_config.json", {**CONFIG, "hidden_dropout_prob": 0.25})
    assert open_checkpoint(params).config.hidden_dropout_prob == 0.25


def test_warn_about_missing_pooler(tmp_path, caplog):
    caplog.set_level("WARNING")
    checkpoint = official_checkpoint(tmp_path, head="classification", pooler=False)
    assert load_weights(classifier(), checkpoint) == ["pooler.dense.weight", "pooler.dense.bias"]
    assert caplog.messages == [f"{tmp_path / 'params'}: no pooled_fc; initializing pooler randomly"]


def test_head_may_be_absent_from_pre_trained_weights_but_not_from_a_checkpoint(tmp_path, caplog):
    caplog.set_level("WARNING")
    without_head = official_checkpoint(tmp_path)
    head = ["classifier.weight", "classifier.bias"]
    assert load_weights(classifier(), without_head, optional=("pooler.", "classifier.")) == head
    assert caplog.messages == [f"{tmp_path / 'params'}: no classifier; initializing classifier randomly"]
    # By default only the pooler may be absent.
    line = error_of(load_weights, classifier(), without_head)
    assert line == f"{tmp_path / 'params'}: 2 tensors missing: {', '.join(head)}"


def test_any_other_missing_variable_is_listed_and_nothing_is_changed(tmp_path):
    params = make_official(tmp_path, CONFIG, seed=0, head="classification")
    (params / "encoder_layer_0_ffn_fc_0.w_0").unlink()
    (params / "pos_embedding").unlink()
    model = classifier()
    weights_before = {name: array.copy() for name, array in get_weight_arrays(model).items()}
    missing = "embeddings.position_embeddings.weight, encoder.layers.0.linear1.weight"
    assert error_of(load_weights, model, open_checkpoint(params)) == f"{params}: 2 tensors missing: {missing}"
    assert_equal_arrays(get_weight_arrays(model), weights_before)


def test_another_tasks_head_is_ignored_on_request_and_unused_tensors_are_logged(tmp_path, caplog):
    checkpoint = official_checkpoint(tmp_path, head="token-classification", lm_head=True)
    caplog.set_level("INFO")
    fresh = load_weights(classifier(3), checkpoint, ignore=("classifier.",))
    assert fresh == ["classifier.weight", "classifier.bias"]
    assert caplog.messages == [
        f"{tmp_path / 'params'}: 5 tensors not used: lm_head.dense.weight, lm_head.dense.bias, "
        "lm_head.layer_norm.weight, lm_head.layer_norm.bias, lm_head.bias"
    ]


def test_two_heads_are_refused(tmp_path):
    make_official(tmp_path, CONFIG, head="classification")
    assert "(classification, question-answering)" in error_of(
        official_checkpoint, tmp_path, head="question-answering"
    )


# What differs in the config of the model, and what the message names.
MISFITS = [
    ({"vocab_size": 60}, "embeddings.word_embeddings.weight has shape [50, 8]"),
    ({"hidden_size": 16}, "hidden_size is 16 in the config and 8 in the weights; intermediate_size is 64 in"),
    ({"intermediate_size": 20}, "intermediate_size is 20 in the config and 32 in the weights"),
    ({"num_hidden_layers": 3}, "num_hidden_layers (config: 3, weights: 2)"),
    ({"num_hidden_layers": 1}, "num_hidden_layers (config: 1, weights: 2)"),
    ({"num_attention_heads": 4}, "/ernie_config.json: num_attention_heads 2 does not match the model's 4"),
    ({"num_attention_heads": 1}, "/ernie_config.json: num_attention_heads 2 does not match the model's 1"),
]


@pytest.mark.parametrize(("changes", "message"), MISFITS)
def test_sizes_that_differ_are_named(tmp_path, changes, message):
    model = ErnieMModel(ErnieMConfig.from_dict(CONFIG | changes))
    assert message in error_of(load_weights, model, official_checkpoint(tmp_path))


def test_masked_lm_head_loads_for_any_num_attention_heads(tmp_path):
    checkpoint = official_checkpoint(tmp_path, lm_head=True)
    model = PreTrainingModel(ErnieMConfig.from_dict(CONFIG | {"num_attention_heads": 4}), ["en"])
    load_weights(
        model,
        checkpoint,
        optional=(),
        ignore=("embeddings.", "encoder.", "pooler.", "language_embeddings."),
    )
    assert np.array_equal(get_weight_arrays(model)["lm_head.bias"], checkpoint.tensors["lm_head.bias"])


def test_reject_tokenizer_with_another_vocab_size(tmp_path):
    make_ours(tmp_path / "in")
    train_piece_model(tmp_path / "in/piece.model")
    assert f"{tmp_path / 'in'}: vocab_size 60 " in error_of(open_model, open_checkpoint(tmp_path / "in"))


def test_a_named_piece_model_is_read_by_the_rules_of_the_checkpoint(tmp_path):
    piece_model = train_piece_model(tmp_path / "named.model")
    size = Tokenizer(None, piece_model).vocab_size
    make_ours(tmp_path / "in", config={**TOY_CONFIG, "vocab_size": size + 1})
    change_config(tmp_path / "in", pipeline=stored(text_rules="none", added_tokens={"<e>": size}))
    (tmp_path / "in/vocab.txt").write_text("[CLS]\n")  # of another piece model
    tokenizer = open_model(open_checkpoint(tmp_path / "in"), piece_model_path=piece_model).tokenizer
    read = (tokenizer.piece_model_path, tokenizer.vocab_path, tokenizer.text_rules, tokenizer.added_tokens)
    assert read == (piece_model, None, "none", {"<e>": size})


def test_reject_another_num_labels(tmp_path):
    assert "num_labels is 2" in error_of(
        load_weights, classifier(2), official_checkpoint(tmp_path, head="classification")
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    """Also a single one among finite ones."""
    checkpoint = official_checkpoint(tmp_path)
    tensors = checkpoint.tensors

    def fetch(name):
        array = tensors[name].copy()
        if name == "pooler.dense.bias":
            array[0] = value
        return array

    damaged = replace(checkpoint, tensors=Weights(tensors.source, tensors.shapes, fetch))
    assert "pooler.dense.bias" in error_of(load_weights, ErnieMModel(ErnieMConfig.from_dict(CONFIG)), damaged)
