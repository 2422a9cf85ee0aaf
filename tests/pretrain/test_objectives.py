"""Examples to packed sequences: layout, positions, languages, masks, whatever the division of a step."""

import numpy as np
import pytest

from pretrain.objectives import Pair, Text
from tests.pretrain.examples import (
    CLS,
    MASK,
    SEP,
    VOCABULARY,
    objectives,
    of_all_four,
    pairs,
    restored,
    rngs,
    split,
    texts,
)

SOURCE = np.array([11, 12, 13])
TARGET = np.array([21, 22, 23, 24])
PAIR = Pair(Text(SOURCE, 0), Text(TARGET, 2))


def test_mmlm_layout():
    batch = objectives().batch("mmlm", [Text(SOURCE, 1), Text(TARGET, 2)], rngs(2))
    assert split(batch, restored(batch)) == [[CLS, 11, 12, 13, SEP], [CLS, 21, 22, 23, 24, SEP]]
    assert split(batch, batch.position_ids) == [[2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]]
    assert batch.lengths.tolist() == batch.contexts.tolist() == [5, 6]
    assert batch.target_languages.tolist() == [1, 2] and batch.masked.tolist() == [2, 0, 0, 0]
    assert batch.tokens == 11 and batch.input_ids.dtype == batch.targets.dtype == np.int64


def test_pair_layout():
    tlm = objectives().batch("tlm", [PAIR], rngs(1))
    expected = [CLS, 11, 12, 13, SEP, SEP, 21, 22, 23, 24, SEP]
    assert restored(tlm).tolist() == expected
    assert tlm.position_ids.tolist() == list(range(2, 13))
    assert tlm.target_languages.tolist() == [0, 2]  # one of three, one of four: masks on both sides
    camlm = objectives().batch("camlm", [PAIR], rngs(1))
    assert camlm.lengths.tolist() == [5, 6] and camlm.contexts.tolist() == [4, 5]
    by_position = sorted(zip(camlm.position_ids, restored(camlm)))
    assert [token for _, token in by_position] == expected
    assert [position for position, _ in by_position] == list(range(2, 13))
    assert camlm.targets.tolist() == [4, 10] and (camlm.input_ids[camlm.targets] == MASK).all()
    assert camlm.target_languages.tolist() == [2, 0] and camlm.masked.tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize("rate", [0.15, 1.0])
def test_unk_is_special_and_never_predicted(rate):
    unk = VOCABULARY.unk_id
    maker = objectives(mask_rate=rate)
    mixed = np.array([unk, 11, unk, 12, 13, unk])
    examples = {
        "mmlm": Text(mixed, 0),
        "btmlm": Text(mixed, 0),
        "tlm": Pair(Text(mixed, 0), Text(TARGET, 1)),
        "camlm": Pair(Text(TARGET, 0), Text(mixed, 1)),
    }
    for objective, example in examples.items():
        if objective == "camlm" and rate == 1.0:
            continue
        for seed in range(20):
            batch = maker.batch(objective, [example], rngs(1, seed))
            assert unk not in batch.target_ids and len(batch.target_ids)
    assert rate < 1 or set(maker.batch("mmlm", [Text(mixed, 0)], rngs(1)).target_ids) == {11, 12, 13}
    # a text of [UNK] alone has nothing to predict, and cannot keep an unmasked token
    alone = Text(np.array([unk, unk]), 0)
    assert not len(maker.batch("mmlm", [alone], rngs(1)).targets)
    assert not maker.serves_camlm(Pair(alone, Text(TARGET, 1)))


@pytest.mark.parametrize("choice", ["masks", "none", "all"])
def test_language_embedding(choice):
    batch = of_all_four(objectives(language_embedding=choice))
    slots = np.isin(np.arange(batch.tokens), batch.stage1.slots)  # they will be ordinary tokens
    for part, is_mask in (
        (batch, (batch.input_ids == MASK) & ~slots),
        (batch.stage1, batch.stage1.input_ids == MASK),
    ):
        carries = is_mask if choice == "masks" else np.full(len(is_mask), choice == "all")
        assert np.array_equal(part.language_ids >= 0, carries)
    for part, places, languages in (
        (batch, batch.targets, batch.target_languages),
        (batch.stage1, batch.stage1.placeholders, batch.stage1.slot_languages),
    ):
        has = part.language_ids[places] >= 0
        assert np.array_equal(part.language_ids[places][has], languages[has])
        # with "masks" some 80 % of the targets have one: those that are [MASK]
        assert choice == "none" or has.mean() > 0.6


def test_btmlm_by_hand():
    text = Text(np.arange(11, 21), 0)  # ten tokens, so two pseudo-tokens
    batch = objectives().batch("btmlm", [text], rngs(1), second_languages=[1])
    first = batch.stage1
    assert first.input_ids.tolist() == [CLS, *range(11, 21), SEP, MASK, MASK]
    assert first.position_ids.tolist() == [*range(2, 14), 15, 16]  # s + 5, s + 6; s + 4 is the second [SEP]
    assert first.contexts.tolist() == [12] and first.language_ids.tolist() == [-1] * 12 + [1, 1]
    assert first.placeholders.tolist() == [12, 13] and first.slots.tolist() == [13, 14]
    assert restored(batch).tolist() == [CLS, *range(11, 21), SEP, SEP, MASK, MASK, SEP]
    assert batch.position_ids.tolist() == list(range(2, 18))
    assert (batch.targets > 0).all() and (batch.targets < 11).all() and batch.masked.tolist() == [0, 0, 0, 2]
    assert batch.contexts.tolist() == [16] and batch.tokens == 16


def test_btmlm_spread_positions():
    text = Text(np.arange(11, 21), 0)
    batch = objectives(pseudo_positions="spread").batch("btmlm", [text], rngs(1), second_languages=[1])
    assert batch.stage1.position_ids[-2:].tolist() == [15 + 2, 15 + 7]  # the middles of two halves of ten
    assert batch.position_ids[-4:].tolist() == [14, 17, 22, 23]
    assert np.array_equal(batch.input_ids, objectives().batch("btmlm", [text], rngs(1), [1]).input_ids)


@pytest.mark.parametrize("proportion", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("positions", ["first", "spread"])
def test_btmlm_fits_whatever_the_length(proportion, positions):
    for limit in (8, 31, 64):
        maker = objectives(limit, pseudo_proportion=proportion, pseudo_positions=positions)
        for length in range(1, 80):
            text = Text(np.arange(4, 4 + length), 0)
            n, p = maker.pseudo_lengths(text)
            assert 1 <= n <= length and p == max(1, round(proportion * n)) and n + p + 4 <= limit
            if n < length:  # and no shorter than it must be
                assert n + 1 + max(1, round(proportion * (n + 1))) + 4 > limit
            batch = maker.batch("btmlm", [text], rngs(1), [1])
            assert batch.tokens == n + p + 4 and (np.diff(batch.position_ids) > 0).all()
            assert batch.position_ids[-1] < 2 + limit  # a table of limit + 2 rows has it


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
@pytest.mark.parametrize("limit", [12, 32, 600])
def test_long_examples_are_cut(objective, limit):
    lengths = [(500, 300), (10, 300), (300, 9)]
    examples = texts([500, 60]) if objective in ("mmlm", "btmlm") else pairs(lengths)
    maker = objectives(max_seq_len=limit)
    for example in examples:
        batch = maker.batch(objective, [example], rngs(1))
        assert batch.tokens == maker.tokens(objective, example) <= limit
        assert batch.position_ids.max() == batch.tokens + 1
        assert batch.tokens == limit or limit > 62
    if objective == "tlm" and limit == 32:
        batch = maker.batch("tlm", examples, rngs(3))
        assert [ids.index(SEP) - 1 for ids in split(batch, restored(batch))] == [14, 10, 19]
