"""An exported graph on this device, against the model that it was made of."""

import paddle
import pytest

from ernie_m.inference.engines import FILES
from ernie_m.inference.export_paddle import ExportedGraph
from ernie_m.inference.paddle_eager_engine import PaddleEagerEngine
from ernie_m.inference.paddle_inference_engine import PaddleInferenceEngine
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.tasks import CLASSIFICATION
from tests.gpu import toys
from tests.gpu.conftest import BOUNDS, difference, has_card


@pytest.mark.parametrize("amp", ["none", "fp16"])
def test_export(check, location, tmp_path, amp):
    if location == "stand_in":
        pytest.skip("Paddle Inference does not run on a plug-in device")
    if amp == "fp16" and not has_card():
        pytest.skip("Paddle Inference has float16 on a GPU alone")
    paddle.seed(1)
    model = SequenceClassifier(toys.make_config(), num_labels=3).eval()
    layers = toys.SHAPE["num_hidden_layers"]  # a classifier reads the last layer
    ids = toys.padded_ids(toys.ROWS, seed=1)
    exact = PaddleEagerEngine(model, CLASSIFICATION, layers)(ids)
    graph = ExportedGraph(model, CLASSIFICATION, layers)
    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(graph, str((tmp_path / FILES["paddle-inference"]).with_suffix("")), input_spec=spec)
    outputs = PaddleInferenceEngine(tmp_path, graph.outputs, amp)(ids)
    values = [outputs[name] for name in exact]  # in the order of the exact ones
    kind = "float16" if amp == "fp16" else "tf32" if has_card() else "float32"
    check(difference(values, list(exact.values())), BOUNDS[kind])
