"""What all tasks share: types of outputs, the accuracy of a log line, and the flags of a task."""

import math
from types import SimpleNamespace

import paddle
import pytest

from ernie_m.finetune.classifier import Classification, MultiLabelClassification
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_task import FinetuningTask, compute_accuracy, make_task
from tests.launching import error_of


@pytest.mark.parametrize(
    ("dtype", "computed"), [("float32", "float32"), ("float64", "float64"), ("bfloat16", "float32")]
)
def test_outputs_are_at_least_float32(dtype, computed):
    task = SimpleNamespace(name="question-answering")
    start, end = paddle.zeros([1, 2], dtype), paddle.ones([1, 2], dtype)
    model = lambda inputs: (start, end)  # noqa: E731
    outputs = FinetuningTask.compute_outputs(task, model, SimpleNamespace(inputs=None))
    assert {name: (tensor.dtype.name.lower(), float(tensor.sum())) for name, tensor in outputs.items()} == {
        "start_logits": (computed, 0),
        "end_logits": (computed, 2),
    }


def test_the_accuracy_of_a_log_line():
    assert compute_accuracy({"steps": 2, "correct": 3, "count": 4}) == 0.75
    assert compute_accuracy({"steps": 2, "correct": 0, "count": 0}) == 0.0
    assert math.isnan(compute_accuracy({"steps": 0, "correct": 0, "count": 0}))


def test_the_flags_of_a_task(caplog):
    """A batch of tokens holds the longest input, and published scores are of the official procedure."""
    flags = FinetuneFlags(in_tokens=True, max_seq_len=64, batch_size=63, num_labels=2)
    opened = SimpleNamespace(tokenizer=None, checkpoint=None)
    assert "--batch_size 63: " in error_of(make_task, Classification, None, flags, opened)
    flags.batch_size = 64
    assert make_task(Classification, None, flags, opened).labels == ["0", "1"]
    flags.paper = "xnli_cross_lingual_transfer"
    for flags.official_compat, task_class in ((True, MultiLabelClassification), (False, Classification)):
        assert type(make_task(Classification, MultiLabelClassification, flags, opened)) is task_class
        ignored = "--paper xnli_cross_lingual_transfer ignored" in caplog.text
        assert ignored != flags.official_compat
