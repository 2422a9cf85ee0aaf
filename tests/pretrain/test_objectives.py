"""Examples to packed sequences: layout, positions, languages, masks, whatever the division of a step."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from ernie_m.pretrain.masking import Pair, Text
from ernie_m.pretrain.objectives import get_objective_class
from ernie_m.pretrain.packing import MaskedExample, MaskedSequence, Stage1Sequence, pack
from tests.launching import error_of
from tests.pretrain.examples import (
    VOCABULARY,
    btmlm_batch,
    objectives,
    pairs,
    rngs,
    texts,
)
from tests.pretrain.tiny_run import config

SOURCE = np.array([11, 12, 13])
TARGET = np.array([21, 22, 23, 24])
PAIR = Pair(Text(SOURCE, 0), Text(TARGET, 2))


def sequence(ids, targets, labels, context=None, languages=()) -> MaskedSequence:
    """A sequence whose positions are ids + 100, and whose languages are ids + 200."""
    tokens = np.array(ids)
    arrays = map(np.array, (targets, labels, languages or [0] * len(targets)))
    return MaskedSequence(
        tokens, tokens + 100, tokens + 200, *arrays, len(ids) if context is None else context
    )


def as_lists(value):
    """Arrays as lists, within dictionaries."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_pack_by_hand(monkeypatch):
    """TLM has its own loss here. BTMLM's two examples have pseudo-tokens of the languages 2, and 1 and 0."""
    monkeypatch.setattr(get_objective_class("tlm"), "loss", lambda *_: None)
    stages = [
        Stage1Sequence(sequence([1, 2, 9], [2], [0], 2, [2]), np.array([3]), np.array([0.5])),
        Stage1Sequence(
            sequence([30, 31, 32, 9, 9], [3, 4], [0, 0], 3, [1, 0]), np.array([3, 4]), np.array([0.25, 0.75])
        ),
    ]
    batch = pack(
        [
            MaskedExample("btmlm", [sequence([1, 2, 3, 4], [1], [71])], stages[0]),
            MaskedExample("tlm", [sequence([11, 12, 13], [2, 0], [72, 73])], group=3),
            MaskedExample("mmlm", [sequence([14, 15], [1], [74])]),
            MaskedExample("camlm", [sequence([16, 17, 18], [2], [75], 2), sequence([19, 20], [1], [76], 1)]),
            MaskedExample("btmlm", [sequence([21, 22, 23, 24, 25], [1], [77])], stages[1]),
        ]
    )
    ids = np.array([1, 2, 3, 4, *range(11, 26)])
    ids_of_stage1 = np.array([1, 2, 9, 30, 31, 32, 9, 9])
    assert as_lists(dataclasses.asdict(batch)) == as_lists(
        {
            "inputs": {
                "input_ids": ids,
                "position_ids": ids + 100,
                "language_ids": ids + 200,
                "lengths": [4, 3, 2, 3, 2, 5],
                "context_lengths": [4, 3, 2, 2, 1, 5],
            },
            "targets": [1, 8, 11, 13, 15, 4, 6],
            "target_ids": [71, 74, 75, 76, 77],
            "rows": {"mmlm": [1], "tlm": [5, 6], "camlm": [2, 3], "btmlm": [0, 4]},
            "groups": {"tlm": [3, 3]},
            "stage1": {
                "inputs": {
                    "input_ids": ids_of_stage1,
                    "position_ids": ids_of_stage1 + 100,
                    "language_ids": ids_of_stage1 + 200,
                    "lengths": [3, 5],
                    "context_lengths": [2, 3],
                },
                "placeholders": [7, 6, 2],
                "slots": [18, 17, 3],
                "slot_sentences": [1, 1, 0],
                "slot_languages": [0, 1, 2],
                "draws": [0.75, 0.25, 0.5],
                "context_ids": [1, 2, 30, 31, 32],
                "context_sentences": [0, 0, 1, 1, 1],
            },
            "weights": {},
            "word_weights": None,
        }
    )


@pytest.mark.parametrize("mask_rate", [0.15, 0.5, 1.0])
def test_unk_is_special_and_never_predicted(mask_rate):
    unk = VOCABULARY.unk_id
    maker = objectives(mask_rate=mask_rate)
    mixed = np.array([unk, 11, unk, 12, 13, unk])
    examples = {
        "mmlm": Text(mixed, 0),
        "btmlm": Text(mixed, 0),
        "tlm": Pair(Text(mixed, 0), Text(TARGET, 1)),
        "camlm": Pair(Text(TARGET, 0), Text(mixed, 1)),
    }
    for objective, example in examples.items():
        if objective == "camlm" and mask_rate == 1.0:  # it needs unmasked tokens
            continue
        for seed in range(20):
            batch = maker[objective].make_batch([example], rngs(1, seed))
            assert len(batch.target_ids) == maker[objective].count_losses(example) > 0
            assert unk not in batch.target_ids
    if mask_rate == 1.0:  # all tokens are predicted but [UNK]
        assert set(maker["mmlm"].make_batch([Text(mixed, 0)], rngs(1)).target_ids) == {11, 12, 13}
    # A text of [UNK] alone has nothing to predict, and as a side of a pair no token that could be masked.
    alone = Text(np.array([unk, unk]), 0)
    assert not len(maker["mmlm"].make_batch([alone], rngs(1)).targets)
    assert not maker["camlm"].accepts_pair(Pair(alone, Text(TARGET, 1)))


@pytest.mark.parametrize(
    ("choice", "languages"),
    [
        ("masks", [".......2...", ".....2", ".0......"]),
        ("none", ["...........", "......", "........"]),
        ("all", ["00000222222", "000002", "00000222"]),
    ],
)
def test_language_embedding(choice, languages):
    """The language of each token, if it has one: of a pair of 0 and 2, and of both stages of BTMLM.

    In the pair, one target is [MASK], the other one a random token. A slot is no [MASK].
    """
    makers = objectives(language_embedding=choice)
    (pair,) = makers["tlm"].mask(PAIR, rngs(1)[0]).sequences
    _, (stage2,), (stage1, *_), _ = makers["btmlm"].mask(PAIR.source, rngs(1)[0], 2)
    made = [sequence.language_ids.tolist() for sequence in (pair, stage1, stage2)]
    assert ["".join("." if number < 0 else str(number) for number in ids) for ids in made] == languages


def test_btmlm_spread_positions():
    """Two pseudo-tokens on ten positions stand in the middle of each half; the tokens stay the same."""
    text = Text(np.arange(11, 21), 0)
    batch = btmlm_batch(objectives(pseudo_positions="spread")["btmlm"], [text], [1])
    assert batch.stage1.inputs.position_ids[-2:].tolist() == [15 + 2, 15 + 7]
    assert batch.inputs.position_ids[-4:].tolist() == [14, 17, 22, 23]  # [SEP], the two, [SEP]
    first = btmlm_batch(objectives(pseudo_positions="first")["btmlm"], [text], [1])
    assert np.array_equal(batch.inputs.input_ids, first.inputs.input_ids)


@pytest.mark.parametrize("proportion", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("positions", ["first", "spread"])
def test_btmlm_fits_whatever_the_length(proportion, positions):
    """n tokens of a text, p pseudo-tokens and 4 special tokens are at most the limit, with n as large as it
    can be.
    """
    for limit in (8, 31, 64):
        maker = objectives(limit, pseudo_proportion=proportion, pseudo_positions=positions)
        for length in range(1, 80):
            text = Text(np.arange(4, 4 + length), 0)
            n, p = maker["btmlm"].compute_lengths(text)
            assert 1 <= n <= length
            assert p == max(1, round(proportion * n))
            if n < length:  # one token more would not fit
                assert n + 1 + max(1, round(proportion * (n + 1))) + 4 > limit
            batch = btmlm_batch(maker["btmlm"], [text], [1])
            assert batch.inputs.tokens == n + p + 4 <= limit
            assert (np.diff(batch.inputs.position_ids) > 0).all()
            assert batch.inputs.position_ids[-1] < 2 + limit  # the position table has limit + 2 rows


@pytest.mark.parametrize("objective", ["mmlm", "tlm", "camlm", "btmlm"])
@pytest.mark.parametrize("limit", [12, 32, 600])
def test_truncate_long_examples(objective, limit):
    """Every example is longer than 32 tokens, and is truncated to the limit; some are shorter than 600."""
    has_texts = objective in ("mmlm", "btmlm")
    maker = objectives(max_seq_len=limit)
    for example in texts([500, 60]) if has_texts else pairs([(500, 300), (10, 300), (300, 9)]):
        batch = maker[objective].make_batch([example], rngs(1))
        least = limit if limit < 600 else 1
        assert least <= batch.inputs.tokens == maker[objective].count_tokens(example) <= limit
        assert batch.inputs.position_ids.max() == batch.inputs.tokens + 1  # positions begin with 2


@pytest.mark.parametrize("mask_rate", [0.01, 0.15, 0.4, 0.9])
def test_the_masks_in_the_context_take_no_more_than_a_micro_batch_must_hold(mask_rate):
    """Of pairs that are truncated and pairs that are not, and of any two lengths."""
    limit = 24
    camlm = objectives(limit, camlm_context="with_masks", mask_rate=mask_rate)["camlm"]
    most = 0
    for source_length in range(2, 22):
        for pair in pairs([(source_length, length) for length in range(2, 22)]):
            if camlm.accepts_pair(pair):
                batch = camlm.make_batch([pair], rngs(1))
                assert batch.inputs.tokens == camlm.count_tokens(pair)
                assert batch.inputs.position_ids.max() < 2 + limit
                most = max(most, batch.inputs.tokens)
    least = smallest_micro_batch(
        data__max_seq_len=limit, objectives__camlm_context="with_masks", objectives__mask_rate=mask_rate
    )
    assert most <= least <= most + 4


def smallest_micro_batch(**changes) -> int:
    """The smallest run.micro_batch_tokens that such a configuration may have."""
    line = error_of(config, Path("corpus"), run__micro_batch_tokens=1, **changes)
    (least,) = re.findall(r"run\.micro_batch_tokens 1\D+(\d+)", line)
    config(Path("corpus"), run__micro_batch_tokens=int(least), **changes)
    return int(least)


def test_truncate_the_longer_side_first():
    maker = objectives(max_seq_len=32)["tlm"]
    examples = pairs([(500, 300), (10, 300), (300, 9)])
    lengths = [[len(side) for side in maker.get_truncated_sides(example)] for example in examples]
    assert lengths == [[14, 14], [10, 18], [19, 9]]  # 28 tokens without the special ones
