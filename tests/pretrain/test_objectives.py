"""Examples to batches: layout, positions, languages, masks, and that none of it depends on how a step is
divided."""

import numpy as np
import pytest

from pretrain import pseudo
from pretrain.batch import Row, pad_rows
from pretrain.objectives import Pair, Text
from tests.pretrain.objective_examples import (
    CLS,
    MASK,
    PAD,
    SEP,
    VOCABULARY,
    objectives,
    pairs,
    rngs,
    sides,
    texts,
)
from utils.errors import UserError

SOURCE, TARGET = np.array([11, 12, 13]), np.array([21, 22, 23, 24])
PAIR = Pair(Text(SOURCE, 0), Text(TARGET, 2))


def restored(batch) -> np.ndarray:
    """The inputs with the masked tokens put back."""
    ids = batch.input_ids.copy()
    ids.flat[batch.target_positions] = batch.target_ids
    return ids


def test_mmlm_layout():
    batch = objectives().batch("mmlm", [Text(SOURCE, 1), Text(TARGET, 2)], rngs(2))
    assert restored(batch).tolist() == [[CLS, 11, 12, 13, SEP, PAD], [CLS, 21, 22, 23, 24, SEP]]
    assert batch.position_ids.tolist() == [[2, 3, 4, 5, 6, 1], [2, 3, 4, 5, 6, 7]]
    assert batch.valid.tolist() == [[True] * 5 + [False], [True] * 6]
    assert batch.target_languages.tolist() == [1, 2] and batch.masked == 2
    assert batch.tokens == 11 and batch.sequences == 2
    assert batch.input_ids.dtype == batch.target_positions.dtype == np.int64


@pytest.mark.parametrize("form", ["dense", "compact"])
def test_pair_layout(form):
    tlm = objectives().batch("tlm", [PAIR], rngs(1))
    expected = [CLS, 11, 12, 13, SEP, SEP, 21, 22, 23, 24, SEP]
    assert restored(tlm)[0].tolist() == expected
    assert tlm.position_ids[0].tolist() == list(range(2, 13))
    assert tlm.target_languages.tolist() == [0, 2]  # one of three, one of four: masks on both sides
    camlm = objectives(camlm_form=form).batch("camlm", [PAIR], rngs(1))
    by_position = sorted(zip(camlm.position_ids[camlm.valid], restored(camlm)[camlm.valid]))
    assert [token for _, token in by_position] == expected
    assert [position for position, _ in by_position] == list(range(2, 13))
    assert (camlm.input_ids.flat[camlm.target_positions] == MASK).all()
    assert sorted(camlm.target_languages) == [0, 2]
    assert camlm.sequences == 1 and camlm.tokens == 11


def test_camlm_always_masks_and_leaves_a_token_on_each_side():
    batch = objectives(camlm_form="dense", mask_rate=0.45).batch(
        "camlm", pairs([(2, 2), (3, 9), (40, 2)]), rngs(3)
    )
    for row, ids in enumerate(batch.input_ids):
        for side in (0, 1):
            tokens = ids[(sides(ids) == side) & (ids != CLS) & (ids != SEP)]
            assert 0 < (tokens == MASK).sum() < len(tokens), row
    assert (batch.input_ids.flat[batch.target_positions] == MASK).all()


def test_pairs_that_cannot_serve_camlm():
    maker = objectives(max_seq_len=12)
    assert maker.serves_camlm(PAIR)
    assert not maker.serves_camlm(Pair(Text(np.array([7]), 0), Text(TARGET, 1)))
    tlm = maker.batch("tlm", [Pair(Text(np.array([7]), 0), Text(TARGET, 1))], rngs(1))
    assert tlm.masked == 2


@pytest.mark.parametrize("choice", ["masks", "none", "all"])
def test_language_embedding(choice):
    maker = objectives(language_embedding=choice)
    examples = {
        "mmlm": texts([30, 12], language=1),
        "tlm": pairs([(30, 20)]),
        "btmlm": texts([30, 12], language=2),
        "camlm": pairs([(30, 20)]),
    }
    for objective, chosen in examples.items():
        batch = maker.batch(objective, chosen, rngs(len(chosen)))
        parts = [(batch.input_ids, batch.language_ids, batch.valid)]
        if batch.stage1:
            stage1 = batch.stage1
            parts.append((stage1.input_ids, stage1.language_ids, stage1.valid))
            at_placeholders = stage1.language_ids.flat[stage1.placeholders]
            expected = stage1.slot_languages if choice != "none" else np.full(len(stage1.slots), -1)
            assert np.array_equal(at_placeholders, expected)
        for ids, languages, valid in parts:
            is_mask = ids == MASK
            if batch.stage1 and ids is batch.input_ids:
                is_mask.flat[batch.stage1.slots] = False  # they will be ordinary tokens
            carries = {"masks": is_mask, "none": np.zeros_like(valid), "all": valid}[choice]
            assert np.array_equal(languages >= 0, carries), objective
        if choice != "none":
            at_targets = batch.language_ids.flat[batch.target_positions]
            has = at_targets >= 0
            assert np.array_equal(at_targets[has], batch.target_languages[has])
    if choice == "masks":  # an 80 / 10 / 10 batch: some chosen tokens are not [MASK] and carry no language
        batch = maker.batch("mmlm", texts([60] * 20), rngs(20))
        assert 0.6 < (batch.language_ids.flat[batch.target_positions] >= 0).mean() < 0.95


def test_btmlm_by_hand():
    text = Text(np.arange(11, 21), 0)  # ten tokens, so two pseudo-tokens
    batch = objectives().batch("btmlm", [text], rngs(1), second_languages=[1])
    first = batch.stage1
    assert first.input_ids.tolist() == [[CLS, *range(11, 21), SEP, MASK, MASK]] and first.context_length == 12
    # s + 5 and s + 6; s + 4 is the second [SEP]
    assert first.position_ids.tolist() == [[*range(2, 14), 15, 16]]
    assert first.language_ids.tolist() == [[-1] * 12 + [1, 1]]
    assert first.placeholders.tolist() == [12, 13] and first.slots.tolist() == [13, 14]
    filled = batch.with_pseudo_tokens(np.array([51, 52]))
    assert restored(filled).tolist() == [[CLS, *range(11, 21), SEP, SEP, 51, 52, SEP]]
    assert filled.position_ids.tolist() == [list(range(2, 18))]
    assert (batch.target_positions > 0).all() and (batch.target_positions < 11).all() and batch.masked == 2
    assert batch.context_length is None and batch.dense is None and filled.tokens == 16


def test_btmlm_spread_positions():
    text = Text(np.arange(11, 21), 0)
    batch = objectives(pseudo_positions="spread").batch("btmlm", [text], rngs(1), second_languages=[1])
    assert batch.stage1.position_ids[0, -2:].tolist() == [15 + 2, 15 + 7]  # the middles of two halves of ten
    assert batch.position_ids[0, -4:].tolist() == [14, 17, 22, 23]
    assert np.array_equal(batch.input_ids, objectives().batch("btmlm", [text], rngs(1), [1]).input_ids)


@pytest.mark.parametrize("proportion", [0.05, 0.1, 0.15, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("spread", [False, True])
def test_btmlm_fits_whatever_the_length(proportion, spread):
    for limit in (8, 31, 64):
        for length in range(1, 80):
            n = pseudo.longest_sentence(length, proportion, limit)
            p = pseudo.number_of_pseudo_tokens(n, proportion)
            assert 1 <= n <= length and n + p + 4 <= limit
            if n < length:  # and no shorter than it must be
                assert n + 1 + pseudo.number_of_pseudo_tokens(n + 1, proportion) + 4 > limit
            offsets = pseudo.placeholder_offsets(p, n, spread, limit)
            assert len(offsets) == p and (np.diff(offsets) > 0).all() and offsets[0] >= 0
            last_separator = 2 + n + 3 + offsets[-1] + 1
            assert last_separator < 2 + limit  # a table of limit + 2 rows has it


def test_no_room_for_btmlm():
    with pytest.raises(UserError, match="max_seq_len 5"):
        pseudo.longest_sentence(10, 0.2, 5)


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_long_examples_are_cut(objective):
    examples = (
        texts([500, 60]) if objective in ("mmlm", "btmlm") else pairs([(500, 300), (10, 300), (300, 9)])
    )
    batch = objectives(max_seq_len=32, camlm_form="dense").batch(objective, examples, rngs(len(examples)))
    assert (batch.valid.sum(1) == 32).all() and batch.position_ids.max() == 33
    if objective == "tlm":
        kept = [[(sides(ids) == side).sum() - 2 for side in (0, 1)] for ids in restored(batch)]
        assert kept == [[14, 14], [10, 18], [19, 9]]


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
def test_content_does_not_depend_on_division(objective):
    examples = (
        texts([30, 5, 18, 9])
        if objective in ("mmlm", "btmlm")
        else pairs([(30, 8), (5, 9), (18, 20), (9, 3)])
    )
    maker = objectives()

    def contents(batch):
        found = []
        for part in [batch, batch.stage1] if batch.stage1 else [batch]:
            for row, valid in enumerate(part.valid):
                found.append(
                    tuple(
                        getattr(part, name)[row][valid].tobytes()
                        for name in ("input_ids", "position_ids", "language_ids")
                    )
                )
        return sorted(found)

    whole = contents(maker.batch(objective, examples, rngs(4)))
    parts = [
        contents(maker.batch(objective, examples[i : i + n], rngs(n, start=i))) for i, n in ((0, 1), (1, 3))
    ]
    assert whole == sorted(parts[0] + parts[1])
    assert whole != contents(maker.batch(objective, examples, rngs(4, step=1)))
    assert whole != contents(maker.batch(objective, examples, rngs(4, seed=2)))


def test_lengths_in_multiples():
    maker = objectives()
    maker.length_multiple = 8
    batch = maker.batch("camlm", pairs([(13, 9), (5, 14)]), rngs(2))
    assert batch.context_length == 16 and batch.input_ids.shape == (4, 24)
    same = objectives().batch("camlm", pairs([(13, 9), (5, 14)]), rngs(2))
    assert np.array_equal(batch.input_ids[batch.valid], same.input_ids[same.valid])
    assert np.array_equal(batch.target_ids, same.target_ids)


def test_padding_against_a_plain_loop():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(20):
        context, placeholders = int(rng.integers(1, 9)), int(rng.integers(0, 5))
        ids = rng.integers(4, 99, size=context + placeholders)
        none = np.zeros(0, dtype=np.int64)
        rows.append(Row(ids, ids + 100, ids + 200, none, none, none, context))
    padded = pad_rows(rows, PAD)
    longest = max(row.context_length for row in rows)
    width = longest + max(len(row.input_ids) - row.context_length for row in rows)
    for index, row in enumerate(rows):
        c = row.context_length
        expected = np.full((3, width), [[PAD], [1], [-1]])
        for line, values in enumerate(row[:3]):
            expected[line, :c] = values[:c]
            expected[line, longest : longest + len(values) - c] = values[c:]
        assert np.array_equal(np.stack([part[index] for part in padded[:3]]), expected)
        start = padded.starts[index]
        assert np.array_equal(
            padded.input_ids.flat[padded.flat[start : start + len(row.input_ids)]], row.input_ids
        )
    assert padded.context_length == longest


def test_a_text_without_tokens_has_no_masks():
    batch = objectives().batch("mmlm", [Text(np.zeros(0, dtype=np.int64), 0)], rngs(1))
    assert batch.masked == 0 and batch.input_ids.tolist() == [[CLS, SEP]]
    assert VOCABULARY.mask_id not in batch.input_ids
