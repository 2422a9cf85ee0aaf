"""BERT's format with XLM-R's vocabulary is read: positions from 0, the first token type, the heads."""

import numpy as np
import pytest

from ernie_m.model.checkpoint.open import open_checkpoint
from tests.foreign import make_bert
from tests.launching import check_error, error_of

TYPES = "embeddings.token_type_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


def test_positions_and_types(tmp_path, caplog):
    state = make_bert(tmp_path, layer_norm_eps=None, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    # without a head it is refused only when embeddings are computed
    (tmp_path / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.task, checkpoint.labels, checkpoint.unknown) == (
        "bert",
        None,
        [],
        [],
    )
    table = checkpoint.tensors[POSITIONS]
    np.testing.assert_array_equal(table[2:], state[POSITIONS] + state[TYPES][0])
    assert not table[:2].any() and table.shape == checkpoint.tensors.shape(POSITIONS)
    config = checkpoint.config
    sizes = (config.pad_token_id, config.max_position_embeddings, config.max_input_length)
    assert (*sizes, config.layer_norm_eps) == (1, 42, 40, 1e-12)  # BERT's own, where the file does not say
    assert caplog.messages == []  # config.json does not contradict the weights


def head(*names: str, rows: int = 3) -> dict[str, np.ndarray]:
    """Linear layers of 16 inputs with these names."""
    weights = {f"{name}.weight": np.ones((rows, 16), np.float32) for name in names}
    return weights | {f"{name}.bias": np.arange(rows, dtype=np.float32) for name in names}


def test_a_bert_with_its_own_vocabulary_is_refused(tmp_path):
    make_bert(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").unlink()
    assert "model.safetensors: unsupported BERT" in error_of(open_checkpoint, tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    assert error_of(open_checkpoint, tmp_path).startswith(f"{tmp_path}/vocab.txt: ")


@pytest.mark.parametrize(
    "key, value",
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "relu"),
    ],
)
def test_another_architecture_is_refused(tmp_path, key, value):
    make_bert(tmp_path, **{key: value})
    check_error(error_of(open_checkpoint, tmp_path), "config.json", key)


@pytest.mark.parametrize("problem_type, rows", [("regression", 3), ("regression", 2), ("ranking", 1)])
def test_outputs_that_are_not_understood(tmp_path, problem_type, rows):
    """Three numbers of a regression would pass for three labels."""
    settings = {"architectures": ["BertForSequenceClassification"], "problem_type": problem_type}
    make_bert(
        tmp_path, head("classifier", "pooler.dense", rows=rows) | head("pooler.dense", rows=16), **settings
    )
    check_error(error_of(open_checkpoint, tmp_path), "config.json: problem_type", "--drop_unknown")
    assert open_checkpoint(tmp_path, drop_unknown=True).task == "classification"


def test_warns_of_truncation_at_the_start(tmp_path, caplog):
    settings = {"architectures": ["BertForSequenceClassification"], "problem_type": "regression"}
    make_bert(tmp_path, head("classifier", rows=1) | head("pooler.dense", rows=16), **settings)
    (tmp_path / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    open_checkpoint(tmp_path)
    assert "tokenizer_config.json: truncation_side left" in caplog.text
    caplog.clear()
    make_bert(tmp_path)  # without a head, the vectors are refused when they are asked for
    assert "truncation_side left" in open_checkpoint(tmp_path).pipeline_errors[0] and not caplog.messages


def test_reject_tags_without_a_scheme(tmp_path):
    labels = {"0": "O", "1": "B-PER", **{str(number): f"X{number}" for number in range(2, 11)}}
    settings = {
        "architectures": ["BertForTokenClassification"],
        "id2label": dict(reversed(labels.items())),
        "problem_type": "single_label_classification",
    }
    make_bert(tmp_path, head("classifier", rows=11), **settings)
    assert "config.json: id2label" in error_of(open_checkpoint, tmp_path)
    checkpoint = open_checkpoint(tmp_path, drop_unknown=True)
    assert (checkpoint.pipeline_config.chunk_scheme, checkpoint.labels) == ("NONE", [*labels.values()])
