"""Mixed precision, as far as a CPU can test it: the calls of Paddle, master weights, bad values."""

import inspect
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.amp import amp_lists

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.model import device_capabilities, layers
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.optimization import build_optimizer
from ernie_m.training import device_summary, precision
from ernie_m.training.engine import Engine
from ernie_m.training.precision import DTYPES, LOSS_SCALING, Precision
from ernie_m.utils.args import parse_options
from tests.launching import error_of


class OneWeight(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2])


def test_o2_needs_a_gpu_and_half_precision(request):
    for amp in ("bf16", "none"):
        assert error_of(Precision, amp, "O2").startswith("amp_level O2 ")
    request.getfixturevalue("fp16")
    assert error_of(Precision, "none", "O2").startswith("amp_level O2 ")


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_call_paddle_amp(fp16, monkeypatch, amp, dtype, level):
    """auto_cast is called around each forward pass; in O2 decorate is called once, at the first step.

    There are four forward passes: two micro-batches in each of two steps.
    """
    decorated = []
    monkeypatch.setattr(paddle.amp, "decorate", lambda *args, **options: decorated.append((args, options)))
    model = OneWeight()
    engine = Engine(model, build_optimizer(model, 0.1), precision=Precision(amp, level))
    assert decorated == [] and engine.scaler.is_enable() == (amp == "fp16")
    for _ in range(2):
        assert not engine.step([1.0, 2.0], lambda model, factor: ((model.weight * factor).sum(), {})).skipped
    options = {"level": level, "dtype": dtype}
    assert fp16 == [options] * 4
    in_float32 = {"master_weight": True, "master_grad": True}
    assert decorated == ([((model, engine.optimizer), options | in_float32)] if level == "O2" else [])


def pretend_gpu(monkeypatch, major: int, minor: int) -> None:
    """Let Paddle say that it computes on a GPU of this capability, and undo the `has_bf16` of `fp16`."""
    monkeypatch.setattr("ernie_m.training.precision.has_bf16", device_capabilities.has_bf16)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda device=None: (major, minor))
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda device=None: "Card")
    monkeypatch.setattr(device_capabilities, "is_flash_supported", lambda head_size: True)


@pytest.mark.parametrize(
    ("capability", "amp", "override", "description"),
    [
        ((7, 0), "fp16", "", "7.0); precision fp16 O1; attention padded groups; TF32 off; 1 process"),
        ((8, 0), "fp16", "", "8.0); precision fp16 O1; attention FlashMask; TF32 on"),
        ((8, 0), "bf16", "1", "8.0); precision bf16 O1; attention FlashMask; TF32 on"),
        ((9, 0), "none", "", "9.0); precision float32; attention padded groups; TF32 on"),
    ],
)
def test_a_gpu_is_described_in_one_line(fp16, monkeypatch, messages, capability, amp, override, description):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    pretend_gpu(monkeypatch, *capability)
    if amp == "fp16":  # as the official flag sets it
        assert parse_options(FinetuneFlags, ["--use_fp16", "true"]).amp == amp
    Precision(amp)
    (line,) = {line for line in messages() if "device: gpu:0 (Card" in line}
    assert description in line
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert "TF32 off; collectives NCCL, 4 processes" in device_summary.format_device_summary("float32", 4)


def test_bf16_is_refused_below_8_0(fp16, monkeypatch):
    pretend_gpu(monkeypatch, 7, 5)
    assert "amp bf16 requires a GPU of compute capability 8.0" in error_of(Precision, "bf16")


@pytest.fixture
def messages(caplog, info_log):
    """A function that returns the lines of the log so far."""
    precision._recommend_bfloat16.cache_clear()
    return lambda: [record.message for record in caplog.records]


def let_cpu_lack(monkeypatch, missing: str | None) -> None:
    """Let the kernels of the CPU say that bfloat16 needs this, or nothing more."""
    services = SimpleNamespace(find_missing_bf16_requirement=lambda: missing)
    monkeypatch.setattr(precision, "get_services", lambda: services)


def test_bf16_on_a_cpu_that_has_it(monkeypatch, messages):
    let_cpu_lack(monkeypatch, None)
    monkeypatch.setattr(precision, "distributed", SimpleNamespace(world_size=lambda: 2))
    model = layers.Linear(3, 2)
    engine = Engine(model, build_optimizer(model, 0.1), precision=Precision("bf16"))
    assert (model.in_bfloat16, engine.precision.amp, engine.scaler.is_enable()) == (True, "none", False)
    attention = f"attention {device_summary.name_attention(False)}; collectives gloo, 2 processes"
    assert messages() == [f"device: cpu; precision float32, products in bfloat16; {attention}"]


def test_bfloat16_is_named_where_a_cpu_has_it(monkeypatch, messages):
    for missing, dtype, count in (("a CPU", "float32", 0), (None, "float64", 0), (None, "float32", 1)):
        let_cpu_lack(monkeypatch, missing)
        monkeypatch.setattr(paddle, "get_default_dtype", lambda dtype=dtype: dtype)
        precision._recommend_bfloat16.cache_clear()
        Precision()
        assert sum("--amp bf16" in line for line in messages()) == count


def test_fall_back_to_full_precision_on_a_cpu(monkeypatch, messages):
    for amp, missing, dtype in (
        ("fp16", None, "float32"),
        ("bf16", "a CPU with bfloat16", "float32"),
        ("bf16", None, "float64"),
    ):
        let_cpu_lack(monkeypatch, missing)
        monkeypatch.setattr(paddle, "get_default_dtype", lambda dtype=dtype: dtype)
        assert not Precision(amp).cpu_bf16
    warnings = [line.partition(";")[0] for line in messages() if "using float32" in line]
    assert warnings == [
        "amp fp16 requires a GPU",
        "amp bf16 requires a CPU with bfloat16",
        "amp bf16 requires weights in float32",
    ]


def test_suggest_bf16_option_by_command(monkeypatch, messages):
    let_cpu_lack(monkeypatch, None)
    for option in ("--amp", "--run.amp", "--amp"):  # once for all seeds of a command
        Precision(option=option)
    assert [line for line in messages() if "bf16" in line] == [
        f"bfloat16 available ({option} bf16); may be faster on this CPU (docs/hardware.md)"
        for option in ("--amp", "--run.amp")
    ]


def test_a_gpu_does_not_need_the_bf16_of_a_cpu(fp16, monkeypatch, messages):
    pretend_gpu(monkeypatch, 8, 0)
    let_cpu_lack(monkeypatch, "a CPU with bfloat16")
    assert not Precision("bf16").cpu_bf16
    assert "precision bf16 O1" in messages()[0]


def test_paddle_signatures():
    """The stand-ins of these tests take what Paddle's functions take."""
    for function, names in (
        (paddle.device.cuda.get_device_capability, ["device"]),
        (paddle.device.cuda.get_device_name, ["device"]),
        (paddle.amp.decorate, ["models", "optimizers", "level", "dtype", "master_weight", "master_grad"]),
        (paddle.amp.auto_cast, ["level", "dtype"]),
        (paddle.amp.GradScaler.__init__, [*LOSS_SCALING, "self", "enable"]),
    ):
        assert set(names) <= inspect.signature(function).parameters.keys()
    assert {name: getattr(FinetuneFlags(), name) for name in LOSS_SCALING} == LOSS_SCALING
    for dtype in DTYPES.values():  # the loss is computed in float32
        assert "softmax_with_cross_entropy" in amp_lists.black_list()[dtype]["O1"]


def test_masters_begin_from_the_loaded_weights(fp16, monkeypatch):
    """Neither the first step nor an export sees the rounding of the weights in half precision."""

    def decorate(model, optimizer, **options):
        model.to(dtype="bfloat16")
        model.norm.to(dtype="float32")
        monkeypatch.setattr(optimizer, "_multi_precision", True)

    monkeypatch.setattr(paddle.amp, "decorate", decorate)
    model = OneWeight()
    model.norm = nn.LayerNorm(2)
    engine = Engine(model, build_optimizer(model, 0.1), precision=Precision("bf16", "O2"))
    loaded = np.full([3, 2], 1.2345678, np.float32)
    model.weight.set_value(loaded)  # after the engine was made
    engine._decorate()
    assert model.weight.dtype == paddle.bfloat16
    masters = engine.master_weights()
    assert masters.keys() == {model.weight.name}
    exported = get_weight_arrays(model, masters)["weight"]
    assert np.array_equal(exported, loaded)
    assert (get_weight_arrays(model)["weight"] != exported).all()  # without the masters


def test_state_includes_master_weights(monkeypatch):
    """A second optimizer loads what the first one has loaded.

    Paddle then keeps the moments under the names of the master weights, not under those of the parameters.
    """
    optimizers = []
    for _ in range(2):
        model = OneWeight()
        model.to(dtype="bfloat16")
        optimizer = build_optimizer(model, 0.1)
        monkeypatch.setattr(optimizer, "_multi_precision", True)  # as paddle.amp.decorate does on a GPU
        optimizers.append((optimizer, dict(model.named_parameters())))
    state = {
        "weight/moment1": np.arange(6.0, dtype=np.float32).reshape(3, 2),
        "weight/master_weight": np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2),
    }
    keys = {*state, "weight/moment2", "weight/beta1_pow_acc", "weight/beta2_pow_acc"}
    for optimizer, parameters in optimizers:
        optimizer.load_state(parameters, state)
        loaded = {key: tensor.numpy() for key, tensor in optimizer.get_state(parameters).items()}
        assert loaded.keys() >= keys
        for key, value in state.items():
            np.testing.assert_array_equal(loaded[key], value, err_msg=key)
        state = loaded  # the second optimizer loads what the first one would save
