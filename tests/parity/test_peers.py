"""The contenders in scripts/benchmarks/ that are not a library's own code do the work that they should do."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM

from scripts.benchmarks.masked_lm import IGNORED, compute_gathered_loss


@pytest.mark.parametrize(
    ("kind", "config_class"), [(XLMRobertaForMaskedLM, XLMRobertaConfig), (BertForMaskedLM, BertConfig)]
)
def test_loss_on_gathered_positions_equals_full_loss(kind, config_class):
    """The same loss and gradient of the embedding matrix, within 1e-12."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = config_class(vocab_size=50, num_hidden_layers=1, max_position_embeddings=20, **shape)
    model = kind(config).double().eval()
    ids = torch.randint(4, 50, [3, 9])
    labels = torch.full([3, 9], IGNORED)
    labels[[0, 0, 1, 2], [1, 5, 3, 8]] = torch.tensor([7, 8, 9, 10])
    loss_of_all = model(ids, labels=labels).loss
    gathered = compute_gathered_loss(model, ids, labels)
    assert gathered.item() == pytest.approx(loss_of_all.item(), abs=1e-12)
    table = model.base_model.embeddings.word_embeddings.weight
    (expected,) = torch.autograd.grad(loss_of_all, table)
    (gradient,) = torch.autograd.grad(gathered, table)
    assert torch.allclose(gradient, expected, atol=1e-12, rtol=0) and gradient.abs().max() > 1e-3
