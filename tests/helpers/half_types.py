"""The type rules of a GPU on another device: half types, autocast, and FlashMask as a dense mask.

Paddle ignores autocast on a CPU, and only kernels of a GPU refuse numbers of different types. Within
`gpu_types`:

- Paddle says that the device is a GPU of compute capability 8.0.
- Within `paddle.amp.auto_cast` an operation gets inputs of the type that the lists of the installed Paddle
  name (paddle/amp/amp_lists.py), by the rules of paddle/fluid/eager/{amp_utils,eager_amp_auto_cast}.h.
- An operation that gets numbers of different types raises a TypeError where a GPU's kernel does.
- An operation on half types is computed in float32, and its results are rounded. So are gradients.

It says nothing of a GPU's own kernels or of time. On tests/gpu/stand_in.cc the memory is a device's.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.base.core import AmpLevel

from ernie_m.model import device_capabilities
from tests.helpers.caches import nothing_cached
from tests.helpers.flash import flashmask

auto_cast = importlib.import_module("paddle.amp.auto_cast")  # the attribute of this name is a function
HALF = (paddle.float16, paddle.bfloat16)
CAST = (*HALF, paddle.float32)  # the types that autocast changes
# Methods of tensors that C++ implements -> the operation that they do.
OPERATORS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "subtract",
    "__rsub__": "subtract",
    "__mul__": "multiply",
    "__rmul__": "multiply",
    "__truediv__": "divide",
    "__rtruediv__": "divide",
    "__pow__": "elementwise_pow",
    "__matmul__": "matmul",
    "__ge__": "greater_equal",
    "__lt__": "less_than",
}
# Operations that have other names on the lists of autocast (paddle/phi/ops/yaml/op_compat.yaml).
LISTED_NAMES = {
    "linear": "linear_v2",  # which a Paddle for GPUs calls (`F.linear`)
    "embedding": "lookup_table_v2",
    "sum": "reduce_sum",
    "mean": "reduce_mean",
    "mean_all": "mean",
    "cross_entropy_with_softmax": "softmax_with_cross_entropy",
    "p_norm": "pnorm",
    "elementwise_pow": "pow",
}
# They move numbers and change none, so a CPU does them in half types.
MOVES = {
    *("assign", "cast", "expand", "full_like", "reshape", "share_data", "slice", "split"),
    *("split_with_num", "stack", "strided_slice", "transpose", "unbind", "unstack"),
    *("view_shape", "empty_like", "zeros_like", "ones_like", "set_value", "set_value_with_tensor"),
}
# Of two types they take the wider one (paddle/phi/common/type_promotion.h).
PROMOTES = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "where", "elementwise_pow"),
    *("greater_equal", "less_than"),
}
# Their kernels take numbers of several types: half states and float32 scales, weights or rates.
MIXED = {"layer_norm", "adamw_", "check_finite_and_unscale_", "update_loss_scaling_", "cast"}


class Tracer:
    """Paddle's tracer, which says that the device is a GPU, and keeps what `paddle.amp.auto_cast` sets.

    The real one must not have it, because it would cast by the kernels that a CPU has.
    """

    _expected_place = SimpleNamespace(
        is_gpu_place=lambda: True, is_xpu_place=lambda: False, is_custom_place=lambda: False
    )
    _amp_level = AmpLevel.O0
    _amp_dtype = "float32"
    _use_promote = True

    def __init__(self):
        self._real = paddle.base.framework._dygraph_tracer()
        self._lists: tuple[set[str], set[str]] = (set(), set())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def _has_grad(self) -> bool:
        return self._real._has_grad

    @_has_grad.setter
    def _has_grad(self, value: bool) -> None:
        self._real._has_grad = value

    def _set_amp_op_list(self, *lists: set[str]) -> None:
        """Keep the operations that are computed in the half type, and those in float32."""
        self._lists = lists

    def _get_amp_op_list(self) -> tuple[set[str], set[str]]:
        return self._lists


class Card:
    """A GPU's operations on another device."""

    def __init__(self):
        self.tracer = Tracer()
        self._is_inside = False  # of an operation, which may be made of others

    def operation(self, name: str, original: Callable) -> Callable:
        """The operation with this name, as a GPU does it."""

        @functools.wraps(original)
        def do(*args: Any, **options: Any) -> Any:
            if self._is_inside:
                return original(*args, **options)
            self._is_inside = True
            try:
                return self._do(name, original, *self._cast_automatically(name, args, options))
            finally:
                self._is_inside = False

        return do

    def _cast_automatically(self, name: str, args: tuple, options: dict) -> tuple[tuple, dict]:
        """The inputs as autocast gives them to an operation; it leaves those in place alone."""
        if self.tracer._amp_level == AmpLevel.O0 or name.endswith("_") or name == "cast":
            return args, options
        white, black = self.tracer._get_amp_op_list()
        names = {name, LISTED_NAMES.get(name, name)}
        inputs = tensors((args, options))
        if name == "layer_norm":  # its scale and bias stay as they are
            inputs = inputs[:1]
        dtype = getattr(paddle, self.tracer._amp_dtype)
        if not names & white and (names & black or any(x.dtype == paddle.float32 for x in inputs)):
            dtype = paddle.float32
        if name == "layer_norm":
            return (cast(args[0], CAST, dtype), *args[1:]), options
        return cast((args, options), CAST, dtype)

    def _do(self, name: str, original: Callable, args: tuple, options: dict) -> Any:
        """Do an operation.

        Raises:
            TypeError: a GPU has no kernel for numbers of these types together.
        """
        inputs = tensors((args, options))
        types = {x.dtype for x in inputs if x.dtype in (*CAST, paddle.float64)}
        half = next((x.dtype for x in inputs if x.dtype in HALF), None)
        if half is not None and name == "adamw_":
            return update_master_by_adamw(original, *args)
        if half is None and name == "flashmask_attention":
            raise TypeError(f"{name} of {' and '.join(sorted(map(str, types)))}")
        if half is None or name in MOVES or name in MIXED - {"layer_norm"}:
            return original(*args, **options)
        if len(types) > 1 and name != "layer_norm":
            if name not in PROMOTES:
                raise TypeError(f"{name} of {' and '.join(sorted(map(str, types)))}")
            widest = paddle.float64 if paddle.float64 in types else paddle.float32
            args, options = cast((args, options), types, widest)
            return original(*args, **options)
        args, options = cast((args, options), HALF, paddle.float32)
        results = original(*args, **options)
        if name == "layer_norm" and isinstance(results, tuple | list):  # mean and variance stay in float32
            return (results[0].astype(half), *results[1:])
        results = cast(results, [paddle.float32], half)
        if name.endswith("_"):  # in place: the first input holds the first result
            with paddle.no_grad():
                paddle.assign(tensors(results)[0], output=inputs[0])
        return results

    def backward(self, original: Callable, loss: Tensor, *args: Any, **options: Any) -> None:
        """`loss.backward()`, also where gradients of half weights are float32, to which a CPU cannot add."""
        sums = {}
        for parameter in auto_cast.amp_global_state().model_parameters:
            if parameter.grad is not None and parameter.grad.dtype != parameter.dtype:
                sums[parameter] = parameter.grad.clone()
                parameter.grad = None
        original(loss, *args, **options)
        with paddle.no_grad():
            for parameter, gradient in sums.items():
                if parameter.grad is not None:
                    gradient = gradient + parameter.grad.astype(gradient.dtype)
                parameter.grad_ = gradient


def update_master_by_adamw(original: Callable, weight: Tensor, gradient: Tensor, *args: Any) -> Any:
    """AdamW of a weight in a half type: its float32 master is updated, and the weight is rounded from it."""
    *moments, master, is_infinite = args[:8]  # the learning rate is among the moments
    *options, _multi_precision, use_global_beta_pow, amsgrad = args[8:]
    options += [False, use_global_beta_pow, amsgrad]
    results = original(master, gradient.astype("float32"), *moments, None, is_infinite, *options)
    paddle.assign(master.astype(weight.dtype), output=weight)
    return results


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of tuples, lists and dictionaries."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, tuple | list):
        return [x for item in tree for x in tensors(item)]
    return [tree] if isinstance(tree, Tensor) else []


def cast(tree: Any, types: Collection[paddle.dtype], dtype: paddle.dtype) -> Any:
    """The same tuples, lists and dictionaries, whose tensors of these types have another type."""
    if isinstance(tree, tuple | list):
        return type(tree)(cast(item, types, dtype) for item in tree)
    if isinstance(tree, dict):
        return {name: cast(item, types, dtype) for name, item in tree.items()}
    is_meant = isinstance(tree, Tensor) and tree.dtype in types and tree.dtype != dtype
    return tree.astype(dtype) if is_meant else tree


def aliases() -> Iterator[tuple[ModuleType, str, str]]:
    """Where Paddle has operations: module, name there, name of the operation."""
    names = {id(value): name for name, value in vars(paddle._C_ops).items() if callable(value)}
    for module_name, module in list(sys.modules.items()):
        if module_name == "paddle._C_ops" or module_name.startswith(("paddle.tensor", "paddle.nn.")):
            for alias, value in list(vars(module).items()):
                name = names.get(id(value), "_")
                if not name.startswith("_") and not name.rstrip("_").endswith("_grad"):
                    yield module, alias, name


@pytest.fixture
def gpu_types(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device in use has the type rules of a GPU."""
    card = Card()
    for module, alias, name in list(aliases()):
        monkeypatch.setattr(module, alias, card.operation(name, getattr(module, alias)))
    for method, name in OPERATORS.items():
        monkeypatch.setattr(Tensor, method, card.operation(name, getattr(Tensor, method)))
    backward = Tensor.backward
    state = auto_cast.amp_global_state()
    for owner, name, value in (
        (F, "flashmask_attention", card.operation("flashmask_attention", flashmask)),
        (Tensor, "backward", lambda *args, **options: card.backward(backward, *args, **options)),
        # What `paddle.amp.decorate` changes for the whole process.
        *((state, "use_master_grad", False), (state, "model_parameters", []), (state, "mesh2params", {})),
        (paddle, "set_flags", lambda flags: None),  # only a Paddle for GPUs has the flag of FlashMask
        (paddle, "set_device", lambda name: None),
        (paddle.device, "get_device", lambda: "gpu:0"),
        (paddle.device.cuda, "get_device_capability", lambda: device_capabilities.AMPERE),
        (paddle.device.cuda, "get_device_name", lambda: "the stand-in"),
        (paddle.version, "cuda", lambda: "12.6"),
    ):
        monkeypatch.setattr(owner, name, value)
    for module in (auto_cast, paddle.amp.grad_scaler, paddle.base.framework, paddle.framework):
        monkeypatch.setattr(module, "_dygraph_tracer", lambda: card.tracer)
    with nothing_cached(device_capabilities.is_flash_supported):
        yield
