"""Sequences in one row of tokens: the same values and gradients as the padded form (tests/helpers)."""

import inspect
import re

import numpy as np
import paddle
import pytest

from model import attention
from model.attention import Layout, SelfAttention
from model.ernie_m import ErnieMConfig, ErnieMModel
from model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from tests.helpers.plain_model import PlainErnieM, in_plain_paddle

CONFIG = ErnieMConfig(
    vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, initializer_range=0.3,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
# Lengths and contexts: one sequence alone, one token, all lengths, with and without placeholders.
LAYOUTS = {
    "one token": ([1], None),
    "alone": ([9], None),
    "alone with placeholders": ([9], [4]),
    "1 to 512": ([1, 512, 3, 64, 65, 200, 9, 64], None),
    "placeholders in some": ([1, 120, 3, 64, 65, 63, 9], [1, 80, 1, 64, 33, 63, 8]),
}
FORMS = ("cpu", "rectangles", "flash")


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def use(monkeypatch):
    """Chooses what computes attention: a CPU's, Paddle's calls of any device, or the kernel of a GPU."""

    def choose(form: str) -> None:
        if form != "cpu":
            monkeypatch.setattr("model.attention.on_cpu", lambda x: False)
            monkeypatch.setattr("model.ernie_m.on_cpu", lambda x: False)
        monkeypatch.setattr(attention, "has_flash", lambda x: form == "flash")
        monkeypatch.setattr("paddle.nn.functional.flashmask_attention", flashmask)

    return choose


def opened(row_indices: np.ndarray) -> np.ndarray:
    """What `startend_row_indices` [1, 1, N, 2] leave open with causal=False, by Paddle's documentation."""
    start, end = row_indices[0, 0].T
    row, column = np.indices([len(start)] * 2)
    return ~(((row > column) & (row >= start)) | ((row < column) & (row < end)))


def flashmask(query, key, value, startend_row_indices, dropout=0.0, causal=False, training=True):
    """A stand-in: [1, N, heads, D], as `paddle.nn.functional.flashmask_attention` is documented."""
    assert startend_row_indices.dtype == paddle.int32 and not causal
    assert query.shape[1] % 64 == 0
    seen = paddle.to_tensor(opened(startend_row_indices.numpy()))
    query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
    scores = paddle.matmul(query, key, transpose_y=True) * query.shape[-1] ** -0.5
    weights = paddle.nn.functional.softmax(paddle.where(seen, scores, paddle.full_like(scores, -np.inf)))
    return paddle.matmul(weights, value).transpose([0, 2, 1, 3])


def layout_and_ids(name: str) -> tuple[Layout, np.ndarray]:
    lengths, contexts = LAYOUTS[name]
    return Layout(lengths, contexts), np.random.default_rng(1).integers(4, 40, sum(lengths))


def gradients(model, value) -> dict[str, np.ndarray]:
    value.backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def assert_equal_gradients(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert np.abs(gradient - theirs[name]).max() < 1e-9, name


def random(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(2).standard_normal(shape))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_all_hidden_states_and_gradients(use, form, name):
    model, plain = ErnieMModel(CONFIG), PlainErnieM(CONFIG)
    plain.set_state_dict(model.state_dict())
    use(form)
    (layout, ids), weights = layout_and_ids(name), random(sum(LAYOUTS[name][0]), 12)
    bias = weights[::-1] if form != "flash" else None
    ours = model(paddle.to_tensor(ids), None, layout, bias, output_hidden_states=True)
    theirs = in_plain_paddle(plain, ids, layout, input_bias=bias)
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert a.shape == b.shape and np.abs((a - b).numpy()).max() < 1e-9
    assert np.abs((ours.pooled - theirs.pooled).numpy()).max() < 1e-9
    values = [(x.sequence * weights).mean() + x.pooled.mean() for x in (ours, theirs)]
    found = list(map(gradients, (model, plain), values))
    assert_equal_gradients(*found)
    assert len(found[0]) == 4 + 16 * 2 + 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [None, 0])
@pytest.mark.parametrize("again", [False, True])
def test_the_last_layer_at_some_positions_only_is_the_same_there(use, form, layers, again):
    model = ErnieMModel(CONFIG)
    model.recompute = again
    use(form)
    layout, ids = layout_and_ids("placeholders in some")
    ids, wanted, weights = paddle.to_tensor(ids), paddle.to_tensor([1, 4, 5, 80, 324]), random(5, 12)
    options = {"layout": layout, "layers": layers, "pool": False}
    everywhere = paddle.gather(model(ids, **options).sequence, wanted)
    by_all = gradients(model, (everywhere * weights).sum())
    some = model(ids, **options, positions=wanted).sequence
    assert np.abs((some - everywhere).numpy()).max() < 1e-9
    assert_equal_gradients(gradients(model, (some * weights).sum()), by_all)


@pytest.mark.parametrize("head", [SequenceClassifier, TokenClassifier, SpanClassifier])
@pytest.mark.parametrize("name", ["alone", "1 to 512"])
def test_the_heads_of_the_tasks(head, name):
    model = head(CONFIG) if head is SpanClassifier else head(CONFIG, 5)
    plain = PlainErnieM(CONFIG)
    plain.set_state_dict(model.ernie_m.state_dict())
    layout, ids = layout_and_ids(name)
    ours = model(paddle.to_tensor(ids), None, layout)
    ours = paddle.stack(ours, axis=-1) if isinstance(ours, tuple) else ours
    found = in_plain_paddle(plain, ids, layout)
    states = found.pooled if head is SequenceClassifier else found.sequence
    theirs = paddle.matmul(states, model.classifier.weight.detach()) + model.classifier.bias.detach()
    assert ours.shape == theirs.shape and np.abs((ours - theirs).numpy()).max() < 1e-9
    weights = random(*ours.shape)
    by_ours = gradients(model.ernie_m, (ours * weights).mean())
    by_theirs = gradients(plain, (theirs * weights).mean())
    assert_equal_gradients(by_ours, {name: by_theirs[name] for name in by_ours})


@pytest.mark.parametrize("form", FORMS)
def test_nothing_crosses_between_sequences(use, form):
    """By gradient: a token is reached by its sequence's context and by itself, exactly."""
    model = ErnieMModel(CONFIG)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    use(form)
    layout = Layout([3, 6, 1, 5], [3, 4, 1, 2])
    bias = paddle.zeros([15, 12])
    bias.stop_gradient = False
    states = model(paddle.to_tensor(np.arange(4, 19)), None, layout, bias, pool=False).sequence
    for token, seen in enumerate(layout.dense()):
        (gradient,) = paddle.grad((states[token] ** 3).sum(), bias, retain_graph=True)
        reached = np.abs(gradient.numpy()).max(-1)
        # Paddle's own softmax on a CPU gives a closed column up to exp(-64); those of a GPU give 0.
        assert np.array_equal(reached > (0 if form == "cpu" else 1e-20), seen), token


def test_the_mask_means_the_drawing_of_its_docstring():
    rows = re.findall(r"^ +[xMy]\d  +((?:[1.|] *)+)$", Layout.__doc__, re.M)
    drawn = [[cell == "1" for cell in row if cell in "1."] for row in rows]
    assert np.array_equal(Layout([5, 3], [3, 3]).dense(), drawn)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_gpus_row_indices_open_what_the_mask_opens(name):
    layout, _ = layout_and_ids(name)
    rounded = layout.rounded_up
    assert rounded.tokens % 64 == 0 and rounded.tokens - layout.tokens < 64
    seen = opened(rounded.row_indices()[None, None])
    assert np.array_equal(seen, rounded.dense())
    assert np.array_equal(seen[: layout.tokens, : layout.tokens], layout.dense())
    assert not seen[: layout.tokens, layout.tokens :].any()


def test_groups_are_of_similar_length():
    rng = np.random.default_rng(0)
    layout = Layout(rng.integers(1, 129, 64))
    assert sorted(np.concatenate([group.tokens for group in layout.groups])) == list(range(layout.tokens))
    for group in layout.groups:
        assert group.lengths.min() >= attention.SIMILAR * group.shape[1]
    cells = sum(len(group.lengths) * group.shape[1] ** 2 for group in layout.groups)
    assert cells < 1.5 * (layout.lengths**2).sum()


def test_dropout_on_the_weights_keeps_the_mean():
    layer = SelfAttention(12, 3, dropout=0.3)
    layout, x = Layout([5, 7], [3, 7]), random(12, 12)
    layer.eval()
    exact = layer(x, layout).numpy()
    layer.train()
    draws = np.stack([layer(x, layout).numpy() for _ in range(600)])
    assert draws.std(0).min() > 0 and np.abs(draws.mean(0) - exact).max() < 6 * draws.std(0).max() / 600**0.5
    paddle.seed(3)
    first = layer(x, layout).numpy()
    paddle.seed(3)
    assert np.array_equal(layer(x, layout).numpy(), first)


def test_the_stand_in_takes_what_flashmask_takes():
    theirs = inspect.signature(paddle.nn.functional.flashmask_attention).parameters
    ours = inspect.signature(flashmask).parameters
    assert list(ours)[:4] == list(theirs)[:4] and ours.keys() <= theirs.keys()
    assert theirs["causal"].default is False


def test_has_flash(monkeypatch):
    class Half:
        dtype = paddle.bfloat16

        class place:
            is_gpu_place = staticmethod(lambda: True)

    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda c=capability: c)
        assert attention.has_flash(Half) == expected
    assert not attention.has_flash(paddle.ones([2]))
