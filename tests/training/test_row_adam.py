"""The rows of a word table on a GPU, computed by CPUs, one process or several: against the dense table."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from finetune.classification import Classification
from model import device
from model.heads import SequenceClassifier
from model.word_rows import RowGradient, words_of_step
from model.word_table import WordEmbeddings
from reader.batching import TaskBatch
from tests.helpers.operations import recorded_operations
from tests.launching import launch
from tests.training.row_toy import CONFIG, STEPS, WORDS, RowToy
from tests.training.toy_training import state_of
from training.row_adam import RowsWithMomentsOnGpu

SCRIPT = Path(__file__).with_name("row_script.py")


def use_gpu_kernels(monkeypatch) -> None:
    """Take the paths of a GPU."""
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)


@pytest.fixture
def dense(monkeypatch) -> tuple[list[float], dict[str, np.ndarray]]:
    """Norms and weights of a training with plain kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(device, "_kernels", device.PLAIN)
        toy = RowToy()
        return toy.train(0, STEPS), toy.weights()


def assert_close(norms, weights, dense) -> None:
    """Norms and weights of a training are those of the fixture `dense`."""
    dense_norms, dense_weights = dense
    assert np.abs(np.array(norms) - dense_norms).max() < 1e-12
    for name, value in dense_weights.items():
        assert np.abs(weights[name] - value).max() < 1e-12, name


def test_one_process(monkeypatch, dense):
    use_gpu_kernels(monkeypatch)
    toy = RowToy()
    assert_close(toy.train(0, STEPS), toy.weights(), dense)
    (rows,) = toy.engine.optimizer._rows_with_moments_on_gpu.values()
    assert 20 < (rows.place_of_word >= 0).sum() < WORDS, "some rows should have moments, and some should not"


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes(tmp_path, dense, processes, stage):
    completed = launch([SCRIPT, tmp_path, stage], tmp_path, processes)
    assert completed.returncode == 0, completed.stderr
    for rank in range(processes):
        arrays = dict(np.load(tmp_path / f"{rank}.npz"))
        assert_close(arrays.pop("norms"), arrays, dense)


def test_a_resumed_run(monkeypatch, dense):
    """The state does not say which rows are updated: they are those whose moments are not 0."""
    use_gpu_kernels(monkeypatch)
    first = RowToy()
    norms = first.train(0, 4)
    resumed = RowToy()
    resumed.train(6, 7)  # other rows have moments, until the state is loaded
    resumed.model.set_state_dict(first.weights())
    resumed.engine.load_state_dict(state_of(first.engine))
    assert_close([*norms, *resumed.train(4, STEPS)], resumed.weights(), dense)


def test_no_operation_makes_a_whole_table(monkeypatch):
    """Beside the table and its moments, which are updated in place."""
    use_gpu_kernels(monkeypatch)
    toy = RowToy()
    toy.train(0, 3)
    operations = recorded_operations(monkeypatch)
    operations.begin()
    toy.train(3, 4)
    shape = [WORDS, CONFIG.hidden_size]
    makers = []
    for call in operations:
        makers += [call.name for tensor in call.outputs if tensor.shape == shape]
    # In place: the decay of the table, and the rows that are put back into the table and both moments.
    assert sorted(makers) == ["scale_", "scatter_", "scatter_", "scatter_"]
    assert toy.model.ernie_m.embeddings.word_embeddings.weight.grad is None


def test_the_gradient_between_backward_and_update(monkeypatch):
    """Each look-up of a word adds a gradient of (1, 10): word 3 is looked up three times, 1 and 5 once."""
    use_gpu_kernels(monkeypatch)
    table = WordEmbeddings(7, 2)
    for vectors in look_up(table, [3, 5, 3], [1, 3]):
        (vectors * paddle.to_tensor([[1.0, 10.0]])).sum().backward()
    assert table.row_gradient.words.tolist() == [1, 3, 5]
    assert table.weight.grad.tolist() == [[1, 10], [3, 30], [1, 10]]
    table.weight.grad = None  # as after a step
    for vectors in look_up(table, [6]):
        vectors.sum().backward()
    assert table.row_gradient.words.tolist() == [6]
    assert table.weight.grad.tolist() == [[1, 1]]


def look_up(table: WordEmbeddings, *ids: list[int]) -> list[paddle.Tensor]:
    """The rows of the words of each batch of a step."""
    arrays = [np.array(of_batch) for of_batch in ids]
    words = words_of_step(arrays)
    vectors = []
    for array in arrays:
        vectors.append(table(paddle.to_tensor(array), device.upload(words.of_batch(array))))
    return vectors


def test_the_words_of_a_step_of_fine_tuning_are_those_of_all_its_micro_batches(monkeypatch):
    use_gpu_kernels(monkeypatch)
    task = Classification(None, ["a", "b", "c"], 9)  # no tokenizer, three labels, at most 9 tokens
    batches = [TaskBatch(np.array([ids]), np.array([0]), np.array([0]), 2) for ids in ([3, 5], [3, 8])]
    sent = [labelled for _, labelled in task.send_batches(SequenceClassifier(CONFIG, 3), batches)]
    assert [labelled.inputs.words.of_step.ids.tolist() for labelled in sent] == [[3, 5, 8]] * 2


def test_batches_that_were_not_made_for_one_step(monkeypatch):
    use_gpu_kernels(monkeypatch)
    table = WordEmbeddings(7, 2)
    with pytest.raises(ValueError, match="words_of_step"):
        table(paddle.to_tensor([3]))
    (first,) = look_up(table, [3])
    (second,) = look_up(table, [3])
    first.sum().backward()
    with pytest.raises(OSError, match="words_of_step"):  # Paddle raises this for the error in its pass
        second.sum().backward()


def test_words_of_several_processes_are_exchanged_once(monkeypatch):
    """Another process has looked up 5 and 6, and each has the half of the gradient that is left."""
    use_gpu_kernels(monkeypatch)
    table = WordEmbeddings(7, 2)
    (vectors,) = look_up(table, [3, 5, 3])
    vectors.sum().backward()
    exchanged = []

    def gather(words: np.ndarray) -> list[np.ndarray | None]:
        exchanged.append(words.tolist())
        return [words, None, np.array([5, 6])]  # the second process has looked nothing up

    table.row_gradient.merge(gather, sum_over_processes=lambda rows: rows.set_value(2 * rows + 1))
    assert exchanged == [[3, 5]]
    assert table.row_gradient.words.tolist() == [3, 5, 6]
    assert table.weight.grad.tolist() == [[5, 5], [3, 3], [1, 1]]


def test_a_process_without_words(monkeypatch):
    """It takes part, and gets what the others have; if these have none either, there is no gradient."""
    use_gpu_kernels(monkeypatch)
    table = WordEmbeddings(7, 2)
    table.row_gradient.merge(lambda words: [words, None], sum_over_processes=None)
    assert table.weight.grad is None
    table.row_gradient.merge(
        lambda words: [words, np.array([2])], sum_over_processes=lambda rows: rows.set_value(rows + 1)
    )
    assert table.row_gradient.words.tolist() == [2]
    assert table.weight.grad.tolist() == [[1, 1]]


def test_a_table_with_a_head_has_a_dense_gradient(monkeypatch):
    use_gpu_kernels(monkeypatch)
    table = WordEmbeddings(7, 2)
    assert table.row_gradient.is_in_use()
    table.row_gradient.turn_off()
    table(paddle.to_tensor([3])).sum().backward()
    assert table.weight.grad.shape == [7, 2]
    assert table.row_gradient.words is None


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_weights_in_half_precision_have_a_dense_gradient(monkeypatch, half):
    use_gpu_kernels(monkeypatch)
    weight = paddle.zeros([7, 2], half)
    weight.stop_gradient = False
    assert not RowGradient(weight).is_in_use()


def test_rows_with_moments_are_found_in_them():
    """Of 5 words, rows 1, 2 and 4 have moments that are not 0."""
    moment1 = paddle.zeros([5, 2])
    moment1[2] = 2.0
    moment2 = paddle.zeros([5, 2])
    moment2[1] = -3.0
    moment2[2] = 1.0
    moment2[4] = 3.0
    rows = RowsWithMomentsOnGpu(5, moment1, moment2)
    assert rows.place_of_word.tolist() == [-1, 0, 1, -1, 2]
    assert RowsWithMomentsOnGpu(5).place_of_word.tolist() == [-1] * 5
