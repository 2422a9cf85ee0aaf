import numpy as np
import paddle
import pytest

from model.attention import KERNELS, CompactMask, SelfAttention, attention_bias, flashmask_row_indices
from model.ernie_m import ErnieMConfig, ErnieMModel

CONFIG = ErnieMConfig(
    vocab_size=40,
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=3,
    max_position_embeddings=20,
    initializer_range=0.3,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LENGTHS = [(4, 3), (3, 1), (1, 3), (2, 0), (4, 2)]  # context, placeholders of each row; C = 4, P = 3


@pytest.fixture(autouse=True)
def float64():
    paddle.set_default_dtype("float64")
    paddle.seed(0)
    yield
    paddle.set_default_dtype("float32")


def compact_mask(context_length=4, lengths=LENGTHS, total=7) -> CompactMask:
    valid = np.zeros([len(lengths), total], dtype=bool)
    for row, (context, placeholders) in enumerate(lengths):
        valid[row, :context] = True
        valid[row, context_length : context_length + placeholders] = True
    return CompactMask(context_length, paddle.to_tensor(valid))


def matrix(rows: str) -> np.ndarray:
    return np.array([[c == "1" for c in row.replace(" ", "").replace("|", "")] for row in rows.split("\n")])


def test_compact_mask_means_the_drawing_of_its_docstring():
    dense = compact_mask(4, [(3, 3)]).dense()
    assert dense.shape == [1, 1, 7, 7] and dense.dtype == paddle.bool
    assert np.array_equal(
        dense.numpy()[0, 0],
        matrix(
            "1 1 1 . | . . .\n"
            "1 1 1 . | . . .\n"
            "1 1 1 . | . . .\n"
            ". . . 1 | . . .\n"
            "1 1 1 . | 1 . .\n"
            "1 1 1 . | . 1 .\n"
            "1 1 1 . | . . 1"
        ),
    )


def run(model, mask, weight):
    """Hidden states of every layer, and the gradient of a sum over real tokens for every parameter."""
    input_ids = paddle.to_tensor(np.random.default_rng(0).integers(4, 40, [len(LENGTHS), 7]))
    output = model(input_ids, None, mask, output_hidden_states=True)
    (output.sequence * weight + output.pooled.unsqueeze(1)).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    model.clear_gradients()
    return [h.numpy() for h in output.hidden_states], gradients


@pytest.mark.parametrize("pads_count", [False, True])
def test_compact_equals_dense_in_values_and_gradients(pads_count):
    model, mask = ErnieMModel(CONFIG), compact_mask()
    weight = paddle.randn([len(LENGTHS), 7, 12])
    if not pads_count:
        weight = weight * mask.valid.astype("float64").unsqueeze(-1)
    dense_states, dense_gradients = run(model, mask.dense(), weight)
    states, gradients = run(model, mask, weight)
    for a, b in zip(dense_states, states, strict=True):
        assert np.abs(a - b).max() < 1e-9
    for name, gradient in gradients.items():
        assert np.abs(gradient - dense_gradients[name]).max() < 1e-9, name
        if "k_proj.bias" not in name:  # it shifts all scores of a row alike, so its gradient is 0
            assert np.abs(gradient).max() > 1e-6, name


def test_all_context_equals_the_key_mask():
    model, mask = ErnieMModel(CONFIG), compact_mask(7, [(7, 0), (5, 0), (3, 0), (1, 0), (6, 0)])
    weight = paddle.randn([len(LENGTHS), 7, 12])
    results = [run(model, m, weight) for m in (mask, mask.valid, mask.valid.astype("int64"), mask.dense())]
    for states, gradients in results[1:]:
        assert all(np.abs(a - b).max() < 1e-9 for a, b in zip(states, results[0][0]))
        assert all(np.abs(gradients[name] - g).max() < 1e-9 for name, g in results[0][1].items())


def test_dropout_of_the_compact_form_keeps_the_mean():
    """Weights are dropped and scaled up, so with equal values everywhere the mean is that value."""
    attention = SelfAttention(6, 1, 0.5)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight.set_value(paddle.zeros([6, 6]))
    attention.v_proj.bias.set_value(paddle.ones([6]))
    attention.out_proj.weight.set_value(paddle.eye(6))
    mask = compact_mask(4, [(4, 3)] * 2000)
    outputs = attention(paddle.zeros([2000, 7, 6]), attention_bias(mask, 1, paddle.float64)).numpy()[..., 0]
    assert outputs.mean(0) == pytest.approx(np.ones(7), abs=0.05)
    assert outputs[:, :4].std() == pytest.approx(np.sqrt(1 / 4), abs=0.02)  # four columns of weight 1/4
    assert outputs[:, 4:].std() == pytest.approx(np.sqrt(1 / 5), abs=0.02)  # and one of its own


def expand_row_indices(indices: np.ndarray) -> np.ndarray:
    """What flashmask makes of [B, 1, T, 2] (causal=False): which pairs stay open, [B, 1, T, T].

    Its documentation closes rows from `start` on in the lower triangle and before `end` in the upper one.
    Without the triangles, as here, the indices must mean the same.
    """
    row = np.arange(indices.shape[2])[:, None]
    start, end = (indices[..., k][..., None, :] for k in (0, 1))  # [B, 1, 1, T]
    return ~((row >= start) | (row < end))


def test_flashmask_row_indices_open_what_the_dense_mask_opens():
    mask = compact_mask()
    indices = flashmask_row_indices(mask)
    assert indices.dtype == paddle.int32 and indices.shape == [len(LENGTHS), 1, 7, 2]
    opened, dense, valid = expand_row_indices(indices.numpy()), mask.dense().numpy(), mask.valid.numpy()
    for row in range(len(LENGTHS)):
        assert np.array_equal(opened[row, 0][valid[row]], dense[row, 0][valid[row]])
    # Rows of pads see more than themselves, but nothing sees them.
    assert opened[:, 0, range(7), range(7)].all()
    for row, column in zip(*np.nonzero(~valid)):
        assert opened[row, 0, :, column].sum() == 1


def test_bias_is_laid_out_for_each_head_on_the_cpu():
    valid = paddle.to_tensor([[True, True, False]])
    bias = attention_bias(valid, 2, paddle.float32)
    assert bias.placeholders is None and bias.rows.shape == [1, 2, 3, 3] and bias.rows.dtype == paddle.float32
    expected = np.where(matrix("11.\n11.\n..1"), 0.0, -1e4)
    assert np.array_equal(bias.rows.numpy(), np.broadcast_to(expected, [1, 2, 3, 3]))


def projected(attention: SelfAttention, total: int):
    """Queries, keys and values as `SelfAttention.forward` has them, [B, T, N, D]."""
    return (paddle.randn([len(LENGTHS), total, attention.num_heads, attention.head_size]) for _ in range(3))


def test_the_gpus_dense_path_computes_the_same():
    """On the CPU the fused call takes its plain path: compared are the layout, the scale and the mask."""
    attention = SelfAttention(12, 3, 0.0)
    query, key, value = projected(attention, 7)
    bias = attention_bias(compact_mask().dense(), 1, paddle.float64)
    fused = attention._fused(query, key, value, bias)
    plain = attention._plain(query, key, value, bias)
    assert fused.shape == [len(LENGTHS), 7, 3, 4]
    assert np.abs((fused - plain).numpy()).max() < 1e-9


@pytest.mark.parametrize("mask_of", [lambda mask: mask, lambda mask: mask.valid], ids=["compact", "keys"])
@pytest.mark.parametrize("kernel", ["memory_efficient", "flash"])
def test_the_gpus_paths_compute_the_same(monkeypatch, kernel, mask_of):
    """flashmask needs a GPU: here a stand-in computes what its documentation says. Scaled dot products take
    their plain path on a CPU: compared are the layout, the scale and the mask. Values and gradients."""

    def flashmask(query, key, value, startend_row_indices, *, dropout, training):
        assert (dropout, training) == (0.25, True)
        opened = paddle.to_tensor(expand_row_indices(startend_row_indices.numpy()))
        query, key, value = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
        scores = paddle.matmul(query, key, transpose_y=True) / query.shape[-1] ** 0.5
        scores = paddle.where(opened.expand(scores.shape), scores, paddle.full_like(scores, -1e9))
        return paddle.matmul(paddle.nn.functional.softmax(scores), value).transpose([0, 2, 1, 3])

    monkeypatch.setattr("paddle.nn.functional.flashmask_attention", flashmask)
    attention, mask = SelfAttention(12, 3, 0.25 if kernel == "flash" else 0.0), compact_mask()
    inputs = list(projected(attention, 7))
    bias = attention_bias(mask_of(mask), 3, paddle.float64, kernel)
    valid = mask.valid.astype("float64").reshape([len(LENGTHS), 7, 1, 1])
    results = []
    for compute in (attention._fused, attention._plain):
        for tensor in inputs:
            tensor.stop_gradient, tensor.grad = False, None
        output = compute(*inputs, bias) * valid  # nothing reads the rows of pads
        (output * paddle.arange(output.size, dtype="float64").reshape(output.shape)).sum().backward()
        results.append([output.numpy(), *(tensor.grad.numpy() for tensor in inputs)])
        attention.dropout = 0.0
    for fused, plain in zip(*results, strict=True):
        assert (
            np.abs(fused - plain).max() < 1e-9 * max(1.0, np.abs(plain).max()) and np.abs(plain).max() > 0.1
        )


def test_the_kernel_of_a_model(monkeypatch):
    """The attribute reaches every layer; in float64 it changes nothing."""
    seen = []
    forward = SelfAttention.forward
    monkeypatch.setattr(SelfAttention, "forward", lambda *args: seen.append(args[2].kernel) or forward(*args))
    model, ids = ErnieMModel(CONFIG), paddle.to_tensor([[5, 6, 7, 1]])
    outputs = []
    for model.attention in KERNELS:
        outputs.append(model(ids).sequence.numpy())
    assert seen == [kernel for kernel in KERNELS for _ in range(3)]
    assert all(np.array_equal(output, outputs[0]) for output in outputs)
