"""The same text has the same bits, alone or among others, in any order."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import paddle
import pytest
from paddle import nn

import ernie_m
from ernie_m.inference.linear_head_engine import LinearHeadEngine
from ernie_m.inference.openvino_engine import OpenVinoEngine, make_encoder_engine
from ernie_m.inference.paddle_eager_engine import PaddleEagerEngine
from ernie_m.inference.tasks.encode import GraphEncoder
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.heads import SequenceClassifier, TokenClassifier
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import CLASSIFICATION, POOLED, TOKEN_CLASSIFICATION
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import batch_by_length, pad
from ernie_m.utils.paddle_settings import read_cpu
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import SentenceEncoder
from tests.launching import check_success
from tests.toys import sentences

TEXTS = 60
LONGEST = 510  # tokens
PAD = 1


def small_config(width: int) -> ErnieMConfig:
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
    lengths = np.concatenate([[1, 2, 3, LONGEST], random.integers(1, LONGEST, 3)])
    lengths = np.concatenate([lengths, random.integers(1, 25, TEXTS - len(lengths))])
    return [random.integers(4, 2000, length) for length in random.permutation(lengths)]


def batchings(lengths: list[int]) -> Iterator[list[int]]:
    """The numbers of the texts of each batch; texts are divided in four ways, each in two orders."""
    for order in (np.arange(len(lengths)), np.random.default_rng(1).permutation(len(lengths))):
        for size in (2, 17):
            yield from (order[start : start + size].tolist() for start in range(0, len(lengths), size))
        for tokens in (600, 2048):
            groups = batch_by_length([lengths[number] for number in order], tokens)
            yield from (order[group].tolist() for group in groups)


def texts_with_other_bits(compute: Callable[[np.ndarray], np.ndarray], texts: list[np.ndarray]) -> set[int]:
    """The texts for which a batching gives other bits than the text alone.

    Args:
        compute: ids [B, T] -> a result for each text, [B, ...].
    """
    alone = [compute(ids[None])[0] for ids in texts]
    return {
        number
        for numbers in batchings([len(ids) for ids in texts])
        for number, result in zip(numbers, compute(pad([texts[number] for number in numbers], PAD)))
        if not np.array_equal(result[: len(alone[number])], alone[number])
    }


def openvino_encoder(model: nn.Layer, amp: str) -> OpenVinoEngine:
    """The encoder of a Paddle model in OpenVINO."""
    if amp == "bf16" and read_cpu().flags.isdisjoint({"avx512_bf16", "amx_bf16"}):
        pytest.skip("bfloat16 needs a CPU that has it")
    weights = Weights.from_arrays(get_weight_arrays(model))
    config = getattr(model, "ernie_m", model).config
    return make_encoder_engine(weights, config, config.num_hidden_layers, amp)


def make_encode_function(width: int, engine: str, amp: str) -> SentenceEncoder:
    """An encoder with random weights."""
    config = small_config(width)
    paddle.seed(0)
    model = ErnieMModel(config).eval()
    if engine == "paddle-eager":
        return PaddleEncoder(model, "mean_without_special", config.num_hidden_layers)
    return GraphEncoder(
        openvino_encoder(model, amp), config, "mean_without_special", config.num_hidden_layers
    )


# In bfloat16 the bits of Paddle's path depend on the batch.
ENGINES = [("openvino", "none"), ("openvino", "bf16"), ("paddle-eager", "none")]


@pytest.mark.parametrize(("engine", "amp"), ENGINES)
@pytest.mark.parametrize("width", [128, *(pytest.param(n, marks=pytest.mark.slow) for n in (384, 768, 1024))])
def test_vectors_have_the_same_bits_in_any_batch(texts, width, engine, amp):
    if width > 384:
        texts = [ids[:160] for ids in texts]
    assert texts_with_other_bits(make_encode_function(width, engine, amp).encode_batch, texts) == set()


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_one_thread_and_two(texts, monkeypatch, amp):
    embeddings = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        encoder = make_encode_function(128, "openvino", amp)
        encoder.get_workers = lambda count=int(threads): Workers(count, most_tokens=512)
        embeddings.append(encoder.encode(texts))
    assert np.array_equal(*embeddings)


@pytest.mark.slow
@pytest.mark.parametrize(("instructions", "amp"), [("AVX2", "none"), ("AVX512_CORE_BF16", "bf16")])
def test_vectors_have_the_same_bits_with_fewer_instructions(monkeypatch, instructions, amp):
    """oneDNN reads the variable once in a process."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    test = f"{__file__}::{test_vectors_have_the_same_bits_in_any_batch.__name__}[128-openvino-{amp}]"
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    check_success(subprocess.run(line, capture_output=True, text=True))


@pytest.mark.parametrize(
    ("kind", "task"), [("classify", "classification"), ("tag", "token-classification"), ("full", "fill-mask")]
)
def test_predictions_are_bitwise_equal_in_any_batch(models, monkeypatch, kind, task):
    """Alone, among others, and in another order with three workers, as `predict` and the server give them."""
    model = ernie_m.load(models / kind)
    requests = [{"text": f"{line} [MASK]"} for line in sentences(40, seed=3)]
    alone = [model._predict(task, [request])[0] for request in requests]
    assert model._predict(task, requests) == alone
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert model._predict(task, requests[::-1]) == alone[::-1]


HEADS = {
    "class": (SequenceClassifier, CLASSIFICATION, {"pooling": POOLED}),
    "class of the mean": (SequenceClassifier, CLASSIFICATION, {"pooling": MEAN_OF_TOKENS}),
    "tags": (TokenClassifier, TOKEN_CLASSIFICATION, {}),
}


@pytest.mark.parametrize(("engine", "amp"), ENGINES)
@pytest.mark.parametrize(("head", "task", "options"), HEADS.values(), ids=HEADS)
def test_head_outputs_are_bitwise_equal_in_any_batch(texts, head, task, options, engine, amp):
    config = small_config(128)
    model = head(config, 3, **options).eval()
    if engine == "paddle-eager":
        run = PaddleEagerEngine(model, task, config.num_hidden_layers)
    else:
        run = LinearHeadEngine(
            openvino_encoder(model, amp),
            Weights.from_arrays(get_weight_arrays(model)),
            config,
            task,
            options.get("pooling"),
        )
    assert texts_with_other_bits(lambda ids: run(ids)["logits"], texts[:30]) == set()
