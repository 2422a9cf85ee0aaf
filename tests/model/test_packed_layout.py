"""Packed sequences: the same values and gradients as in the padded layout of tests/helpers/plain_model.py."""

import inspect
import re

import numpy as np
import paddle
import pytest

from ernie_m.model import device_capabilities, kernel_selection
from ernie_m.model.attention import FlashMask, PaddedMask, select_mask_class
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.batches import compute_as_on_a_gpu, packed_batch, padded_batch
from tests.helpers.flash import flashmask, visible
from tests.helpers.gradients import compute_gradients
from tests.helpers.kernels import CpuMask, needs_mkl
from tests.helpers.plain_model import PlainErnieM, in_plain_paddle, padded
from tests.toys import small_config

CONFIG = small_config()
# Lengths of the sequences and of their contexts; None: all context, without placeholders.
LAYOUTS = {
    "one token": ([1], None),
    "alone": ([9], None),
    "alone with placeholders": ([9], [4]),
    "1 to 512": ([1, 512, 3, 64, 65, 200, 9, 64], None),
    "placeholders in some": ([1, 120, 3, 64, 65, 63, 9], [1, 80, 1, 64, 33, 63, 8]),
}
MASKS = [pytest.param(CpuMask, marks=needs_mkl), PaddedMask, FlashMask]


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=MASKS)
def mask(request, monkeypatch):
    """What computes attention: a CPU's code, Paddle's operations, or a stand-in for the kernel of a GPU."""
    if request.param is not CpuMask:
        compute_as_on_a_gpu(monkeypatch, request.param)
    monkeypatch.setattr("paddle.nn.functional.flashmask_attention", flashmask)
    return request.param


def layout_and_ids(name: str) -> tuple[PackedLayout, np.ndarray]:
    """One of LAYOUTS, and random ids for it, [N]."""
    lengths, context_lengths = LAYOUTS[name]
    return PackedLayout(lengths, context_lengths), np.random.default_rng(1).integers(4, 40, sum(lengths))


def random(*shape: int) -> paddle.Tensor:
    """Random numbers, the same for each call with a shape."""
    return paddle.to_tensor(np.random.default_rng(2).standard_normal(shape))


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_hidden_states_and_gradients(mask, name):
    model = ErnieMModel(CONFIG)
    plain = PlainErnieM(CONFIG)
    plain.set_state_dict(model.state_dict())
    layout, ids = layout_and_ids(name)
    batch = packed_batch(ids, layout)
    bias = random(len(batch.input_ids), 12)
    output = model.encode(batch, input_bias=bias, output_hidden_states=True)
    expected = in_plain_paddle(plain, ids, layout, input_bias=bias[: layout.tokens])
    for a, b in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert a.shape == b.shape and np.abs((a - b).numpy()).max() < 1e-9
    pooled = model.pooler(paddle.gather(output.sequence, batch.first_tokens))
    assert np.abs((pooled - expected.pooled).numpy()).max() < 1e-9
    weights = random(layout.tokens, 12)
    gradients = compute_gradients(model, (output.sequence * weights).mean() + pooled.mean())
    assert len(gradients) == 4 + 16 * 2 + 2  # two tables and a norm, two layers, the pooler
    value = (expected.sequence * weights).mean() + expected.pooled.mean()
    assert_equal_arrays(gradients, compute_gradients(plain, value), 1e-9)


def test_attentions_weight_the_values():
    """Attention adds up the values of each head by them; pads weigh nothing."""
    model = ErnieMModel(CONFIG)
    batch = padded_batch([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1]])
    output = model.encode(batch, output_hidden_states=True, output_attentions=True)
    assert len(output.attentions) == CONFIG.num_hidden_layers
    for layer, x, weights in zip(model.encoder.layers, output.hidden_states, output.attentions):
        assert weights[1, :, :, 3:].max() < 1e-20
        values = layer.self_attn.v_proj(batch.to_padded(x)).reshape([2, 5, CONFIG.num_attention_heads, -1])
        added_up = paddle.matmul(weights, values.transpose([0, 2, 1, 3])).transpose([0, 2, 1, 3]).flatten(2)
        expected = batch.to_padded(layer.self_attn(x, batch.mask))
        difference = (layer.self_attn.out_proj(added_up) - expected).numpy()
        assert np.abs(difference[~batch.get_padding_mask().numpy()]).max() < 1e-12


@needs_mkl
@pytest.mark.parametrize("name", ["1 to 512", "placeholders in some"])
def test_gradients_are_equal_with_and_without_mkl(monkeypatch, name):
    """Padded groups next to the other kernels of a CPU: of the layers, of the masked-LM loss, and of sums."""
    model = PreTrainingModel(CONFIG, ["en"])
    layout, ids = layout_and_ids(name)
    cell_to_token = padded(np.arange(layout.tokens), layout.lengths, layout.tokens)
    positions = paddle.to_tensor([0, 4, 5, 80, layout.tokens - 1])
    labels = paddle.to_tensor([7, 0, 39, 7, 20])

    def step() -> tuple[type[AttentionMask], float, dict[str, np.ndarray]]:
        batch = packed_batch(ids, layout, cell_to_token=cell_to_token)
        states = model.encode(batch)
        loss = model.lm_head.loss(paddle.gather(states, positions), labels).total
        sums = batch.sum_sequences(states, (~batch.get_padding_mask()).astype("float64"))
        value = loss + (sums * random(*sums.shape)).sum()
        return type(batch.mask), value.item(), compute_gradients(model, value)

    kind, value, gradients = step()
    monkeypatch.setattr("ernie_m.model.cpu.mkl.is_supported", lambda: False)
    kind_without, value_without, gradients_without = step()
    assert (kind, kind_without) == (CpuMask, PaddedMask)
    assert value_without == pytest.approx(value, rel=1e-12)
    assert_equal_arrays(gradients_without, gradients, 1e-9)


@pytest.mark.parametrize("layers", [None, 0])  # all, or the embeddings alone
@pytest.mark.parametrize("recompute", [False, True])
def test_the_last_layer_at_some_positions_only_is_the_same_there(mask, layers, recompute):
    model = ErnieMModel(CONFIG)
    model.set_recompute(recompute)
    layout, ids = layout_and_ids("placeholders in some")
    batch = packed_batch(ids, layout)
    positions = paddle.to_tensor([1, 4, 5, 80, 324])  # of 325 tokens
    weights = random(5, 12)
    everywhere = paddle.gather(model.encode(batch, layers=layers).sequence, positions)
    expected = compute_gradients(model, (everywhere * weights).sum())
    some = model.encode(batch, positions, layers=layers).sequence
    assert np.abs((some - everywhere).numpy()).max() < 1e-9
    assert_equal_arrays(compute_gradients(model, (some * weights).sum()), expected, 1e-9)


@pytest.mark.parametrize("head", [SequenceClassifier, TokenClassifier, SpanClassifier])
@pytest.mark.parametrize("name", ["alone", "1 to 512"])
def test_task_heads(head, name):
    """Logits and gradients on arrays with pads. For a head, the state of a pad is 0."""
    model = head(CONFIG) if head is SpanClassifier else head(CONFIG, 5)
    plain = PlainErnieM(CONFIG)
    plain.set_state_dict(model.ernie_m.state_dict())
    layout, ids = layout_and_ids(name)
    array = padded(ids, layout.lengths, 1)
    logits = model(padded_batch(array))
    if head is SpanClassifier:  # (start, end), [B, T] each
        logits = paddle.stack(logits, axis=-1)
    output = plain(paddle.to_tensor(array))
    is_real = paddle.to_tensor((array != 1)[..., None].astype(float))
    states = output.pooled if head is SequenceClassifier else output.sequence * is_real
    expected = paddle.matmul(states, model.classifier.weight.detach()) + model.classifier.bias.detach()
    assert logits.shape == expected.shape and np.abs((logits - expected).numpy()).max() < 1e-9
    weights = random(*logits.shape)
    gradients = compute_gradients(model.ernie_m, (logits * weights).mean())
    expected_gradients = compute_gradients(plain, (expected * weights).mean())
    assert gradients
    assert_equal_arrays(gradients, {name: expected_gradients[name] for name in gradients}, 1e-9)


def test_nothing_crosses_between_sequences(mask):
    """By gradient: a token is reached by its sequence's context and by itself, exactly."""
    model = ErnieMModel(CONFIG)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    layout = PackedLayout([3, 6, 1, 5], [3, 4, 1, 2])
    batch = packed_batch(np.arange(4, 19), layout)
    bias = paddle.zeros([len(batch.input_ids), 12])
    bias.stop_gradient = False
    states = model.encode(batch, input_bias=bias).sequence
    for token, is_seen in enumerate(layout.to_dense_mask()):
        (gradient,) = paddle.grad((states[token] ** 3).sum(), bias, retain_graph=True)
        sizes = np.abs(gradient.numpy()[: layout.tokens]).max(-1)  # the largest of each token's H numbers
        # Paddle's own softmax on a CPU gives a masked column up to exp(-64); those of a GPU give 0.
        assert np.array_equal(sizes > (0 if mask is CpuMask else 1e-20), is_seen), token


def test_mask_equals_the_docstring_diagram():
    """Its rows begin with a token, such as M2; "1" is visible, "." is not."""
    rows = re.findall(r"^ +[xMy]\d  +((?:[1.|] *)+)$", PackedLayout.__doc__, re.M)
    drawing = [[cell == "1" for cell in row if cell in "1."] for row in rows]
    assert np.array_equal(PackedLayout([5, 3], [3, 3]).to_dense_mask(), drawing)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_gpus_row_indices_show_what_the_mask_shows(name):
    layout, _ = layout_and_ids(name)
    filled = layout.pad_to_multiple(64)
    assert filled.tokens % 64 == 0 and filled.tokens - layout.tokens < 64
    is_visible = visible(filled.row_indices()[None, None])
    assert np.array_equal(is_visible, filled.to_dense_mask())
    assert np.array_equal(is_visible[: layout.tokens, : layout.tokens], layout.to_dense_mask())
    assert not is_visible[: layout.tokens, layout.tokens :].any()


def test_the_stand_in_takes_what_flashmask_takes():
    parameters = inspect.signature(paddle.nn.functional.flashmask_attention).parameters
    of_stand_in = inspect.signature(flashmask).parameters
    assert list(of_stand_in)[:4] == list(parameters)[:4] and of_stand_in.keys() <= parameters.keys()
    assert parameters["causal"].default is False and parameters["training"].default is True


@pytest.mark.parametrize(
    ("on_gpu", "capability", "autocast", "expected"),
    [
        pytest.param(False, None, False, CpuMask, marks=needs_mkl),
        (True, (8, 0), False, PaddedMask),
        (True, (7, 5), True, PaddedMask),
        (True, (8, 0), True, FlashMask),
        (True, (9, 0), True, FlashMask),
    ],
)
def test_mask_type_per_device(monkeypatch, on_gpu, capability, autocast, expected):
    """FlashMask needs half precision and a GPU of capability 8.0 or higher on which it works.

    Plain kernels have padded groups on every device.
    """
    monkeypatch.setattr(kernel_selection, "is_on_gpu", lambda: on_gpu)
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(paddle.amp, "is_autocast_enabled", lambda: autocast)
    monkeypatch.setattr(device_capabilities, "is_flash_supported", lambda head_size: True)
    assert select_mask_class() is expected
    monkeypatch.setattr(device_capabilities, "is_flash_supported", lambda head_size: False)
    assert select_mask_class() is (PaddedMask if on_gpu else CpuMask)
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    assert select_mask_class() is PaddedMask
