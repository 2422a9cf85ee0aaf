"""On a GPU the next step's data is sent before the update, which changes no number."""

import pytest

from model import device
from tests.pretrain.tiny_run import assert_equal_runs, pretrain
from training.adamw import AdamW
from training.run import Trainer

# An evaluation and a checkpoint between two steps, and an encoder that is frozen at first.
OPTIONS = {"run__eval_steps": 5, "init__lm_head_warmup_steps": 2}


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """When a step is sent and when it updates, on what takes the paths of a GPU."""
    events: list[str] = []
    send = Trainer._send
    update = AdamW.step

    def recorded_send(trainer, data):
        events.append(f"send {data.position['step']}")
        return send(trainer, data)

    def recorded_update(optimizer):
        events.append("update")
        return update(optimizer)

    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    monkeypatch.setattr(Trainer, "_send", recorded_send)
    monkeypatch.setattr(AdamW, "step", recorded_update)
    return events


def test_the_next_step_is_sent_before_the_update(tiny_corpus, tmp_path, events, monkeypatch):
    ahead = pretrain(tiny_corpus, tmp_path / "ahead", **OPTIONS)
    assert events[:5] == ["send 1", "send 2", "update", "send 3", "update"]
    assert events.count("update") == 12 and events[-3:] == ["send 12", "update", "update"]
    events.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_send_ahead", lambda *args: None)
        usual = pretrain(tiny_corpus, tmp_path / "usual", **OPTIONS)
    assert events[:4] == ["send 1", "update", "send 2", "update"]
    assert_equal_runs(ahead, usual)


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_reads_that_step_again(tiny_corpus, tmp_path, events, step):
    straight = pretrain(tiny_corpus, tmp_path / "straight", **OPTIONS)
    events.clear()
    out = pretrain(tiny_corpus, tmp_path / "out", run__stop_after_steps=step, **OPTIONS)
    assert f"send {step}" in events and f"send {step + 1}" not in events
    pretrain(tiny_corpus, out, **OPTIONS)
    assert_equal_runs(straight, out)
