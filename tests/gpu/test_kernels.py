"""Single operations, attention and the loss, against the same in float64 on a CPU."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

from model import masked_loss
from model.attention import AttentionMask, FlashMask, PaddedMask, mask_class
from model.device import upload
from model.layout import Layout
from model.loss_on_gpu import ROW_MULTIPLE
from model.word_table import TableGradient
from tests.gpu import toys
from tests.gpu.bounds import BOUNDS, REPORT, Failed, compare, difference
from tests.gpu.device import AMPS, Device

HEAD_SIZE = 64
DROPOUT = 0.1
BLOCK = 256  # positions whose logits are in memory at once in the exact loss
OUTPUTS = (2, 3, 7, 9)  # of the heads: questions, XNLI, PAN-X, CoNLL
# Of held-out losses, whose logits are rounded; and of their mean.
HELD_OUT_BOUND = 1e-2
HELD_OUT_MEAN_BOUND = 3e-3
# Added to all logits: a padded word, whose logit would be 0, would then have most of the probability.
LOW_BIAS = -10.0


class Operation(NamedTuple):
    """An operation to check.

    Attributes:
        function: computes it on this device.
        exact: computes the same on a CPU, in float64.
        arrays: the inputs of both functions, float64.
    """

    function: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    arrays: Sequence[np.ndarray]


def value_and_gradients(
    function: Callable, arrays: Sequence[np.ndarray], dtype: str, place: str
) -> list[np.ndarray]:
    """function(*arrays) and its gradient by each array, for a fixed gradient of its value; float64.

    Args:
        dtype: the type to compute in.
        place: the device to compute on, such as "cpu".
    """
    device_before = paddle.device.get_device()
    paddle.set_device(place)
    try:
        inputs = [paddle.to_tensor(array).astype(dtype) for array in arrays]
        for tensor in inputs:
            tensor.stop_gradient = False
        value = function(*inputs)
        gradient_of_value = paddle.to_tensor(np.random.default_rng([toys.SEED, 5]).normal(size=value.shape))
        (value.astype("float64") * gradient_of_value).sum().backward()
        tensors = [value, *(tensor.grad for tensor in inputs)]
        return [tensor.astype("float64").numpy() for tensor in tensors]
    finally:
        paddle.set_device(device_before)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array rounded to a type, so that this rounding does not count as the operation's."""
    return paddle.to_tensor(array).astype(dtype).astype("float64").numpy()


def largest_differences(
    device: Device, operations: dict[str, Operation], advice: str, dtypes: Sequence[str] | None = None
) -> str:
    """The largest difference of the operations from float64 in each type, in words.

    Args:
        advice: what to do if it is too large.
        dtypes: the types; None: all that the device computes in.

    Raises:
        Failed: it is too large.
    """
    place = paddle.device.get_device()
    lines = []
    for dtype in dtypes or device.dtypes:
        differences = []
        for name, operation in operations.items():
            arrays = operation.arrays
            if dtype in AMPS:
                arrays = [rounded(array, dtype) for array in arrays]
            values = value_and_gradients(operation.function, arrays, dtype, place)
            exact = value_and_gradients(operation.exact, arrays, "float64", "cpu")
            case = f"{name} in {dtype}"
            differences.append(compare(case, values, exact, bound=device.bound(dtype), advice=advice))
        lines.append(f"{dtype} {max(differences):.0e}")
    return f"{', '.join(operations)} against float64: {', '.join(lines)}"


def test_operations(device, fact):
    """What a step is made of. Weights of heads have rows of only 4 to 18 bytes in half precision."""
    rng = np.random.default_rng([toys.SEED, 1])
    hidden = 32
    x = rng.normal(size=[48, hidden])
    rows = rng.integers(0, 48, 30)

    def norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, [hidden], scale, bias)

    def gather(x: Tensor) -> Tensor:
        return paddle.gather(x, paddle.to_tensor(rows))

    small = 0.005 * x  # its variance is close to the epsilon of layer norms
    operations = {  # name -> function and inputs
        "linear": (F.linear, [x, rng.normal(size=[hidden, 40]), rng.normal(size=[40])]),
        "norm": (norm, [x, rng.normal(size=[hidden]), rng.normal(size=[hidden])]),
        "norm of small numbers": (norm, [small, rng.normal(size=[hidden]), rng.normal(size=[hidden])]),
        "gelu": (F.gelu, [x]),
        "softmax": (F.softmax, [x]),
        "gather": (gather, [x]),
    }
    for outputs in OUTPUTS:
        arrays = [x, rng.normal(size=[hidden, outputs]), rng.normal(size=[outputs])]
        operations[f"head of {outputs}"] = (F.linear, arrays)
    cases = {name: Operation(function, function, arrays) for name, (function, arrays) in operations.items()}
    fact(largest_differences(device, cases, advice="do not train here"))


def test_attention(device, quick, fact):
    """Attention, against scores of all tokens by all tokens and the mask of `Layout.dense`."""
    heads = 4
    hidden = 64
    longest = 64 if quick else 512
    lengths = [length for length in (8, 33, 64, 200, 512, 9) if length <= longest]
    context_lengths = [max(1, 3 * length // 4) for length in lengths]  # the other tokens are placeholders
    layouts = {
        "full": Layout([longest, longest]),
        "packed": Layout(lengths),
        "context": Layout(lengths, context_lengths),
    }

    def dense(x: Tensor, layout: Layout) -> Tensor:
        """The exact attention. x, [N, 3 hidden], has queries, keys and values side by side."""
        query, key, value = x.reshape([len(x), 3, heads, -1]).transpose([1, 2, 0, 3])  # [heads, N, D] each
        mask = paddle.to_tensor(np.where(layout.dense(), 0.0, -np.inf))  # [N, N]
        scale = query.shape[-1] ** -0.5
        scores = paddle.matmul(query, key, transpose_y=True) * scale + mask  # [heads, N, N]
        context = paddle.matmul(F.softmax(scores, -1), value)
        return context.transpose([1, 0, 2]).reshape([len(x), hidden])

    def packed(x: Tensor, layout: Layout) -> Tensor:
        """The attention of models; x as for `dense`."""
        is_half = x.dtype in (paddle.float16, paddle.bfloat16)
        kind = FlashMask if is_half and device.has_flash_mask else mask_class()
        query, key, value = x.split(3, axis=-1)
        return upload(kind.of(layout)).attend(query, key, value, heads, dropout_rate=0.0)

    cases = {}
    for name, layout in layouts.items():
        padded = layout.padded_to(FlashMask.multiple)
        x = np.random.default_rng([toys.SEED, 4]).normal(size=[padded.tokens, 3 * hidden])
        cases[name] = Operation(partial(packed, layout=padded), partial(dense, layout=padded), [x])
    fact(largest_differences(device, cases, advice="train in float32 only"))
    fact(f"lengths 8 to {longest}")


def test_flash_mask(device, quick, fact):
    """FlashMask as models use it: their heads, full micro-batches, sequences with placeholders, dropout."""
    if not device.has_flash_mask:
        pytest.skip("no FlashMask on this device")
    fact(check_flash_mask(quick, "bfloat16"))


def check_flash_mask(quick: bool, dtype: str) -> str:
    """How far FlashMask is from padded groups, in words.

    Raises:
        Failed: it is too far from them, or its dropout is wrong.
    """
    differences = []
    # Tokens: the first fill FlashMask's blocks of 128 rows, the second need pads.
    sizes = [256, 320] if quick else [8192, 8256]
    longest = 60 if quick else 512
    numbers_of_heads = [2] if quick else [12, 16]  # base has 12, large 16
    for heads in numbers_of_heads:
        for tokens in sizes:
            layout = model_layout(tokens, longest)
            differences.append(_compare_flash_mask(layout, heads, dtype))
            check_dropout_of(upload(FlashMask.of(layout)), layout.tokens, heads, dtype)
    largest = max(differences)
    against = f"{sizes[0]} and {sizes[1]} tokens against padded groups in float32"
    return f"{against}: {largest:.0e}; its dropout is right"


def model_layout(tokens: int, longest: int) -> Layout:
    """Sequences of 8 to `longest` tokens, a third of them with placeholders, `tokens` and pads in all."""
    rng = np.random.default_rng([toys.SEED, tokens])
    lengths: list[int] = []
    while sum(lengths) < tokens:
        length = int(rng.integers(8, longest))
        lengths.append(min(length, tokens - sum(lengths)))
    context_lengths = []  # the other tokens of a sequence are placeholders
    for length in lengths:
        has_placeholders = rng.random() >= 0.67
        context_lengths.append(max(1, 3 * length // 4) if has_placeholders else length)
    return Layout(lengths, context_lengths).padded_to(FlashMask.multiple)


def _compare_flash_mask(layout: Layout, heads: int, dtype: str) -> float:
    """The largest difference of FlashMask in this type from padded groups in float32."""

    def attend(kind: type[AttentionMask], x: Tensor) -> Tensor:
        query, key, value = x.split(3, axis=-1)
        return upload(kind.of(layout)).attend(query, key, value, heads, dropout_rate=0.0)

    place = paddle.device.get_device()
    x = rounded(
        np.random.default_rng([toys.SEED, 3]).normal(size=[layout.tokens, 3 * heads * HEAD_SIZE]), dtype
    )
    values = value_and_gradients(partial(attend, FlashMask), [x], dtype, place)
    exact = value_and_gradients(partial(attend, PaddedMask), [x], "float32", place)
    name = f"FlashMask with {heads} heads and {layout.tokens} tokens"
    return compare(name, values, exact, bound=BOUNDS["bfloat16"], advice="use kernels plain")


def check_dropout_of(mask: AttentionMask, tokens: int, heads: int, dtype: str) -> None:
    """Check FlashMask's dropout.

    Equal seeds drop the same weights, values of 1 stay 1 in the mean, and forward and backward pass drop the
    same weights.

    Raises:
        Failed: one of these does not hold.
    """
    shape = [tokens, heads * HEAD_SIZE]
    query, key, value = [paddle.to_tensor(array).astype(dtype) for array in _normal(count=3, shape=shape)]

    def attend(value: Tensor) -> Tensor:
        """Attention with the dropout of seed 7."""
        paddle.seed(7)
        return mask.attend(query, key, value, heads, dropout_rate=DROPOUT)

    ones = attend(paddle.ones_like(value)).astype("float32").numpy()
    again = attend(paddle.ones_like(value)).astype("float32").numpy()
    if difference([again], [ones]) > 0.0:
        raise Failed(f"FlashMask drops other weights with the same seed; {REPORT}")
    # Its dropout has 8 bits: 0.1 is 26 of 256, which keeps 0.898 of the weights and scales them by 1 / 0.9.
    name = "the mean of ones after FlashMask's dropout"
    compare(name, [ones.mean()], [0.998], bound=2e-2, advice="use kernels plain")
    if ones.std() < 0.005:  # without dropout every output is 1
        raise Failed(f"FlashMask drops nothing at a rate of {DROPOUT}; {REPORT}")
    # out = P v with the dropped weights P, so <P^T out, v> = <out, out>.
    value.stop_gradient = False
    output = attend(value)
    output.backward(output.detach())
    backward = (value.grad.astype("float32") * value.detach().astype("float32")).sum().item()
    forward = output.detach().astype("float32").square().sum().item()
    name = "the gradient of FlashMask's dropout"
    compare(name, [backward], [forward], bound=BOUNDS["bfloat16"], advice="use kernels plain")


def _normal(count: int, shape: list[int]) -> np.ndarray:
    """Arrays of normal random numbers, [count, *shape]."""
    return np.random.default_rng([toys.SEED, 8]).normal(size=[count, *shape])


class LossInputs(NamedTuple):
    """M masked positions, more than fit into one chunk in half precision, and their exact losses."""

    words: int  # V
    x: np.ndarray  # [M, H]
    weight: np.ndarray  # the word table [V, H]
    bias: np.ndarray  # [V]
    labels: np.ndarray  # int64 [M]

    def losses(
        self, x: Tensor, weight: Tensor, bias: Tensor, loss_weights: Tensor | None = None
    ) -> masked_loss.MaskedLoss:
        """The losses as models compute them."""
        # What the loss reads of a `WordEmbeddings`.
        table = SimpleNamespace(weight=weight, gradient=TableGradient(weight), in_bfloat16=False)
        return masked_loss.cross_entropy(x, table, bias, paddle.to_tensor(self.labels), loss_weights)


def loss_inputs_of(quick: bool, patch: pytest.MonkeyPatch) -> LossInputs:
    """Masked positions, with the vocabulary of XLM-R unless shapes are tiny.

    Args:
        patch: makes chunks of tiny shapes small, until it is undone.
    """
    words = 1002 if quick else 250_002
    padded_words = math.ceil(words / ROW_MULTIPLE) * ROW_MULTIPLE
    if quick:
        for limit in ("LOGITS_BYTES", "MANY_LOGITS_BYTES"):
            patch.setattr(masked_loss, limit, 40 * padded_words * 2)  # 40 positions in half precision
    first_chunk = masked_loss.logit_chunks(1 << 16, padded_words, bytes_per_logit=2)[0]
    positions = first_chunk.stop + 8  # the second chunk has 8
    hidden = 64
    rng = np.random.default_rng([toys.SEED, 2])
    return LossInputs(
        words,
        x=rng.normal(size=[positions, hidden]),
        weight=0.2 * rng.normal(size=[words, hidden]),  # logits with a standard deviation of 0.2 sqrt(64)
        bias=LOW_BIAS + rng.normal(size=[words]),
        labels=rng.integers(0, words, positions),
    )


def test_loss(device, quick, fact, monkeypatch):
    """The masked-LM loss of two chunks of positions, with a factor for each."""
    loss_inputs = loss_inputs_of(quick, monkeypatch)
    words, x, weight, bias, labels = loss_inputs
    positions = len(x)
    # The last positions count most, so that a wrong second chunk is not lost among the others.
    factors = np.linspace(0.1, 1.9, positions) / positions
    factors[-8:] *= 5.0

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return loss_inputs.losses(x, weight, bias, paddle.to_tensor(factors)).total

    def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        losses = []
        for start in range(0, positions, BLOCK):  # logits of a block at a time are in memory
            rows = slice(start, start + BLOCK)
            arguments = (x[rows], weight, bias, paddle.to_tensor(labels[rows]))
            losses.append((recompute(_cross_entropy, *arguments) * paddle.to_tensor(factors[rows])).sum())
        return paddle.add_n(losses)

    operation = {f"loss of {positions} x {words}": Operation(loss, exact, [x, weight, bias])}
    dtypes = device.dtypes
    if device.is_card:  # float64 takes long there
        dtypes.remove("float64")
    fact(largest_differences(device, operation, advice="do not pre-train here", dtypes=dtypes))


def test_held_out_loss(device, quick, fact, monkeypatch):
    """The losses of single positions without gradients, whose softmax is in float32."""
    loss_inputs = loss_inputs_of(quick, monkeypatch)
    words, *arrays, labels = loss_inputs
    lines = []
    for dtype in device.half_types or ("float32",):
        rounded_arrays = [rounded(array, dtype) for array in arrays]
        exact_losses = []
        with paddle.no_grad():
            inputs = [paddle.to_tensor(array).astype(dtype) for array in rounded_arrays]
            losses = loss_inputs.losses(*inputs).losses.astype("float64").numpy()
        for start in range(0, len(labels), BLOCK):
            exact_losses.append(_exact_losses(rounded_arrays, labels, slice(start, start + BLOCK)))
        exact = np.concatenate(exact_losses)
        case = f"held-out losses of {len(exact)} x {words} in {dtype}"
        advice = "do not evaluate here"
        largest = compare(case, [losses], [exact], bound=HELD_OUT_BOUND, advice=advice)
        # The mean is what is logged; errors of single losses that are random do not show in it.
        mean = compare(
            f"the mean of {case}",
            [losses.mean()],
            [exact.mean()],
            bound=HELD_OUT_MEAN_BOUND,
            advice=advice,
        )
        lines.append(f"{dtype} {largest:.0e}, their mean {mean:.0e}")
    fact(f"against float64: {', '.join(lines)}")


def _exact_losses(arrays: Sequence[np.ndarray], labels: np.ndarray, rows: slice) -> np.ndarray:
    """The losses of some positions in float64 with NumPy."""
    x, weight, bias = arrays
    logits = x[rows] @ weight.T + bias
    highest = logits.max(axis=1, keepdims=True)
    log_sums = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return log_sums - logits[np.arange(len(logits)), labels[rows]]


def _cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """The definition of the losses."""
    logits = paddle.matmul(x, weight, transpose_y=True) + bias
    return F.cross_entropy(logits, labels, reduction="none")
