"""Runs on CPUs that stand in for cards: pseudo-tokens in bf16, and what ends a run with one line."""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
import pytest

from model import device as model_device
from tests.gpu import stand_in as stand_ins
from tests.pretrain.tiny_run import losses, make_corpus, pretrain
from utils.errors import UserError

SHORT = {"optimizer__steps": 3, "run__log_steps": 1, "run__eval_steps": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("pieces", ["all", "frequent"])
def test_pseudo_tokens_in_bf16(stand_in, corpus, tmp_path, pieces):
    """The bias of the output layer is float32, whatever the hidden states are."""
    output = pretrain(corpus, tmp_path / "bf16", **SHORT, run__amp="bf16", objectives__pseudo_pieces=pieces)
    assert stand_in.half_results > 0
    assert ("Kernel", "flash_bwd_kernel") in stand_in.events
    assert all(0.0 < loss < 20.0 for loss in losses(output)) and len(losses(output)) == 3


def refusal(run: Callable[[], object]) -> str:
    """The error of a run, which is one line."""
    with pytest.raises(UserError) as raised:
        run()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_bf16_on_a_card_without_it(corpus, tmp_path):
    with stand_ins.installed(stand_ins.V100):
        message = refusal(lambda: pretrain(corpus, tmp_path, **SHORT, run__amp="bf16"))
    assert message.startswith("amp bf16 needs a GPU of compute capability 8.0")


def test_a_wheel_without_code_for_the_card(stand_in, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle.version, "cuda_archs", lambda: [61, 70, 75, 90])
    message = refusal(lambda: pretrain(corpus, tmp_path, **SHORT))
    assert message.startswith("NVIDIA A100-SXM4-80GB has compute capability 8.0, but the installed Paddle")
    assert "/stable/cu126/ (in a checkout" in message


def test_a_memory_that_is_full(stand_in, corpus, tmp_path, monkeypatch):
    def full(*args):
        raise MemoryError("ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 3.0GB")

    monkeypatch.setattr(F, "gelu", full)
    message = refusal(lambda: pretrain(corpus, tmp_path, **SHORT, run__amp="bf16"))
    assert message.startswith("the memory of gpu:0 is full: lower run.micro_batch_tokens")


def test_a_wheel_without_flash_mask(stand_in, corpus, tmp_path, monkeypatch):
    """The run uses padded groups, and says so once."""

    def missing(*args, **options):
        raise RuntimeError(
            "\n\nC++ Traceback:\n(NotFound) The kernel `flashmask_attention` is not registered."
        )

    monkeypatch.setattr(F, "flashmask_attention", missing)
    warnings: list[str] = []
    monkeypatch.setattr(model_device.logger, "warning", lambda text, *args: warnings.append(text % args))
    output = pretrain(corpus, tmp_path / "output", **SHORT, run__amp="bf16")
    (warning,) = [warning for warning in warnings if "FlashMask" in warning]
    assert warning.startswith("FlashMask does not work here; attention uses padded groups")
    assert warning.endswith("(NotFound) The kernel `flashmask_attention` is not registered.")
    assert len(losses(output)) == 3
