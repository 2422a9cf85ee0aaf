"""On a GPU the next step's data is sent before the update, which changes no number."""

import pytest

from model import device
from tests.pretrain.tiny_run import STEPS, assert_equal_runs, pretrain
from training.adamw import AdamW
from training.run import Trainer

# An evaluation and a checkpoint between two steps, and an encoder that is frozen at first.
OPTIONS = {"run__eval_steps": 5, "init__lm_head_warmup_steps": 2}


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """The order of sends and updates in runs of this process, which take the paths of a GPU."""
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
    """A run that does not send ahead ends with the same bits."""
    ahead = pretrain(tiny_corpus, tmp_path / "ahead", **OPTIONS)
    assert events[:5] == ["send 1", "send 2", "update", "send 3", "update"]
    assert events.count("update") == STEPS
    assert events[-3:] == [f"send {STEPS}", "update", "update"]  # nothing follows the last step
    events.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_send_ahead", lambda *args: None)
        usual = pretrain(tiny_corpus, tmp_path / "usual", **OPTIONS)
    assert events[:4] == ["send 1", "update", "send 2", "update"]
    assert_equal_runs(ahead, usual)


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_has_not_sent_the_next_step(tiny_corpus, tmp_path, events, step):
    """The run stops after `step`: the step after it was not sent, so the resumed run does not miss it."""
    straight = pretrain(tiny_corpus, tmp_path / "straight", **OPTIONS)
    events.clear()
    out = pretrain(tiny_corpus, tmp_path / "out", run__stop_after_steps=step, **OPTIONS)
    assert f"send {step}" in events
    assert f"send {step + 1}" not in events
    pretrain(tiny_corpus, out, **OPTIONS)
    assert_equal_runs(straight, out)
