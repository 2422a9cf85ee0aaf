"""Fixtures of the training on pairs of sentences."""

from tests.finetune.conftest import corpus, tokenizer, train_on_pairs
