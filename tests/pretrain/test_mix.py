"""Shares of the objectives over a run, and how a step's sequences are divided."""

import pytest

from pretrain.config import ObjectiveConfig
from pretrain.shares import allocate, shares

ABLATIONS = {  # paper Tables 6 and 8
    "exp1": (["mmlm"], {"mmlm": 1.0}),
    "exp2": (["mmlm", "tlm"], {"mmlm": 0.5, "tlm": 0.5}),
    "exp3": (["mmlm", "camlm"], {"mmlm": 0.5, "camlm": 0.5}),
    "exp4": (["mmlm", "btmlm", "camlm"], {"mmlm": 0.25, "btmlm": 0.25, "camlm": 0.5}),
    "exp5": (["mmlm", "tlm", "camlm", "btmlm"], {"mmlm": 0.25, "tlm": 0.25, "camlm": 0.25, "btmlm": 0.25}),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_ablations(name):
    active, expected = ABLATIONS[name]
    config = ObjectiveConfig(active=active)
    assert shares(config, 50, 100) == expected
    before = dict(expected)
    before["mmlm"] += before.pop("btmlm", 0.0)
    assert shares(config, 29, 100) == before  # 30 % of 100 steps
    assert shares(config, 30, 100) == expected


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 64, 2047, 2048])
def test_largest_remainder(batch_size):
    share = shares(ObjectiveConfig(monolingual_share=0.6), 9, 10)
    for step in range(8):
        counts = allocate(share, batch_size, step)
        assert sum(counts.values()) == batch_size
        assert all(abs(counts[name] - share[name] * batch_size) < 1 for name in share)


def test_by_hand():
    share = {"mmlm": 0.5, "tlm": 0.3, "camlm": 0.2}
    # 3.5, 2.1, 1.4: the half is the largest remainder
    assert allocate(share, 7) == {"mmlm": 4, "tlm": 2, "camlm": 1}
    assert allocate(share, 10) == {"mmlm": 5, "tlm": 3, "camlm": 2}


def test_equal_remainders_take_turns():
    share = shares(ObjectiveConfig(), 9, 10)
    totals = dict.fromkeys(share, 0)
    for step in range(4):
        for name, count in allocate(share, 6, step).items():
            totals[name] += count
    assert set(totals.values()) == {6}
