"""The embedding matrix and the masked-LM loss have the numbers of plain Paddle, within 1e-9 in float64."""

from operator import attrgetter

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model import kernel_selection, lm_head, word_embeddings
from ernie_m.model.cpu.embedding_gradient import EmbeddingGradient, accumulate_in_place
from ernie_m.model.cpu.replicas import LazyGradient

TOLERANCE = 1e-9
WORDS = 23
SIZE = 6  # of a word's vector
COUNT = 9  # positions that are predicted


@pytest.fixture(autouse=True)
def float64(float64, monkeypatch):
    """New tensors are float64. Losses are computed in several chunks, and the table in several blocks."""
    # A chunk has the logits of four of the nine positions, so that the last one has one.
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", 4 * WORDS * 8)
    monkeypatch.setattr("ernie_m.model.cpu.masked_lm_loss.BLOCK_WORDS", 5)  # the words of a block


def plain_cross_entropy(x, table, bias, labels, weights):
    """`lm_head.compute_cross_entropy` in plain Paddle."""
    scores = paddle.matmul(x, table.weight, transpose_y=True) + bias
    losses = F.cross_entropy(scores, labels, reduction="none").flatten()
    return lm_head.MaskedLMLoss((losses * weights).sum(), losses, scores.argmax(-1) == labels)


class Tied:
    """An embedding matrix that is used twice: words are looked up, and words are predicted from their states.

    In between is a product with a matrix, so that a word's state is not its vector.
    """

    is_taken_over = True

    def __init__(self):
        self.table = word_embeddings.WordEmbeddings(WORDS, SIZE)
        if self.is_taken_over:
            accumulate_in_place(self.table)
        self.bias = paddle.create_parameter([WORDS], "float64", is_bias=True)
        self.table.weight.set_value(paddle.randn([WORDS, SIZE]) * 2)
        self.bias.set_value(paddle.randn([WORDS]))
        self.dense = paddle.randn([SIZE, SIZE])
        self.ids = paddle.to_tensor([[1, 7, 7, 22], [7, 0, 1, 22], [5, 5, 5, 5]])
        self.labels = paddle.to_tensor([3, 7, 0, 22, 3, 3, 4, 5, 1])
        self.positions = paddle.to_tensor([0, 1, 2, 3, 5, 7, 8, 9, 11])
        self.weights = paddle.linspace(-1.0, 3.0, COUNT)

    def losses(self, look_up, cross_entropy):
        """The losses with these two functions of the table."""
        x = paddle.matmul(look_up(self.ids).reshape([-1, SIZE]), self.dense)
        return cross_entropy(x[self.positions], self.table, self.bias, self.labels, self.weights)

    def plain(self):
        return self.losses(lambda ids: F.embedding(ids, self.table.weight), plain_cross_entropy)

    def fast(self):
        return self.losses(self.table, lm_head.compute_cross_entropy)

    def gradients(self, function, times=1):
        """The losses, and what `times` backward passes leave as gradients of table and bias."""
        for _ in range(times):
            loss = function()
            loss.total.backward()
        results = [loss.losses.numpy()]
        for tensor in (self.table.weight, self.bias):
            results.append(None if tensor.grad is None else tensor.grad.numpy())
            tensor.grad = None
        return results


@pytest.fixture(params=["in place", "cpu", "plain"])
def variant(request, monkeypatch):
    """A CPU's kernels, with a table that is taken over or not, or plain kernels, the operations of a GPU."""
    if request.param == "plain":
        monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    monkeypatch.setattr(Tied, "is_taken_over", request.param == "in place")
    return request.param


def assert_same(plain, fast):
    """The arrays agree within TOLERANCE, and are not all 0."""
    for expected, array in zip(plain, fast, strict=True):
        assert expected.shape == array.shape and expected.dtype == array.dtype
        assert np.abs(expected - array).max() < TOLERANCE < np.abs(expected).max()


@pytest.mark.parametrize("rows", [0, 4, COUNT])
@pytest.mark.parametrize("times", [1, 3])
def test_both_uses_add_to_one_gradient(monkeypatch, variant, rows, times):
    """In one or several backward passes. Memory has room for the logits of so many `rows`; at least one."""
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", rows * WORDS * 8)
    tied = Tied()
    best = tied.losses(
        tied.table, lambda x, table, bias, *_: lm_head.compute_logits(x, table.weight, bias)
    ).argmax(-1)
    tied.labels[1:3] = best[1:3]
    assert_same(tied.gradients(tied.plain, times), tied.gradients(tied.fast, times))
    with paddle.no_grad():  # as in an evaluation
        plain, fast = tied.plain(), tied.fast()
    assert_same([plain.total.numpy(), plain.losses.numpy()], [fast.total.numpy(), fast.losses.numpy()])
    assert plain.correct.any() and np.array_equal(plain.correct.numpy(), fast.correct.numpy())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_losses_before_their_backward_passes(variant, order):
    """The first loss takes the memory that is reused between steps, the others take new memory."""
    tied = Tied()
    factors = [0.5, 1.5, 2.5]  # of the losses, so that they differ
    _, *gradients = tied.gradients(tied.plain)
    expected = [sum(factors) * gradient for gradient in gradients]
    tied.gradients(tied.fast)  # from now on there is memory to be reused, with numbers in it
    losses = [tied.fast() for _ in factors]
    for number in order:
        (losses[number].total * factors[number]).backward()
    assert_same(expected, [tied.table.weight.grad.numpy(), tied.bias.grad.numpy()])


@pytest.mark.parametrize("is_same_step", [True, False])
def test_after_a_loss_any_row_may_have_a_gradient(is_same_step):
    """Also if look-ups have marked their rows before."""
    tied = Tied()
    tied.table(tied.ids).sum().backward()
    if not is_same_step:
        tied.table.weight.grad = None
    tied.fast().total.backward()
    assert tied.table.gradient.find_nonzero_rows(tied.table.weight.grad) is None


def test_a_copys_gradient_is_added_later():
    """Rows, and a loss's gradient with its factor; then the copy has none."""
    weight = word_embeddings.WordEmbeddings(WORDS, SIZE).weight
    copied = LazyGradient(weight)
    borrowed = copied.get_buffer()
    borrowed[:] = 2.0
    copied.add_buffer(borrowed, factor=0.5)
    copied.add_rows(np.array([1, 7, 1]), np.ones([3, SIZE]))
    total = EmbeddingGradient(weight)
    for add in copied.take_updates():
        add(total)
    assert weight.grad.numpy()[[0, 1, 7], 0].tolist() == [1, 3, 2]
    assert copied.take_updates() == []


@pytest.mark.parametrize(("frozen", "number"), [("table.weight", 1), ("bias", 2)])
def test_gives_frozen_weights_no_gradient(frozen, number, variant):
    """`number`: of its gradient in the results."""
    tied = Tied()
    expected = tied.gradients(tied.plain)
    attrgetter(frozen)(tied).stop_gradient = True
    results = tied.gradients(tied.fast)
    assert results.pop(number) is None
    expected.pop(number)
    assert_same(expected, results)


def test_a_gradient_that_lies_elsewhere_counts_as_a_whole():
    """The rows that look-ups have touched before are not those of an array that the user has set."""
    table = word_embeddings.WordEmbeddings(WORDS, SIZE)
    gradient = accumulate_in_place(table)
    table(paddle.to_tensor([1, 7])).sum().backward()
    assert gradient.get_nonzero_rows().sum().item() == 2 * SIZE
    table.weight.grad = None
    table.weight.grad = paddle.ones([WORDS, SIZE])
    assert gradient.get_nonzero_rows().sum().item() == WORDS * SIZE
    gradient.scale_(0.5)
    assert (table.weight.grad.numpy() == 0.5).all()


def test_far_apart_logits(variant):
    """The highest logit comes late, and the others vanish next to it: a loss is the gap to the label's logit.

    Paddle's own loss on a CPU ends at 64.
    """
    tied = Tied()
    tied.bias.set_value(paddle.arange(WORDS, dtype="float64") * 40)
    losses, table, _ = tied.gradients(tied.fast)
    x = paddle.matmul(tied.table(tied.ids).reshape([-1, SIZE]), tied.dense)[tied.positions]
    logits = lm_head.compute_logits(x, tied.table.weight, tied.bias).detach().numpy()
    gaps = logits.max(1) - logits[np.arange(COUNT), tied.labels.numpy()]
    assert gaps.max() > 700  # exp(-gap) is 0
    assert np.abs(losses - gaps.clip(max=64 if variant == "plain" else np.inf)).max() < TOLERANCE
    assert np.isfinite(table).all()


def test_numbers_that_are_not_finite_are_passed_on(recwarn):
    tied = Tied()
    tied.bias.set_value(np.where(np.arange(WORDS) == 3, np.nan, tied.bias.numpy()))
    losses, table, _ = tied.gradients(tied.fast)
    assert np.isnan(losses).all() and np.isnan(table).any()
    assert not recwarn.list
