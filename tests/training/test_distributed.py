"""Sums over processes are sums, never averages, and the same on every process."""

import json
from pathlib import Path

import pytest

from tests.launching import fleetrun
from training import distributed
from utils.errors import UserError


def test_one_process_needs_no_group(monkeypatch):
    for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (
        0,
        1,
        True,
    )
    assert distributed.all_sum([1, 2.5]) == [1.0, 2.5]
    assert distributed.gather("x") == ["x"]


def test_two_processes(tmp_path):
    done = fleetrun([Path(__file__).with_name("distributed_script.py"), tmp_path], tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one.pop("is_main") for one in seen] == [True, False]
    assert seen[0] == seen[1]
    assert seen[0]["device"] == "cpu" and seen[0]["world"] == 2
    assert seen[0]["all_sum"] == pytest.approx([0.3, 2e-12, 2.0], rel=1e-15)
    assert seen[0]["gather"] == [{"rank": 0, "text": "é"}, {"rank": 1, "text": "é"}]
    assert seen[0]["gradients"] == [[pytest.approx([1.1e-9] * 3, rel=1e-12)] * 2, [3.0] * 4]
    assert seen[0]["weight"] == [7.0] * 3


def test_nccl_on_a_machine_without_gpus_is_one_line(monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "nccl")
    with pytest.raises(UserError, match="gloo"):
        distributed.init(use_gpu=False)
