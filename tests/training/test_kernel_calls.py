"""How many kernels an XNLI step starts on a GPU with FlashMask and autocast, counted on a CPU."""

from tests.helpers.kernel_calls import xnli_calls

VIEWS = {"reshape", "unsqueeze", "squeeze", "unbind"}  # of memory; no kernel runs
LIMITS = {"forward": 325, "backward": 270, "update": 240}  # the most kernels of each phase


def test_a_step_of_xnli(monkeypatch):
    calls = xnli_calls(monkeypatch)
    for phase, limit in LIMITS.items():
        kernels = {
            name: count for name, count in calls[phase].items() if name.removesuffix("_grad") not in VIEWS
        }
        # With less than half of them, something would not have been counted.
        assert 0.5 * limit < sum(kernels.values()) <= limit, kernels
    assert calls["backward"]["assign"] == 12  # FlashMask's gradients: the backward pass is the whole
    # Five groups of weights; weight and bias of pooler and classifier; the inputs of first norm and loss.
    assert calls["backward"]["cast"] == 5 + 4 + 2
