"""How many kernels an XNLI step starts on a GPU with FlashMask and autocast, counted on a CPU."""

from tests.helpers.kernel_calls import xnli_calls

VIEWS = {"reshape", "unsqueeze", "squeeze", "unbind"}  # of memory; no kernel runs
LIMITS = {"forward": 205, "backward": 205, "update": 145}  # the most kernels of each phase
MOST_KERNELS = 550  # of a step


def test_a_step_of_xnli(monkeypatch):
    calls = xnli_calls(monkeypatch)
    total = 0
    for phase, limit in LIMITS.items():
        kernels = {}
        for name, count in calls[phase].items():
            if name.removesuffix("_grad") not in VIEWS:
                kernels[name] = count
        # With less than half of them, something would not have been counted.
        assert 0.5 * limit < sum(kernels.values()) <= limit, kernels
        total += sum(kernels.values())
    assert total <= MOST_KERNELS
    # The stand-in for FlashMask copies its gradient once in each of 12 layers: the whole pass was counted.
    assert calls["backward"]["assign"] == 12
    groups_of_weights = 5  # which are cast together
    pooler_and_classifier = 2 * 2  # weight and bias of each
    inputs = 2  # of the first norm and of the loss
    assert calls["backward"]["cast"] == groups_of_weights + pooler_and_classifier + inputs
