"""A CPU that stands in for a GPU: half types that are real, autocast, FlashMask, and copies that are counted.

A CPU has tensors of float16 and bfloat16, but few operations on them. While a stand-in is installed:

- An operation on half types is computed in float32, and its results are rounded. So are gradients.
- Within `paddle.amp.auto_cast`, which Paddle ignores on a CPU, an operation gets inputs of the type that the
  lists of the installed Paddle name (paddle/amp/amp_lists.py), by the rules of
  paddle/fluid/eager/{amp_utils,eager_amp_auto_cast}.h.
- From compute capability 8.0 on, products of float32 numbers have TF32's 10 bits, but not their gradients.
- An operation that gets numbers of different types raises an error, where Paddle's kernel for GPUs would.
- `flashmask_attention` is that of `tests/helpers/flash.py`.
- Operations, and copies from and to the device, are listed. Those that kernels make are among them.
- Paddle says that the device is a GPU.

It says nothing of the numbers of a GPU's own kernels, of time or memory, nor of NCCL.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device
from tests.helpers import flash, profiling

amp = importlib.import_module("paddle.amp.auto_cast")  # the attribute of this name is a function
HALF = (paddle.float16, paddle.bfloat16)
CAST = (*HALF, paddle.float32)  # the types that autocast changes
UPLOAD = ("Memcpy", "MEMCPY_HtoD")  # as a profiler shows it
READ = ("Memcpy", "MEMCPY_DtoH")
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
    "__eq__": "equal",
    "__ne__": "not_equal",
    "__lt__": "less_than",
    "__le__": "less_equal",
    "__gt__": "greater_than",
    "__ge__": "greater_equal",
}
# Operations that have other names on the lists of autocast (paddle/phi/ops/yaml/op_compat.yaml).
LISTED_NAMES = {
    "linear": "linear_v2",  # which a Paddle for GPUs calls (`F.linear`)
    "embedding": "lookup_table_v2",
    "sum": "reduce_sum",
    "mean": "reduce_mean",
    "mean_all": "mean",
    "prod": "reduce_prod",
    "cross_entropy_with_softmax": "softmax_with_cross_entropy",
    "p_norm": "pnorm",
    "elementwise_pow": "pow",
}
PRODUCTS = ("matmul", "linear")
# They move numbers and change none, so a CPU does them in half types.
MOVES = {
    *("assign", "cast", "expand", "full_like", "reshape", "share_data", "slice", "split"),
    *("split_with_num", "stack", "strided_slice", "transpose", "unbind", "unstack"),
    *("view_shape", "empty_like", "zeros_like", "ones_like", "set_value", "set_value_with_tensor"),
}
# Of two types they take the wider one (paddle/phi/common/type_promotion.h).
PROMOTES = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "where", "elementwise_pow"),
    *("equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal"),
}
# Their kernels take numbers of several types: half states and float32 scales, weights or rates.
MIXED = {"layer_norm", "adamw_", "check_finite_and_unscale_", "update_loss_scaling_"}


class Card(NamedTuple):
    """A card to stand in for."""

    name: str
    capability: tuple[int, int]  # the compute capability
    memory: int  # bytes


A100 = Card("NVIDIA A100-SXM4-80GB", (8, 0), 80 << 30)
V100 = Card("Tesla V100-SXM2-16GB", (7, 0), 16 << 30)


class StandIn:
    """What happens on a CPU that stands in for a card.

    Attributes:
        events: (category, name) of operations and copies since the start, as a profiler shows them.
        half_results: the number of tensors in half types that operations have returned.
    """

    def __init__(self, card: Card):
        self.has_tf32 = card.capability >= device.AMPERE
        self.place = "gpu:0"  # or "cpu", after paddle.set_device("cpu")
        self.events: list[tuple[str, str]] = []
        self.half_results = 0
        self.tracer = Tracer()
        self._is_inside = False  # of what the stand-in itself computes

    @property
    def is_on(self) -> bool:
        """Whether operations are those of the card."""
        return self.place != "cpu" and not self._is_inside

    def set_device(self, name: str) -> None:
        """`paddle.set_device`."""
        self.place = "gpu:0" if name.startswith("gpu") else name

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within it operations are those of the CPU."""
        was_inside = self._is_inside
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = was_inside

    def wrapped(self, name: str, original: Callable) -> Callable:
        """The operation with this name, as the card does it."""

        @functools.wraps(original)
        def operation(*args: Any, **options: Any) -> Any:
            return self.do(name, original, args, options) if self.is_on else original(*args, **options)

        return operation

    def do(self, name: str, original: Callable, args: tuple, options: dict[str, Any]) -> Any:
        """Do an operation as the card does it.

        Raises:
            TypeError: the card has no kernel for numbers of these types together.
        """
        with self.inside():
            self.events.append(("Kernel", name))
            if name == "check_finite_and_unscale_":
                self.events += [UPLOAD, UPLOAD]  # the addresses of the arrays, and their sizes
            args, options = self._autocast(name, args, options)
            types = {x.dtype for x in _tensors((args, options)) if x.dtype in (*CAST, paddle.float64)}
            half = types & set(HALF)
            if half and len(types) > 1 and name not in MIXED and name != "cast":
                if name not in PROMOTES:
                    raise TypeError(f"{name} of {' and '.join(sorted(map(str, types)))}")
                widest = paddle.float64 if paddle.float64 in types else paddle.float32
                args, options = _map_tensors(lambda x: _cast(x, types, widest), (args, options))
            elif half and name == "adamw_":
                return _adamw_of_master(original, *args)
            elif half and name not in MOVES:
                return self._rounded(name, original, args, options)
            elif name in PRODUCTS and self.has_tf32:
                args = _map_tensors(_to_tf32, args)
            results = original(*args, **options)
            self._count(results)
            return results

    def _rounded(self, name: str, original: Callable, args: tuple, options: dict[str, Any]) -> Any:
        """Do an operation in float32, and round its results to the half type of its first half input."""
        inputs = list(_tensors((args, options)))
        half = next(x.dtype for x in inputs if x.dtype in HALF)
        args_in_float32, options = _map_tensors(lambda x: _cast(x, HALF, paddle.float32), (args, options))
        results = original(*args_in_float32, **options)
        if name == "layer_norm":  # the mean and the variance stay in float32
            first, *further = results if isinstance(results, tuple | list) else [results]
            first = first.astype(half)
            results = (first, *further) if further else first
        else:
            results = _map_tensors(lambda x: _cast(x, [paddle.float32], half), results)
        if name.endswith("_"):  # in place: the first input holds the first result
            first = next(_tensors(results))
            with paddle.no_grad():
                paddle.assign(first, output=inputs[0])
        self._count(results)
        return results

    def _count(self, results: Any) -> None:
        self.half_results += sum(x.dtype in HALF for x in _tensors(results))

    def _autocast(self, name: str, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The inputs as autocast gives them to an operation; it leaves those in place alone."""
        is_off = self.tracer._amp_level == paddle.base.core.AmpLevel.O0
        if is_off or name.endswith("_") or name == "cast":
            return args, options
        half = getattr(paddle, self.tracer._amp_dtype)
        listed_name = LISTED_NAMES.get(name, name)
        inputs = list(_tensors((args, options)))
        if name == "layer_norm":  # its scale and bias stay as they are
            inputs = inputs[:1]
        if listed_name in self.tracer.white or name in self.tracer.white:
            dtype = half
        elif listed_name in self.tracer.black or any(x.dtype == paddle.float32 for x in inputs):
            dtype = paddle.float32
        else:
            dtype = half
        if name == "layer_norm":
            return (_cast(args[0], CAST, dtype), *args[1:]), options
        return _map_tensors(lambda x: _cast(x, CAST, dtype), (args, options))

    def attention(self, query, key, value, startend_row_indices, dropout=0.0, **options) -> Tensor:
        """`F.flashmask_attention`, in a half type. Its backward pass drops the same weights."""
        types = {x.dtype for x in (query, key, value)}
        if len(types) > 1 or not types <= set(HALF):
            raise TypeError(f"flashmask_attention of {' and '.join(sorted(map(str, types)))}")
        self.half_results += 1
        return Attention.apply(query, key, value, startend_row_indices, dropout, self)

    def to_tensor(self, original: Callable, data: Any, *args: Any, **options: Any) -> Tensor:
        """`paddle.to_tensor`, which copies what is on the host."""
        if self.is_on and not isinstance(data, Tensor):
            self.events.append(UPLOAD)
        with self.inside():
            return original(data, *args, **options)

    def read(self, original: Callable, x: Tensor, *args: Any) -> Any:
        """A tensor's value on the host."""
        if self.is_on:
            self.events.append(READ)
        return original(x, *args)

    def backward(self, original: Callable, loss: Tensor, *args: Any, **options: Any) -> None:
        """`loss.backward()`, also where gradients of half weights are float32, to which a CPU cannot add."""
        sums = {}
        for parameter in amp.amp_global_state().model_parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.dtype != parameter.dtype:
                sums[parameter] = gradient.clone()
                parameter.grad = None
        original(loss, *args, **options)
        with self.inside(), paddle.no_grad():
            for parameter, gradient in sums.items():
                if parameter.grad is not None:
                    gradient = gradient + parameter.grad.astype(gradient.dtype)
                parameter.grad_ = gradient

    def profiled(self, work: Callable[[], object]) -> list[tuple[str, str]]:
        """As `tests.helpers.profiling.profiled`."""
        before = len(self.events)
        work()
        return self.events[before:]


class Tracer:
    """Paddle's tracer, which says that the device is a GPU, and keeps what `paddle.amp.auto_cast` sets.

    The real one must not have it, because it would cast by the kernels that a CPU has.
    """

    _expected_place = SimpleNamespace(
        is_gpu_place=lambda: True, is_xpu_place=lambda: False, is_custom_place=lambda: False
    )

    def __init__(self):
        self._real = paddle.base.framework._dygraph_tracer()
        self._amp_level = paddle.base.core.AmpLevel.O0
        self._amp_dtype = "float32"
        self._use_promote = True
        self.white: set[str] = set()  # the operations that autocast computes in the half type
        self.black: set[str] = set()  # and in float32

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def _has_grad(self) -> bool:
        return self._real._has_grad

    @_has_grad.setter
    def _has_grad(self, value: bool) -> None:
        self._real._has_grad = value

    def _set_amp_op_list(self, white: set[str], black: set[str]) -> None:
        self.white = set(white)
        self.black = set(black)

    def _get_amp_op_list(self) -> tuple[set[str], set[str]]:
        return self.white, self.black


class Attention(PyLayer):
    """FlashMask on queries, keys and values in a half type, [1, N, heads, D] each."""

    @staticmethod
    def forward(ctx, query, key, value, startend_row_indices, dropout, stand_in: StandIn):
        assert startend_row_indices.dtype == paddle.int32 and query.shape[1] % 128 == 0
        stand_in.events.append(("Kernel", "flash_fwd_kernel"))
        with stand_in.inside():
            inputs = [x.astype("float32").transpose([0, 2, 1, 3]) for x in (query, key, value)]
            weights = flash.attention_weights(inputs[0], inputs[1], startend_row_indices)  # [1, heads, N, N]
            factors = flash.dropout_factors(weights.shape, dropout)
            # The kernel multiplies values by weights in the half type.
            dropped = (weights * factors).astype(query.dtype).astype("float32")
            output = paddle.matmul(dropped, inputs[2]).transpose([0, 2, 1, 3])
        ctx.stand_in = stand_in
        ctx.saved = (*inputs, weights, factors)
        ctx.has_gradient = [not x.stop_gradient for x in (query, key, value)]
        return output.astype(query.dtype)

    @staticmethod
    def backward(ctx, gradient):
        # The kernel copies its seed (flash_attn_bwd in csrc/capi/flash_attn.cu).
        ctx.stand_in.events += [("Kernel", "flash_bwd_kernel"), UPLOAD]
        query, key, value, weights, factors = ctx.saved
        # Not by `paddle.grad`, which would take the end of this backward pass for its own.
        with ctx.stand_in.inside():
            of_output = gradient.astype("float32").transpose([0, 2, 1, 3])  # [1, heads, N, D]
            of_weights = paddle.matmul(of_output, value, transpose_y=True) * factors
            of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
            of_scores = of_scores * query.shape[-1] ** -0.5
            gradients = [
                paddle.matmul(of_scores, key),
                paddle.matmul(of_scores, query, transpose_x=True),
                paddle.matmul(weights * factors, of_output, transpose_x=True),
            ]
            gradients = [x.transpose([0, 2, 1, 3]).astype(gradient.dtype) for x in gradients]
        return *(x if has else None for x, has in zip(gradients, ctx.has_gradient)), None  # none of the mask


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tuples, lists and dictionaries with function(tensor) for each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_map_tensors(function, item) for item in tree)
    if isinstance(tree, dict):
        return {name: _map_tensors(function, item) for name, item in tree.items()}
    return tree


def _cast(x: Tensor, types: Any, dtype: paddle.dtype) -> Tensor:
    """x in this type, if its own is among the types."""
    return x.astype(dtype) if x.dtype in types and x.dtype != dtype else x


def _to_tf32(x: Tensor) -> Tensor:
    """x with 10 bits of mantissa, if it is a matrix in float32. The gradient is that of x."""
    if x.dtype != paddle.float32 or x.ndim < 2:
        return x
    # Adding a multiple of x and taking it away again rounds x to 24 - 13 bits (Dekker).
    multiple = x.detach() * (2.0**13 + 1.0)
    rounded = multiple - (multiple - x.detach())
    return x + (rounded - x.detach())


def _adamw_of_master(original: Callable, *args: Any) -> Any:
    """AdamW of a weight in a half type: its float32 master is updated, and the weight is rounded from it."""
    weight, gradient, rate, moment1, moment2, moment2_max, power1, power2, master, is_infinite, *options = (
        args
    )
    gradient = gradient.astype("float32")
    options[-3] = False  # multi-precision
    results = original(
        master, gradient, rate, moment1, moment2, moment2_max, power1, power2, None, is_infinite, *options
    )
    paddle.assign(master.astype(weight.dtype), output=weight)
    return results


@functools.cache
def _aliases() -> list[tuple[ModuleType, str, str]]:
    """Where Paddle has operations: module, name there, name of the operation."""
    names = {}
    for name in dir(paddle._C_ops):
        if not name.startswith("_") and name != "core" and not name.rstrip("_").endswith("_grad"):
            names[id(getattr(paddle._C_ops, name))] = name
    places = []
    for module_name, module in list(sys.modules.items()):
        is_eager = module_name == "paddle._C_ops" or module_name.startswith(("paddle.tensor", "paddle.nn."))
        if is_eager and module is not None:
            for alias, value in vars(module).items():
                if id(value) in names:
                    places.append((module, alias, names[id(value)]))
    return places


@contextlib.contextmanager
def installed(card: Card = A100) -> Iterator[StandIn]:
    """Within it this CPU stands in for a card."""
    stand_in = StandIn(card)
    flags = {device.FLASH_VERSION: 2}
    get_flags = paddle.get_flags
    set_flags = paddle.set_flags
    on_cpu = device.on_cpu

    def set_own_flags(values: dict[str, Any]) -> None:
        flags.update({key: value for key, value in values.items() if key in flags})
        set_flags({key: value for key, value in values.items() if key not in flags})

    def get_own_flags(names: list[str]) -> dict[str, Any]:
        return {key: flags[key] for key in names} if set(names) <= set(flags) else get_flags(names)

    with pytest.MonkeyPatch.context() as patch:
        for module, alias, operation in _aliases():
            patch.setattr(module, alias, stand_in.wrapped(operation, getattr(module, alias)))
        for method, operation in OPERATORS.items():
            patch.setattr(Tensor, method, stand_in.wrapped(operation, getattr(Tensor, method)))
        for method in ("numpy", "_getitem_from_offset"):
            patch.setattr(Tensor, method, _method(stand_in.read, getattr(Tensor, method)))
        patch.setattr(Tensor, "backward", _method(stand_in.backward, Tensor.backward))
        patch.setattr(paddle, "to_tensor", functools.partial(stand_in.to_tensor, paddle.to_tensor))
        patch.setattr(F, "flashmask_attention", stand_in.attention)
        patch.setattr(profiling, "profiled", stand_in.profiled)
        for module in (amp, paddle.amp.grad_scaler, paddle.base.framework):
            patch.setattr(module, "_dygraph_tracer", lambda: stand_in.tracer)
        for module in (paddle, paddle.device):
            patch.setattr(module, "get_device", lambda: stand_in.place, raising=False)
            patch.setattr(module, "set_device", stand_in.set_device, raising=False)
        # `paddle.amp.decorate` would leave these to what follows.
        for attribute, value in (("use_master_grad", False), ("model_parameters", []), ("mesh2params", {})):
            patch.setattr(amp.amp_global_state(), attribute, value)
        patch.setattr(amp.amp_global_state(), "already_classify_params_meshes", False)
        patch.setattr(paddle, "get_flags", get_own_flags)
        patch.setattr(paddle, "set_flags", set_own_flags)
        patch.setattr(paddle.version, "cuda", lambda: "12.6")
        patch.setattr(paddle.version, "cuda_archs", lambda: [70, 75, 80, 86, 89, 90])
        patch.setattr(paddle.device, "synchronize", lambda: None)
        patch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
        cuda = paddle.device.cuda
        patch.setattr(cuda, "get_device_capability", lambda: card.capability)
        patch.setattr(cuda, "get_device_name", lambda: card.name)
        patch.setattr(cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=card.memory))
        patch.setattr(cuda, "device_count", lambda: 1)
        patch.setattr(cuda, "reset_max_memory_allocated", lambda: None)
        patch.setattr(cuda, "max_memory_allocated", lambda: 0)
        patch.setattr(device, "on_cpu", lambda x: stand_in.place == "cpu" and on_cpu(x))
        for cached in (device.memory, device.flash_works):
            cached.cache_clear()
        try:
            yield stand_in
        finally:
            for cached in (device.memory, device.flash_works):
                cached.cache_clear()


def _method(function: Callable, original: Callable) -> Callable:
    """A method of tensors: function(original, tensor, ...)."""
    return lambda *args, **options: function(original, *args, **options)
