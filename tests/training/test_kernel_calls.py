"""How many kernels an XNLI step starts on a GPU with FlashMask and autocast, counted on a CPU."""

from tests.helpers.kernel_calls import xnli_calls

VIEWS = {"reshape", "unsqueeze", "squeeze", "unbind"}  # of memory; no kernel runs
KERNELS = {"forward": 201, "backward": 203, "update": 142}  # as docs/gpu.md says


def test_a_step_of_xnli(monkeypatch):
    calls = xnli_calls(monkeypatch)
    for phase, expected in KERNELS.items():
        kernels = {}
        for name, count in calls[phase].items():
            if name.removesuffix("_grad") not in VIEWS:
                kernels[name] = count
        assert sum(kernels.values()) == expected, kernels
    # The stand-in for FlashMask copies its gradient once in each of 12 layers: the whole pass was counted.
    assert calls["backward"]["assign"] == 12
    groups_of_weights = 5  # which are cast together
    pooler_and_classifier = 2 * 2  # weight and bias of each
    inputs = 2  # of the first norm and of the loss
    assert calls["backward"]["cast"] == groups_of_weights + pooler_and_classifier + inputs
