"""What reaches a prediction, by gradient: a 4-layer model in float64, all four objectives in one row.

Each masked token's loss is differentiated with respect to every token's input embedding. What the objective
hides must be exactly 0 at every depth, and what it shows must not be 0. The expectations here are written
from the definitions in docs/objectives.md, not from the attention masks.
"""

import numpy as np
import paddle
import pytest

from pretrain.objectives import OF_THE_PAPER
from tests.helpers.batches import packed_batch
from tests.pretrain.examples import (
    VOCABULARY,
    filled,
    masked_counts,
    objectives,
    of_all_four,
    pairs,
    pretraining_model,
    rngs,
    texts,
)

MASK = VOCABULARY.mask_id
SEP = VOCABULARY.sep_id


@pytest.fixture(scope="module")
def model():
    """A model of four layers in float64, without dropout."""
    paddle.set_default_dtype("float64")
    yield pretraining_model(seed=1, num_hidden_layers=4)
    paddle.set_default_dtype("float32")


def reach(model, batch, tokens, target_ids=None) -> list[np.ndarray]:
    """For each of these tokens: whether each token's input reaches its prediction, bool [N].

    Args:
        tokens: indices into the N tokens of a packed batch.
        target_ids: of each token, the id that is to be predicted there; None: any id will do.
    """
    if target_ids is None:
        target_ids = np.full(len(tokens), 7)
    # Nothing else has a gradient: for a custom `PyLayer` (model/cpu/) Paddle refuses `paddle.grad` with
    # respect to only some of its inputs.
    for parameter in model.parameters():
        parameter.stop_gradient = True
    inputs = paddle.zeros([batch.tokens, 16])  # [N, H], added to the embeddings
    inputs.stop_gradient = False
    on_device = packed_batch(batch.input_ids, batch.layout, position_ids=batch.position_ids)
    hidden = model.ernie_m.encode(on_device, input_bias=inputs).sequence  # [N, H]
    reached = []
    for token, target in zip(tokens.tolist(), target_ids.tolist()):
        loss = model.lm_head.loss(hidden[token : token + 1], paddle.to_tensor([target])).total
        (gradient,) = paddle.grad(loss, inputs, retain_graph=True)
        reached.append((gradient.numpy() != 0).any(-1))
    for parameter in model.parameters():
        parameter.stop_gradient = False
    return reached


def pair_of(batch, token: int) -> np.ndarray:
    """The tokens of the CAMLM pair that a token belongs to, in the order of the pair.

    A pair is two sequences. The first one begins with [CLS], the second one with the second [SEP].
    """
    ends = batch.lengths.cumsum()
    starts = ends - batch.lengths
    number = int(np.searchsorted(ends, token, side="right"))  # of the token's sequence
    if batch.input_ids[starts[number]] != VOCABULARY.cls_id:
        number -= 1
    pair = np.arange(starts[number], ends[number + 1])
    return pair[np.argsort(batch.position_ids[pair])]


def is_source(batch, pair: np.ndarray) -> np.ndarray:
    """Whether each token of a CAMLM pair is of the source: up to the first [SEP]."""
    first_separator = np.flatnonzero(batch.input_ids[pair] == SEP)[0]
    return np.arange(len(pair)) <= first_separator


def test_all_objectives_in_one_batch(model):
    """What reaches the prediction of each masked token, with pseudo-tokens in the slots of BTMLM."""
    batch = filled(model, of_all_four(objectives(mask_rate=0.3))).batch
    assert not np.isin(batch.stage1.slots, batch.targets).any()
    assert (batch.input_ids[batch.stage1.slots] != MASK).all()
    sides = set()  # of the masked tokens of CAMLM: whether they are of the source
    sequences = np.repeat(np.arange(len(batch.lengths)), batch.lengths)  # the sequence of each token
    reached_by_target = reach(model, batch, batch.targets, batch.target_ids)
    for token, objective, reached in zip(batch.targets, batch.target_objectives, reached_by_target):
        expected = np.zeros(batch.tokens, bool)
        if OF_THE_PAPER[objective] == "camlm":
            # The other side's unmasked tokens and the mask's own symbol; no token of its own side, no other
            # mask, no other sequence.
            pair = pair_of(batch, token)
            in_source = is_source(batch, pair)
            token_in_source = bool(in_source[pair == token])
            is_unmasked = ~np.isin(pair, batch.targets)
            expected[pair[(in_source != token_in_source) & is_unmasked]] = True
            expected[token] = True
            assert batch.input_ids[token] == MASK
            sides.add(token_in_source)
        else:  # all tokens of its own sequence
            expected[sequences == sequences[token]] = True
        assert np.array_equal(reached, expected), (OF_THE_PAPER[objective], token)
    assert sides == {True, False}
    assert {*masked_counts(batch)} == {*OF_THE_PAPER}


def test_unmasked_tokens_stay_on_their_side_in_camlm(model):
    """They are reached by the unmasked tokens of their own side, and by no others."""
    batch = objectives(mask_rate=0.3)["camlm"].batch(pairs([(13, 9), (5, 14)]), rngs(2))
    unmasked = np.setdiff1d(np.arange(batch.tokens), batch.targets)
    for token, reached in zip(unmasked, reach(model, batch, unmasked)):
        pair = pair_of(batch, token)
        in_source = is_source(batch, pair)
        on_its_side = in_source == in_source[pair == token]
        expected = pair[on_its_side & ~np.isin(pair, batch.targets)]
        assert np.flatnonzero(reached).tolist() == sorted(expected.tolist())


def test_the_first_stage_of_btmlm(model):
    """A placeholder sees the sentence and itself; the sentence sees the sentence."""
    stage1 = objectives(pseudo_proportion=0.3)["btmlm"].batch(texts([13, 5, 8]), rngs(3)).stage1
    tokens = np.arange(stage1.tokens)
    assert np.array_equal(stage1.input_ids == MASK, np.isin(tokens, stage1.placeholders))
    sentences = np.repeat(np.arange(3), stage1.lengths)
    for token, reached in zip(tokens, reach(model, stage1, tokens)):
        expected = (sentences == sentences[token]) & (stage1.input_ids != MASK)
        expected[token] = True
        assert np.array_equal(reached, expected)
