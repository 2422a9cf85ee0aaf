"""The encoder as a layer of a user's own Paddle code: `from_pretrained` and `forward`."""

from functools import partial

import numpy as np
import paddle
import pytest

from ernie_m.model import kernel_selection
from ernie_m.model.device_transfer import upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.batches import padded_batch
from tests.helpers.checkpoints import save_model
from tests.helpers.gradients import compute_gradients
from tests.launching import check_error, error_of
from tests.toys import small_config

CONFIG = small_config()
LENGTHS = (1, 70, 9, 64)


def ids_with_pads() -> np.ndarray:
    """Random ids, int64 [4, 70], with pads (1) on the right."""
    ids = np.random.default_rng(1).integers(4, 40, (len(LENGTHS), max(LENGTHS)))
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = 1
    return ids


class Classifier(paddle.nn.Layer):
    """A user's layer."""

    def __init__(self, encoder: ErnieMModel):
        super().__init__()
        self.encoder = encoder
        self.head = paddle.nn.Linear(encoder.config.hidden_size, 2)

    def forward(self, ids, mask=None):
        return self.head(self.encoder.pooler(self.encoder(ids, mask)[:, 0]))


def test_forward_is_packed():
    """States and all gradients within 1e-6 in float32; pads are 0."""
    model = ErnieMModel(CONFIG)
    ids = ids_with_pads()
    weights = paddle.to_tensor(np.random.default_rng(2).normal(size=[*ids.shape, 12]).astype("float32"))
    batch = padded_batch(ids)
    expected = batch.to_padded(model.encode(batch).sequence)
    expected_gradients = compute_gradients(model, (expected * weights).mean())
    mask = paddle.to_tensor((ids != 1).astype("int64"))
    for arguments in ([paddle.to_tensor(ids)], [paddle.to_tensor(ids), mask]):
        states = model(*arguments)
        assert states.shape == [4, 70, 12] and not states[0, 1:].numpy().any()
        np.testing.assert_allclose(states.numpy(), expected.numpy(), atol=1e-6)
        gradients = compute_gradients(model, (states * weights).mean())
        assert_equal_arrays(gradients, expected_gradients, 1e-6)
        assert len(gradients) > 30


def test_the_mask_decides_where_pads_are():
    """On the left, and whatever their ids are."""
    model = ErnieMModel(CONFIG)
    text = [0, 7, 8, 2]
    alone = model(paddle.to_tensor([text])).numpy()
    ids = paddle.to_tensor([[5, 5, *text], [0, 9, 9, 9, 9, 2]])
    states = model(ids, paddle.to_tensor([[0, 0, 1, 1, 1, 1], [1] * 6])).numpy()
    np.testing.assert_allclose(states[:1, 2:], alone, atol=1e-6)
    assert not states[0, :2].any()


def test_refuse_a_hole_in_the_mask():
    """Padding between tokens would move the positions behind it; left and right padding at once do not."""
    model = ErnieMModel(CONFIG)
    ids = [[0, 7, 8, 2], [0, 9, 9, 2], [0, 1, 9, 2]]
    mask = paddle.to_tensor([[0, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]])
    assert "row 1 " in error_of(model, paddle.to_tensor(ids), mask)
    assert "row 2 " in error_of(PackedBatch.from_padded, np.array(ids), 1)
    assert model(paddle.to_tensor(ids[:1]), mask[:1]).shape == [1, 4, 12]


def test_refuse_padded_outputs_of_a_packed_batch():
    """It does not have the cells of a padded array."""
    batch = upload(PackedBatch.from_packed(np.array([0, 7, 2]), PackedLayout([3])))
    model = ErnieMModel(CONFIG)
    for call in (partial(model.encode, batch, output_attentions=True), batch.get_padding_mask):
        assert "from_padded" in error_of(call)


@pytest.mark.parametrize("of_states", [True, False], ids=["states", "logits"])
def test_paddle_grad(monkeypatch, of_states):
    """As docs/architecture.md says: Paddle raises on a CPU, and with plain kernels only of `lm_head.loss`."""
    model = PreTrainingModel(CONFIG, ["en"]).eval()
    ids = np.array([[0, 7, 8, 2]])
    weight = model.ernie_m.encoder.layers[0].linear1.weight

    def compute(with_loss: bool):
        states = model.encode(padded_batch(ids))
        if with_loss:
            return model.lm_head.loss(states, paddle.to_tensor(ids[0])).total
        return (states if of_states else model.lm_head(states)).square().sum()

    for with_loss in (False, True):
        with pytest.raises(ValueError, match="PyLayer"):
            paddle.grad(compute(with_loss), [weight])
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    (gradient,) = paddle.grad(compute(False), [weight])
    compute(False).backward()
    np.testing.assert_array_equal(gradient.numpy(), weight.grad.numpy())
    with pytest.raises(ValueError, match="PyLayer"):
        paddle.grad(compute(True), [weight])


def test_from_pretrained(tmp_path):
    """The weights of the folder, without dropout; a folder without a model is refused."""
    model = ErnieMModel(CONFIG)
    save_model(tmp_path / "model", model, CONFIG)
    loaded = ErnieMModel.from_pretrained(tmp_path / "model")
    assert not loaded.training and loaded.config == CONFIG
    ids = paddle.to_tensor(ids_with_pads())
    np.testing.assert_array_equal(loaded(ids).numpy(), model(ids).numpy())
    assert str(tmp_path / "none") in error_of(ErnieMModel.from_pretrained, tmp_path / "none")


def test_to_static_calls_it_as_it_is():
    """Alone, and in a user's layer whose other parts become a graph; other shapes and gradients."""
    classifier = Classifier(ErnieMModel(CONFIG))
    ids = paddle.to_tensor(ids_with_pads())
    expected = classifier(ids)
    expected_gradients = compute_gradients(classifier, expected.square().sum())
    model = classifier.encoder
    states = model(ids)
    compiled = paddle.jit.to_static(classifier)
    np.testing.assert_allclose(compiled(ids).numpy(), expected.numpy(), atol=1e-6)
    assert compiled(ids[:2, :9]).shape == [2, 2]
    assert_equal_arrays(compute_gradients(classifier, compiled(ids).square().sum()), expected_gradients, 1e-5)
    np.testing.assert_allclose(paddle.jit.to_static(model)(ids).numpy(), states.numpy(), atol=1e-6)


def test_a_traced_graph_is_refused():
    model = ErnieMModel(CONFIG)
    traced = paddle.jit.to_static(model.forward, full_graph=True)
    check_error(error_of(traced, paddle.to_tensor([[0, 7, 2]])), "ErnieMModel.forward ", "ernie-m export")


@pytest.mark.parametrize(
    ("ids", "mask", "location"),
    [
        ([[0, 7, 2], [1, 1, 1], [1, 1, 1]], None, "row 1 "),
        ([[0, 7, 2]], [[1, 1]], "attention_mask [1, 2]"),
        ([[0, 7, 2]], [[0.0, 0.0, -1e4]], "attention_mask [1, 3]"),
        ([0, 7, 2], None, "input_ids [3]"),
        ([[5] * 513], None, "513 tokens"),
    ],
)
def test_reject_bad_arguments_by_name(ids, mask, location):
    arguments = [paddle.to_tensor(value) for value in (ids, mask) if value is not None]
    assert location in error_of(ErnieMModel(CONFIG), *arguments)
