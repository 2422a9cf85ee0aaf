"""What reaches a prediction, by gradient: a 4-layer model in float64, batches with padding.

Each masked token's loss is differentiated with respect to every token's input embedding. What the objective
hides must be exactly 0 at every depth, and what it shows must not be 0. The expectations here are written
from the definitions in docs/objectives.md, not from the attention masks.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import paddle
import pytest

from model.attention import CompactMask, flashmask_row_indices
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain import attention_mask
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.loss import masked_lm_loss, model_inputs
from tests.pretrain.objective_examples import (
    LANGUAGES,
    MASK,
    SEP,
    VOCABULARY,
    objectives,
    pairs,
    rngs,
    sides,
    texts,
)

LENGTHS = [(13, 9), (5, 14), (8, 8)]  # uneven, so that every part of a batch is padded somewhere


@pytest.fixture(scope="module")
def model():
    paddle.set_default_dtype("float64")
    paddle.seed(1)
    config = ErnieMConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=70,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = PreTrainingModel(config, LANGUAGES)
    with paddle.no_grad():
        model.language_embeddings.weight.set_value(paddle.randn([3, 16]))
    yield model
    paddle.set_default_dtype("float32")


def hidden_and_inputs(model, batch):
    """The last layer [B, T, H], and the input embeddings' place in the graph: a zero added to each of
    them."""
    inputs = model_inputs(batch)
    language_ids = inputs.pop("language_ids")
    zero = paddle.zeros([*batch.input_ids.shape, 16])
    zero.stop_gradient = False
    if language_ids is not None:
        rows = model.language_embeddings(language_ids.clip(min=0))
        bias = zero + rows * (language_ids >= 0).astype(rows.dtype).unsqueeze(-1)
    else:
        bias = zero
    sequence = model.ernie_m(
        inputs["input_ids"], inputs["position_ids"], inputs["attention_mask"], bias, pool=False
    )
    return sequence.sequence, zero


def reach(model, batch, positions, target_ids=None) -> list[np.ndarray]:
    """For each flat position: whether each token's input reaches its prediction, bool [B, T]."""
    if target_ids is None:  # nothing to predict: any function of the prediction will do
        target_ids = np.full(len(positions), 7)
    reached = []
    with frozen(model):
        hidden, inputs = hidden_and_inputs(model, batch)
        flat = hidden.reshape([-1, hidden.shape[-1]])
        for position, target in zip(positions.tolist(), target_ids.tolist()):
            loss = model.lm_head.loss(flat[position : position + 1], paddle.to_tensor([target]))
            (gradient,) = paddle.grad(loss.sum(), inputs, retain_graph=True)
            reached.append((gradient.numpy() != 0).any(-1))
    return reached


@contextmanager
def frozen(model):
    """`paddle.grad` with respect to the inputs alone wants no gradient for anything else
    (model/layers.py)."""
    parameters = model.parameters()
    for parameter in parameters:
        parameter.stop_gradient = True
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.stop_gradient = False


def target_mask(batch) -> np.ndarray:
    masked = np.zeros(batch.input_ids.shape, dtype=bool)
    masked.flat[batch.target_positions] = True
    return masked


def only_row(batch, row: int, columns: np.ndarray) -> np.ndarray:
    expected = np.zeros(batch.input_ids.shape, dtype=bool)
    expected[row] = columns
    return expected


def test_camlm_dense(model):
    batch = objectives(camlm_form="dense", mask_rate=0.3).batch("camlm", pairs(LENGTHS), rngs(3))
    masked, width = target_mask(batch), batch.input_ids.shape[1]
    assert not batch.valid.all() and (batch.input_ids[masked] == MASK).all()
    served = set()
    for position, reached in zip(
        batch.target_positions, reach(model, batch, batch.target_positions, batch.target_ids)
    ):
        row, column = divmod(int(position), width)
        side = sides(batch.input_ids[row])
        served.add(int(side[column]))
        # The other side's unmasked tokens and the mask's own symbol; no token of its own side, no other mask,
        # no pad.
        shown = (side == 1 - side[column]) & ~masked[row]
        shown[column] = True
        assert np.array_equal(reached, only_row(batch, row, shown))
    assert served == {0, 1}


def test_camlm_compact(model):
    maker = objectives(mask_rate=0.3)
    batch = maker.batch("camlm", pairs(LENGTHS), rngs(3))
    context = np.arange(batch.input_ids.shape[1]) < batch.context_length
    assert not batch.valid[:, context].all() and not batch.valid[:, ~context].all()  # pads in both parts
    masked = target_mask(batch)
    assert np.array_equal(masked, batch.valid & ~context) and (batch.input_ids[masked] == MASK).all()
    for position, reached in zip(
        batch.target_positions, reach(model, batch, batch.target_positions, batch.target_ids)
    ):
        row, column = divmod(int(position), batch.input_ids.shape[1])
        shown = batch.valid[row] & context
        shown[column] = True
        assert np.array_equal(reached, only_row(batch, row, shown))
    # Each pair's two rows: the source's unmasked tokens with the target's masks, and the reverse.
    dense = objectives(mask_rate=0.3, camlm_form="dense").batch("camlm", pairs(LENGTHS), rngs(3))
    for row, ids in enumerate(dense.input_ids):
        side, hidden = sides(ids), target_mask(dense)[row]
        for half, context_side in enumerate((0, 1)):
            mine = (
                batch.input_ids[row + half * 3],
                batch.position_ids[row + half * 3],
                batch.valid[row + half * 3],
            )
            positions = mine[1][mine[2] & context]
            assert positions.tolist() == (2 + np.flatnonzero((side == context_side) & ~hidden)).tolist()
            positions = mine[1][mine[2] & ~context]
            assert positions.tolist() == (2 + np.flatnonzero((side == 1 - context_side) & hidden)).tolist()


def test_unmasked_tokens_stay_on_their_side_in_camlm(model):
    batch = objectives(camlm_form="dense", mask_rate=0.3).batch("camlm", pairs(LENGTHS[:1]), rngs(1))
    side, masked = sides(batch.input_ids[0]), target_mask(batch)[0]
    unmasked = np.flatnonzero((side >= 0) & ~masked)
    for column, reached in zip(unmasked, reach(model, batch, unmasked)):
        assert np.array_equal(reached[0], (side == side[column]) & ~masked)


@pytest.mark.parametrize("objective", ["mmlm", "tlm"])
def test_plain_objectives_see_every_real_token_and_no_pad(model, objective):
    examples = texts([13, 5, 8]) if objective == "mmlm" else pairs(LENGTHS)
    batch = objectives().batch(objective, examples, rngs(3))
    assert not batch.valid.all()
    for position, reached in zip(
        batch.target_positions, reach(model, batch, batch.target_positions, batch.target_ids)
    ):
        row = int(position) // batch.input_ids.shape[1]
        assert np.array_equal(reached, only_row(batch, row, batch.valid[row]))


def stage1_dense(stage1):
    """The same sentences as [CLS] X [SEP] [SEP] M_1 .. M_p [SEP], with the dense matrix: model inputs, slots,
    roles.

    Roles: 0 [CLS] X [SEP], 1 placeholder, 2 second and third [SEP], -1 pad.
    """
    rows = []
    for row in range(len(stage1.input_ids)):
        valid, context = stage1.valid[row], np.arange(stage1.valid.shape[1]) < stage1.context_length
        parts = [stage1.input_ids[row], stage1.position_ids[row], stage1.language_ids[row]]
        before = [part[valid & context] for part in parts]
        after = [part[valid & ~context] for part in parts]
        second = [SEP, before[1][-1] + 1, -1]
        third = [SEP, after[1][-1] + 1, -1]
        joined = [np.concatenate([b, [s], a, [t]]) for b, s, a, t in zip(before, second, after, third)]
        roles = np.repeat([0, 2, 1, 2], [len(before[0]), 1, len(after[0]), 1])
        rows.append((*joined, roles))
    width = max(len(row[0]) for row in rows)
    padded = [
        np.stack([np.pad(row[i], (0, width - len(row[i])), constant_values=fill) for row in rows])
        for i, fill in enumerate((1, 1, -1, -1))
    ]
    matrices = [attention_mask.btmlm_stage1((r[3] == 0).sum(), (r[3] == 1).sum()) for r in rows]
    return padded, attention_mask.pad(matrices, width)


def stage1_as_batch(stage1, template):
    padded, dense = stage1_dense(stage1)
    batch = replace(
        template,
        input_ids=padded[0],
        position_ids=padded[1],
        language_ids=padded[2],
        valid=padded[3] >= 0,
        dense=dense,
        context_length=None,
    )
    return batch, padded[3]


def test_btmlm_stage_1_dense(model):
    whole = objectives(pseudo_proportion=0.3).batch("btmlm", texts([13, 5, 8]), rngs(3))
    batch, roles = stage1_as_batch(whole.stage1, whole)
    for role in (0, 1):
        rows, columns = np.nonzero(roles == role)
        for row, column, reached in zip(rows, columns, reach(model, batch, rows * roles.shape[1] + columns)):
            shown = (
                roles[row] == 0
            )  # a placeholder sees the sentence and itself; the sentence sees the sentence
            shown[column] = True
            assert np.array_equal(reached, only_row(batch, row, shown))


def test_btmlm_stage_1_compact(model):
    stage1 = objectives(pseudo_proportion=0.3).batch("btmlm", texts([13, 5, 8]), rngs(3)).stage1
    context = np.arange(stage1.valid.shape[1]) < stage1.context_length
    assert not stage1.valid[:, context].all() and not stage1.valid[:, ~context].all()
    for position, reached in zip(stage1.placeholders, reach(model, stage1, stage1.placeholders)):
        row, column = divmod(int(position), stage1.valid.shape[1])
        shown = stage1.valid[row] & context
        shown[column] = True
        assert np.array_equal(reached, only_row(stage1, row, shown))


def test_btmlm_stage_2_sees_sentence_and_pseudo_tokens(model):
    batch = objectives().batch("btmlm", texts([13, 5, 8]), rngs(3))
    batch, _ = PseudoTokenGenerator(None, VOCABULARY.special_ids).fill(model, batch)
    slots = np.zeros(batch.input_ids.shape, dtype=bool)
    slots.flat[batch.stage1.slots] = True
    assert not (slots & target_mask(batch)).any() and (batch.input_ids[slots] != MASK).all()
    for position, reached in zip(
        batch.target_positions, reach(model, batch, batch.target_positions, batch.target_ids)
    ):
        row = int(position) // batch.input_ids.shape[1]
        assert np.array_equal(reached, only_row(batch, row, batch.valid[row]))


# -- compact = dense, values and gradients --


def loss_and_gradients(model, batch):
    loss = masked_lm_loss(model, batch)
    model.clear_gradients()
    loss.total.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    where = list(
        zip(
            batch.target_positions // batch.input_ids.shape[1],
            batch.position_ids.flat[batch.target_positions],
        )
    )
    return loss, gradients, where


def test_camlm_compact_equals_dense(model):
    examples = pairs([(13, 9), (5, 14), (8, 8), (40, 30), (2, 3)])
    by_form = {}
    for form in ("dense", "compact"):
        batch = objectives(camlm_form=form).batch("camlm", examples, rngs(5))
        loss, gradients, where = loss_and_gradients(model, batch)
        # A token is known by its pair and its position; rows beyond the pairs are the compact form's second
        # halves.
        tokens = {(int(row) % 5, int(at)): value for (row, at), value in zip(where, loss.losses.tolist())}
        by_form[form] = loss, gradients, tokens, batch
    dense, compact = by_form["dense"], by_form["compact"]
    assert dense[0].count == compact[0].count == len(dense[2])
    assert dense[2].keys() == compact[2].keys()
    assert max(abs(dense[2][token] - compact[2][token]) for token in dense[2]) < 1e-9
    assert abs(float(dense[0].total) - float(compact[0].total)) < 1e-9
    assert dense[1].keys() == compact[1].keys() and len(dense[1]) > 60
    for name, gradient in dense[1].items():
        assert np.abs(gradient - compact[1][name]).max() < 1e-9, name
        if "k_proj.bias" not in name:  # a key bias adds the same to every score of a row: its gradient is 0
            assert np.abs(gradient).max() > 1e-6, name
    assert dense[3].tokens == compact[3].tokens and dense[3].sequences == compact[3].sequences == 5


def test_btmlm_stage_1_compact_equals_dense(model):
    whole = objectives(pseudo_proportion=0.3).batch("btmlm", texts([13, 5, 8, 30]), rngs(4))
    stage1 = whole.stage1
    batch, roles = stage1_as_batch(stage1, whole)
    results = []
    for form, positions in ((stage1, np.sort(stage1.placeholders)), (batch, np.flatnonzero(roles == 1))):
        hidden = model(**model_inputs(form)).reshape([-1, 16])
        predictions = model.lm_head(paddle.gather(hidden, paddle.to_tensor(positions)))
        model.clear_gradients()
        (predictions * paddle.linspace(-1, 1, predictions.size).reshape(predictions.shape)).sum().backward()
        gradients = {
            name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None
        }
        results.append((predictions.numpy(), gradients))
    assert np.abs(results[0][0] - results[1][0]).max() < 1e-9
    for name, gradient in results[0][1].items():
        assert np.abs(gradient - results[1][1][name]).max() < 1e-9, name


def test_the_models_compact_mask_is_the_definition():
    stage1 = objectives(pseudo_proportion=0.3).batch("btmlm", texts([13, 5, 8]), rngs(3)).stage1
    mask = CompactMask(stage1.context_length, paddle.to_tensor(stage1.valid))
    assert np.array_equal(
        mask.dense().numpy(), attention_mask.from_compact(stage1.context_length, stage1.valid)
    )


@pytest.mark.parametrize("objective", ["camlm", "btmlm"])
def test_the_gpus_column_intervals_are_the_definition(objective):
    """A column is closed below `start` and above `end`: for every real row that gives the same matrix."""
    examples = pairs(LENGTHS) if objective == "camlm" else texts([13, 5, 8])
    batch = objectives(mask_rate=0.3, pseudo_proportion=0.3).batch(objective, examples, rngs(3))
    part = batch.stage1 or batch
    mask = CompactMask(part.context_length, paddle.to_tensor(part.valid))
    start, end = np.moveaxis(flashmask_row_indices(mask).numpy()[:, 0], -1, 0)[:, :, None]  # [B, 1, T]
    row, column = np.indices(2 * part.valid.shape[1:])
    closed = ((row > column) & (row >= start)) | ((row < column) & (row < end))  # [B, T, T]
    expected = attention_mask.from_compact(part.context_length, part.valid)[:, 0]
    assert np.array_equal(~closed[part.valid], expected[part.valid])
    assert closed[part.valid].any() and not closed[part.valid].all()
