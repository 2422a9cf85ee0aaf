"""What reaches a prediction, by gradient: a 4-layer model in float64, all four objectives in one row.

Each masked token's loss is differentiated with respect to every token's input embedding. What the objective
hides must be exactly 0 at every depth, and what it shows must not be 0. The expectations here are written
from the definitions in docs/objectives.md, not from the attention masks; those of CAMLM from the pair alone,
with the words that its batch predicts.
"""

from typing import NamedTuple

import numpy as np
import paddle
import pytest

from ernie_m.model.config import FIRST_POSITION
from ernie_m.pretrain.masking import Pair, Text
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.pretrain.packing import MicroBatch
from tests.helpers.batches import packed_batch
from tests.pretrain.examples import (
    CLS,
    FIRST_ORDINARY_ID,
    MASK,
    SEP,
    filled,
    masked_counts,
    objectives,
    of_all_four,
    pretraining_model,
    rngs,
    target_objectives,
    texts,
)


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
    inputs = paddle.zeros([batch.inputs.tokens, 16])  # [N, H], added to the embeddings
    inputs.stop_gradient = False
    packed = batch.inputs
    on_device = packed_batch(packed.input_ids, packed.layout, position_ids=packed.position_ids)
    hidden = model.ernie_m.encode(on_device, input_bias=inputs).sequence  # [N, H]
    reached = []
    for token, target in zip(tokens.tolist(), target_ids.tolist()):
        loss = model.lm_head.loss(hidden[token : token + 1], paddle.to_tensor([target])).total
        (gradient,) = paddle.grad(loss, inputs, retain_graph=True)
        reached.append((gradient.numpy() != 0).any(-1))
    for parameter in model.parameters():
        parameter.stop_gradient = False
    return reached


class Token(NamedTuple):
    """A token of a pair, by its place in [CLS] S [SEP] [SEP] Y [SEP], and whether its input is [MASK]."""

    place: int
    is_mask: bool


class WholePair(NamedTuple):
    """A pair as it is before anything is masked, and the places that its batch predicts.

    Attributes:
        ids: int64 [t], with the special tokens.
        in_source: bool [t]; [CLS] and the first [SEP] belong to the source.
        masked: bool [t].
    """

    ids: np.ndarray
    in_source: np.ndarray
    masked: np.ndarray

    @classmethod
    def of(cls, pair: Pair, batch: MicroBatch) -> "WholePair":
        """A pair, and the batch that it makes alone."""
        source, target = pair.source.ids, pair.target.ids
        ids = np.concatenate([[CLS], source, [SEP, SEP], target, [SEP]])
        in_source = np.arange(len(ids)) < len(source) + 2
        places = batch.inputs.position_ids[batch.targets] - FIRST_POSITION
        masked = np.isin(np.arange(len(ids)), places)
        # Each masked place is predicted once, as its own word, and this word stands nowhere in the batch.
        assert len(places) == masked.sum() and (batch.target_ids == ids[places]).all()
        assert not np.isin(batch.inputs.input_ids, ids[places]).any()
        assert masked[in_source].any() and masked[~in_source].any()
        return cls(ids, in_source, masked)

    def token(self, batch: MicroBatch, number: int) -> Token:
        """The token of a batch with this number: [MASK], or the word of the pair at its place."""
        place = int(batch.inputs.position_ids[number]) - FIRST_POSITION
        is_mask = batch.inputs.input_ids[number] == MASK
        assert is_mask or batch.inputs.input_ids[number] == self.ids[place]
        return Token(place, bool(is_mask))

    def context(self, side: bool, camlm_context: str) -> list[Token]:
        """What is seen of a side: its unmasked words, and with `with_masks` a [MASK] at each other place."""
        places = np.flatnonzero(self.in_source == side).tolist()
        seen = [Token(place, bool(self.masked[place])) for place in places]
        return [token for token in seen if camlm_context == "with_masks" or not token.is_mask]


def camlm_pairs(**choices) -> list[tuple[WholePair, MicroBatch]]:
    """Pairs, each with its own batch. Their words are all different, so that a word is known by its id."""
    words = np.random.default_rng(1).permutation(np.arange(FIRST_ORDINARY_ID, MASK))
    made = []
    for source_length, target_length in ((13, 9), (5, 14), (2, 2)):
        source = Text(words[:source_length], 0)
        target = Text(words[source_length : source_length + target_length], 1)
        (rng,) = rngs(1, seed=source_length)
        batch = objectives(mask_rate=0.3, **choices)["camlm"].batch([Pair(source, target)], [rng])
        made.append((WholePair.of(Pair(source, target), batch), batch))
    return made


@pytest.mark.parametrize("camlm_context", ["unmasked", "with_masks"])
def test_a_mask_of_camlm_is_reached_by_the_context_of_the_other_side(model, camlm_context):
    """And by its own symbol: by no word of its side, by none that is masked, and by none twice."""
    for pair, batch in camlm_pairs(camlm_context=camlm_context):
        for target, reached in zip(batch.targets, reach(model, batch, batch.targets, batch.target_ids)):
            mask = pair.token(batch, target)
            assert mask.is_mask
            other_side = not pair.in_source[mask.place]
            expected = [mask, *pair.context(other_side, camlm_context)]
            tokens = [pair.token(batch, number) for number in np.flatnonzero(reached)]
            assert sorted(tokens) == sorted(expected)


@pytest.mark.parametrize("camlm_context", ["unmasked", "with_masks"])
def test_the_context_of_camlm_stays_on_its_side(model, camlm_context):
    """Each of its tokens is reached by the context of its own side, and by no others."""
    for pair, batch in camlm_pairs(camlm_context=camlm_context):
        context = np.setdiff1d(np.arange(batch.inputs.tokens), batch.targets)
        seen = []
        for number, reached in zip(context, reach(model, batch, context)):
            token = pair.token(batch, number)
            seen.append(token)
            tokens = [pair.token(batch, number) for number in np.flatnonzero(reached)]
            assert sorted(tokens) == sorted(pair.context(pair.in_source[token.place], camlm_context))
        both = pair.context(True, camlm_context) + pair.context(False, camlm_context)
        assert sorted(seen) == sorted(both)


@pytest.mark.parametrize("camlm_context", ["unmasked", "with_masks"])
def test_all_objectives_in_one_batch(model, camlm_context):
    """What reaches the prediction of each masked token, with pseudo-tokens in the slots of BTMLM."""
    batch = filled(model, of_all_four(objectives(mask_rate=0.3, camlm_context=camlm_context))).batch
    assert not np.isin(batch.stage1.slots, batch.targets).any()
    assert (batch.inputs.input_ids[batch.stage1.slots] != MASK).all()
    sequences = batch.inputs.layout.sequence_numbers()  # of each token
    reached_by_target = reach(model, batch, batch.targets, batch.target_ids)
    for token, objective, reached in zip(batch.targets, target_objectives(batch), reached_by_target):
        expected = sequences == sequences[token]  # all tokens of its own sequence
        if OF_THE_PAPER[objective] == "camlm":  # none of the other masks that this sequence predicts
            expected &= ~np.isin(np.arange(batch.inputs.tokens), batch.targets)
            expected[token] = True
        assert np.array_equal(reached, expected), (OF_THE_PAPER[objective], token)
    assert {*masked_counts(batch)} == {*OF_THE_PAPER}


def test_the_first_stage_of_btmlm(model):
    """A placeholder sees the sentence and itself; the sentence sees the sentence."""
    stage1 = objectives(pseudo_proportion=0.3)["btmlm"].batch(texts([13, 5, 8]), rngs(3)).stage1
    tokens = np.arange(stage1.inputs.tokens)
    assert np.array_equal(stage1.inputs.input_ids == MASK, np.isin(tokens, stage1.placeholders))
    sentences = np.repeat(np.arange(3), stage1.inputs.lengths)
    for token, reached in zip(tokens, reach(model, stage1, tokens)):
        expected = (sentences == sentences[token]) & (stage1.inputs.input_ids != MASK)
        expected[token] = True
        assert np.array_equal(reached, expected)
