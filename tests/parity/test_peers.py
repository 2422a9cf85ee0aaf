"""The contenders in benchmarks/ that are not a library's own code do the work that they should do."""

import pytest
import torch
from transformers import XLMRobertaForMaskedLM

from benchmarks.mlm_step import IGNORED, gathered_loss
from benchmarks.training_steps import hf_config


def test_the_loss_of_gathered_positions_is_that_of_all():
    """The same loss and gradient of the word table, within 1e-12."""
    torch.manual_seed(0)
    config = hf_config(1, 50, hidden_size=16, num_attention_heads=2, intermediate_size=32)
    model = XLMRobertaForMaskedLM(config).double().eval()
    ids = torch.randint(4, 50, [3, 9])
    ids[1, 6:] = 1  # pads
    labels = torch.full([3, 9], IGNORED)
    labels[[0, 0, 1, 2], [1, 5, 3, 8]] = torch.tensor([7, 8, 9, 10])
    mask = (ids != 1).long()
    loss_of_all = model(ids, attention_mask=mask, labels=labels).loss
    gathered = gathered_loss(model, ids, mask, labels)
    assert gathered.item() == pytest.approx(loss_of_all.item(), abs=1e-12)
    table = model.roberta.embeddings.word_embeddings.weight
    (expected,) = torch.autograd.grad(loss_of_all, table)
    (gradient,) = torch.autograd.grad(gathered, table)
    assert torch.allclose(gradient, expected, atol=1e-12, rtol=0) and gradient.abs().max() > 1e-3
