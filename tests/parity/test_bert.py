"""BERT with XLM-R's vocabulary gives the same hidden states and outputs here as in transformers."""

import numpy as np
import paddle
import pytest
import torch
import transformers

from ernie_m.inference.load import find_head_task
from ernie_m.inference.paddle_engine import build_model
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.helpers.batches import padded_batch

HEADS = {
    "BertModel": None,
    "BertForMaskedLM": None,
    "BertForSequenceClassification": "classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
}


@pytest.mark.parametrize("class_name, task", HEADS.items())
def test_the_same_numbers(tmp_path, class_name, task):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=2 if task == "question-answering" else 3,
        initializer_range=0.3,
    )
    peer = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        # New biases are all 0, and scales of norms all 1: if they were mixed up, no number would change.
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.task, checkpoint.unknown) == ("bert", task, [])

    rng = np.random.default_rng(1)
    ids = rng.integers(4, 60, size=(3, 9))
    ids[:, 0] = 0  # [CLS]
    ids[:, -1] = 2  # [SEP]
    ids[1, 6:] = 1  # pads
    is_token = ids != 1
    mask = torch.tensor(is_token.astype("int64"))
    with torch.no_grad():
        expected = peer(torch.tensor(ids), mask, output_hidden_states=True)
    model, _ = build_model(checkpoint, checkpoint.config, find_head_task(checkpoint, None))
    with paddle.no_grad():
        states = getattr(model, "ernie_m", model).encode(padded_batch(ids), output_hidden_states=True)
    for layer, expected_layer in zip(states.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(layer.numpy(), expected_layer.numpy()[is_token], atol=1e-5)
    if class_name == "BertForMaskedLM":
        with paddle.no_grad():
            logits = model.lm_head(states.sequence).numpy()  # [N, V]
        np.testing.assert_allclose(logits, expected.logits.numpy()[is_token], atol=1e-4)
    elif task is not None:
        with paddle.no_grad():
            outputs = model(padded_batch(ids))
        outputs = outputs if isinstance(outputs, tuple) else [outputs]
        names = ["start_logits", "end_logits"] if task == "question-answering" else ["logits"]
        for output, name in zip(outputs, names, strict=True):
            rows = slice(None) if task == "classification" else is_token
            np.testing.assert_allclose(output.numpy()[rows], expected[name].numpy()[rows], atol=1e-5)
