"""A Paddle without code for the card and a card whose memory is full end a run with one line."""

import paddle
import pytest

from tests.pretrain.tiny_run import make_corpus, pretrain
from training import card, distributed
from training.engine import Engine
from utils.errors import UserError

CU126 = [61, 70, 75, 80, 86, 89, 90]  # what the wheels of CUDA 12.6 have code for


def use_card(monkeypatch, capability: tuple[int, int], architectures: list[int]) -> None:
    """Paddle has code for `architectures`, and the card has this capability."""
    monkeypatch.setattr(paddle.version, "cuda_archs", lambda: architectures)
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "Card")
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(paddle, "set_device", lambda name: None)


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [
        ((8, 0), CU126),
        ((8, 7), CU126),  # a card runs code for an earlier minor version
        ((9, 0), CU126),
        ((12, 1), [80, 90, 120]),
        ((8, 0), []),  # a Paddle that does not say
    ],
)
def test_a_wheel_with_code_for_the_card(monkeypatch, capability, architectures):
    """The card is accepted without an error."""
    use_card(monkeypatch, capability, architectures)
    distributed.init()


@pytest.mark.parametrize(
    ("capability", "architectures", "folder"),
    [
        ((7, 0), [75, 80, 86, 89, 90], "cu118"),
        ((9, 0), [61, 70, 75, 80], "cu126"),
        ((7, 5), [80, 90], "cu126"),
        ((12, 0), CU126, "cu129"),
    ],
)
def test_a_wheel_without_code_for_the_card(monkeypatch, capability, architectures, folder):
    """The line names the `folder` of wheels that have it."""
    use_card(monkeypatch, capability, architectures)
    with pytest.raises(UserError) as raised:
        distributed.init()
    message = str(raised.value)
    assert message.startswith(f"Card has compute capability {capability[0]}.{capability[1]}, but ")
    assert f" https://www.paddlepaddle.org.cn/packages/stable/{folder}/ (" in message


# Messages of Paddle and of CUDA.
PADDLE = "ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 3.0GB memory on GPU 0"
CUDA = "(External) CUDA error(2), out of memory."


@pytest.mark.parametrize("error", [MemoryError(PADDLE), OSError(CUDA)])
def test_a_full_memory_ends_a_run_with_one_line(monkeypatch, tmp_path, error):
    def step(*args, **options):
        raise error

    monkeypatch.setattr(Engine, "step", step)
    corpus = make_corpus(tmp_path)
    with pytest.raises(UserError, match="is full: lower run.micro_batch_tokens, or set run.recompute true;"):
        pretrain(corpus, tmp_path / "output")


def test_other_errors_stay_what_they_are():
    with pytest.raises(OSError, match="CUDA error"), card.out_of_memory_is_a_user_error("lower it"):
        raise OSError("CUDA error(700), an illegal memory access was encountered.")
