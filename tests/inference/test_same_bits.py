"""The same text has the same bits, alone or among others, in any order, in float32."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import ernie_m
from ernie_m.inference.paddle_model import DygraphEngine
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.encoder import ErnieMModel
from ernie_m.model.heads import SequenceClassifier, TokenClassifier
from ernie_m.model.tasks import CLASSIFICATION, MEAN_OF_TOKENS, POOLED, TOKEN_CLASSIFICATION
from ernie_m.reader.batching import batches_by_length, pad
from ernie_m.vectors.encode import PaddleEncoder
from tests.toys import sentences

TEXTS = 300
LONGEST = 510  # tokens
PAD = 1


def config_of(width: int) -> ErnieMConfig:
    """A small model with the heads of the models that have this width: 32 numbers each, or 64."""
    return ErnieMConfig(
        vocab_size=2000,
        hidden_size=width,
        num_hidden_layers=2 if width < 384 else 1,
        num_attention_heads=width // (32 if width < 768 else 64),
        intermediate_size=4 * width,
        max_position_embeddings=514,
        initializer_range=0.1,
    )


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray]:
    """The ids of most are as many as those of sentences; a few have any length."""
    random = np.random.default_rng(0)
    lengths = np.concatenate([[1, 2, 3, LONGEST], random.integers(1, LONGEST, 6)])
    lengths = np.concatenate([lengths, random.integers(1, 25, TEXTS - len(lengths))])
    return [random.integers(4, 2000, length) for length in random.permutation(lengths)]


def batchings(lengths: list[int]) -> Iterator[list[list[int]]]:
    """Seven ways to divide texts into batches, each in two orders: the numbers of the texts of each batch."""
    for order in (np.arange(len(lengths)), np.random.default_rng(1).permutation(len(lengths))):
        for size in (2, 17, 64):
            yield [order[start : start + size].tolist() for start in range(0, len(lengths), size)]
        for tokens in (600, 1024, 2048, 4096):
            groups = batches_by_length([lengths[number] for number in order], tokens)
            yield [order[group].tolist() for group in groups]


def texts_with_other_bits(compute: Callable[[np.ndarray], np.ndarray], texts: list[np.ndarray]) -> set[int]:
    """The texts for which a batching gives other bits than the text alone.

    Args:
        compute: ids [B, T] -> a result for each text, [B, ...].
    """
    alone = [compute(ids[None])[0] for ids in texts]
    others = set()
    for groups in batchings([len(ids) for ids in texts]):
        for numbers in groups:
            results = compute(pad([texts[number] for number in numbers], PAD))
            for number, result in zip(numbers, results):
                if not np.array_equal(result[: len(alone[number])], alone[number]):
                    others.add(number)
    return others


@pytest.mark.parametrize("width", [128, *(pytest.param(n, marks=pytest.mark.slow) for n in (384, 768, 1024))])
def test_vectors(texts, width):
    config = config_of(width)
    encoder = PaddleEncoder(ErnieMModel(config), "mean", config.num_hidden_layers)
    assert texts_with_other_bits(encoder.batch, texts) == set()


@pytest.mark.parametrize(
    ("kind", "task"), [("classify", "classification"), ("tag", "token-classification"), ("full", "fill-mask")]
)
def test_answers_of_a_model(models, monkeypatch, kind, task):
    """Alone, among others, and in another order with three workers, as `label` and `predict` give them."""
    model = ernie_m.load(models / kind)
    requests = [{"text": f"{line} [MASK]"} for line in sentences(40, seed=3)]
    alone = [model._answer(task, [request])[0] for request in requests]
    assert model._answer(task, requests) == alone
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert model._answer(task, requests[::-1]) == alone[::-1]


HEADS = {
    "class": (SequenceClassifier, CLASSIFICATION, {"pooling": POOLED}),
    "class of the mean": (SequenceClassifier, CLASSIFICATION, {"pooling": MEAN_OF_TOKENS}),
    "tags": (TokenClassifier, TOKEN_CLASSIFICATION, {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_outputs_of_heads(texts, name):
    head, task, options = HEADS[name]
    config = config_of(128)
    engine = DygraphEngine(head(config, 3, **options), task, config.num_hidden_layers)
    assert texts_with_other_bits(lambda ids: engine(ids)["logits"], texts[:60]) == set()
