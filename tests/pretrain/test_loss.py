"""The loss and its gradients against the definitions, and how a step divides.

The oracle is the plain, padded model of tests/helpers with the dense matrices of the definitions: whole
pairs for CAMLM.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.positions import PAD_POSITION
from ernie_m.pretrain.loss import compute_batch_loss, compute_word_loss, to_device
from ernie_m.pretrain.masking import Text
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.pretrain.packing import MicroBatch, Stage1
from ernie_m.pretrain.pretraining import count_flops
from tests.helpers.dtypes import default_dtype
from tests.helpers.gradients import compute_gradients, take_gradients
from tests.helpers.plain_model import PlainPretraining
from tests.pretrain.examples import (
    CONFIG,
    LANGUAGES,
    MASK,
    PAD,
    SEP,
    VOCABULARY,
    attention_mask,
    compact,
    filled,
    first_pass,
    make_batch_with_all,
    masked_counts,
    objectives,
    pairs,
    pretraining_model,
    rngs,
    target_objectives,
    texts,
)

CONFIG = replace(CONFIG, num_hidden_layers=3)


class Dense(NamedTuple):
    """A batch by the definitions: whole pairs, padded, each with its matrix.

    Attributes:
        input_ids, position_ids, language_ids: int64 [B, T].
        visible: who attends to whom, bool [B, 1, T, T].
        cells: where each token of the packed batch stands, flat indices into B*T, int64 [N].
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    visible: np.ndarray
    cells: np.ndarray


def dense(batch: MicroBatch | Stage1) -> Dense:
    """The definition of a packed batch: the two sequences of a CAMLM pair become one again."""
    tokens_and_matrices = _matrices(batch)
    longest = max(len(tokens) for tokens, _ in tokens_and_matrices)
    shape = [len(tokens_and_matrices), longest]
    result = Dense(
        input_ids=np.full(shape, PAD),
        position_ids=np.full(shape, PAD_POSITION),
        language_ids=np.full(shape, NO_LANGUAGE),
        visible=np.zeros([len(tokens_and_matrices), 1, longest, longest], bool),
        cells=np.zeros(batch.inputs.tokens, np.int64),
    )
    for row, (tokens, visible) in enumerate(tokens_and_matrices):
        length = len(tokens)
        result.input_ids[row, :length] = batch.inputs.input_ids[tokens]
        result.position_ids[row, :length] = batch.inputs.position_ids[tokens]
        result.language_ids[row, :length] = batch.inputs.language_ids[tokens]
        result.visible[row, 0, :length, :length] = visible
        result.cells[tokens] = row * longest + np.arange(length)
    return result


def _matrices(batch: MicroBatch | Stage1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text or pair, its tokens in order, int64 [t], and who attends to whom, bool [t, t]."""
    matrices = []
    starts = batch.inputs.layout.starts.tolist()
    lengths = batch.inputs.lengths.tolist()
    number = 0  # of a sequence
    while number < len(lengths):
        start = starts[number]
        length = lengths[number]
        tokens = np.arange(start, start + length)
        sequences = 1
        if isinstance(batch, Stage1):
            is_mask = batch.inputs.input_ids[tokens] == MASK
            matrices.append((tokens, compact((~is_mask).sum(), is_mask.sum())))
        elif batch.inputs.context_lengths[number] == length:
            # MMLM, TLM and BTMLM's second stage have no placeholders.
            matrices.append((tokens, np.ones([length, length], bool)))
        else:  # CAMLM: this sequence and the next one are the two halves of a pair
            sequences = 2
            tokens = np.arange(start, start + length + lengths[number + 1])
            is_predicted = np.isin(tokens, batch.targets)
            # Of two rows with one position, the [MASK] symbol of the context comes first.
            order = np.lexsort([is_predicted, batch.inputs.position_ids[tokens]])
            tokens = tokens[order]
            first_separator = np.flatnonzero(batch.inputs.input_ids[tokens] == SEP)[0]
            side = (np.arange(len(tokens)) > first_separator).astype(int)
            matrices.append((tokens, attention_mask(side, is_predicted[order])))
        number += sequences
    return matrices


@pytest.fixture(scope="module")
def model():
    """A model of three layers in float64."""
    with default_dtype("float64"):
        yield pretraining_model(seed=3, num_hidden_layers=CONFIG.num_hidden_layers)


class Oracle(PlainPretraining):
    """The model of pre-training in plain Paddle, with the same parameter names."""

    def __init__(self, model):
        super().__init__(CONFIG)
        self.language_embeddings = paddle.nn.Embedding(len(LANGUAGES), CONFIG.hidden_size)
        self.set_state_dict(model.state_dict())

    def hidden(self, batch):
        """The states of a packed batch's tokens, [N, H], from padded whole pairs with dense matrices."""
        padded = dense(batch)
        languages = paddle.to_tensor(padded.language_ids)  # [B, T], negative for a token without one
        has_language = (languages >= 0).astype("float64").unsqueeze(-1)  # [B, T, 1]
        bias = self.language_embeddings(languages.clip(min=0)) * has_language  # [B, T, H]
        states = self.ernie_m(
            paddle.to_tensor(padded.input_ids),
            paddle.to_tensor(padded.position_ids),
            paddle.to_tensor(padded.visible),
            bias,
        ).sequence  # [B, T, H]
        return paddle.gather(states.reshape([-1, CONFIG.hidden_size]), paddle.to_tensor(padded.cells))


def make_batch(model, objective: str, **choices) -> MicroBatch:
    """A batch of one objective or of "all", with its pseudo-tokens."""
    if objective == "all":
        batch = make_batch_with_all(objectives(**choices))
        assert {*masked_counts(batch)} == {*OF_THE_PAPER}
        lengths = batch.inputs.lengths
        assert lengths.min() < 10 and lengths.max() == 64  # short ones, and the longest
    else:
        has_texts = objective in ("mmlm", "btmlm")
        examples = texts([20, 9, 15], language=2) if has_texts else pairs([(20, 9), (7, 15), (8, 8)])
        batch = objectives(**choices)[objective].make_batch(examples, rngs(3))
        assert list(masked_counts(batch)) == [objective]
    return batch if batch.stage1 is None else filled(model, batch).batch


def compute_word_losses(model, batch):
    """The loss of each masked word of a batch."""
    return compute_word_loss(model, batch, model.encode(batch.inputs, batch.targets))


@pytest.mark.parametrize(
    "objective, choices",
    [
        *((objective, {}) for objective in [*OF_THE_PAPER, "all"]),
        ("tlm", {"language_embedding": "all"}),
        ("camlm", {"camlm_context": "with_masks"}),
        ("all", {"camlm_context": "with_masks"}),
    ],
)
def test_loss_follows_the_definitions(model, objective, choices):
    """Each objective alone and all four in one pass: values, hits and gradients, weighted as in a step."""
    batch = make_batch(model, objective, **choices)
    weights = dict(zip(OF_THE_PAPER, [0.1, 0.2, 0.3, 0.4]))
    (on_device,) = to_device([batch], weights)
    summed, _ = compute_batch_loss(model, on_device)
    gradients = compute_gradients(model, summed)
    result = compute_word_losses(model, on_device)

    oracle = Oracle(model)
    logits = oracle.logits(paddle.gather(oracle.hidden(batch), paddle.to_tensor(batch.targets)))
    losses = F.cross_entropy(logits, paddle.to_tensor(batch.target_ids), reduction="none").squeeze(-1)
    weights_of_targets = np.array(list(weights.values()))[target_objectives(batch)]  # [M]
    total = (losses * paddle.to_tensor(weights_of_targets)).sum()
    expected = compute_gradients(oracle, total)

    assert np.abs((result.losses - losses).numpy()).max() < 1e-9
    assert abs(float(result.total) - float(total)) < 1e-9
    assert float(summed) == float(result.total)
    assert np.array_equal(result.correct.numpy(), logits.argmax(-1).numpy() == batch.target_ids)
    assert gradients.keys() == expected.keys()
    # Embeddings (words, positions, layer norm), 16 tensors of each layer, the head, the language embeddings.
    assert len(expected) == 4 + 16 * CONFIG.num_hidden_layers + 5 + 1
    for name, gradient in gradients.items():
        assert np.abs(gradient - expected[name]).max() < 1e-9, name
        if "k_proj.bias" not in name:  # a key bias adds the same to every score of a row: its gradient is 0
            assert np.abs(gradient).max() > 1e-6, name


@pytest.mark.parametrize("objective", [*OF_THE_PAPER, "all"])
def test_operations_follow_the_definitions(model, objective):
    """Weights of layers by tokens, of the head by targets, and attention by the ones of the matrices."""
    batch = make_batch(model, objective)
    (on_device,) = to_device([batch])
    size = CONFIG.hidden_size
    layer = size * (4 * size + 2 * CONFIG.intermediate_size)
    attention = 2 * size * dense(batch).visible.sum()  # scores, and means of values
    products = CONFIG.num_hidden_layers * (layer * batch.inputs.tokens + attention)
    products += len(batch.targets) * size * (size + VOCABULARY.size)
    assert count_flops(model, on_device) == 6 * products


def test_batch_without_masked_tokens_has_zero_loss(model):
    """All of its tokens are [UNK], which is never predicted."""
    batch = objectives()["mmlm"].make_batch([Text(np.full(5, VOCABULARY.unk_id), 0)], rngs(1))
    assert (batch.targets.tolist(), batch.rows) == ([], {})
    (on_device,) = to_device([batch], {"mmlm": 1.0})
    summed, _ = compute_batch_loss(model, on_device)
    summed.backward()
    assert float(summed) == 0 and compute_word_losses(model, on_device).losses.shape == [0]
    assert not any(gradient.any() for gradient in take_gradients(model).values())


def test_btmlm_first_stage_follows_the_definition(model):
    """The hidden states of the placeholders are those of the oracle."""
    batch = objectives(pseudo_proportion=0.3)["btmlm"].make_batch(texts([13, 5, 8, 30]), rngs(4))
    states = Oracle(model).hidden(batch.stage1)
    expected = paddle.gather(states, paddle.to_tensor(batch.stage1.placeholders))
    assert np.abs((first_pass(model, batch) - expected).numpy()).max() < 1e-9
