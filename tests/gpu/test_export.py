"""An exported graph on this device, against the model that it was made of."""

import paddle
import pytest

from ernie_m.inference.engines import FILES
from ernie_m.inference.export_paddle import ExportedGraph
from ernie_m.inference.onnx_engine import OnnxEngine
from ernie_m.inference.paddle_eager_engine import PaddleEagerEngine
from ernie_m.inference.paddle_inference_engine import PaddleInferenceEngine
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.tasks import CLASSIFICATION
from tests.gpu import toys
from tests.gpu.conftest import BOUNDS, difference, has_card

LAYERS = toys.SHAPE["num_hidden_layers"]  # a classifier reads the last layer
IDS = toys.padded_ids(toys.ROWS, seed=1)
GPU = "CUDAExecutionProvider"  # ONNX Runtime's name


@pytest.fixture
def model(location) -> SequenceClassifier:
    """A classifier of random weights on this device."""
    paddle.seed(1)
    return SequenceClassifier(toys.make_config(), num_labels=3).eval()


def measure_error(outputs: dict, model: SequenceClassifier) -> float:
    """The difference of an exported graph's outputs for IDS from those of the model."""
    exact = PaddleEagerEngine(model, CLASSIFICATION, LAYERS)(IDS)
    return difference([outputs[name] for name in exact], list(exact.values()))


@pytest.mark.parametrize("amp", ["none", "fp16"])
def test_export(check, model, location, tmp_path, amp):
    if location == "stand_in":
        pytest.skip("Paddle Inference does not run on a plug-in device")
    if amp == "fp16" and not has_card():
        pytest.skip("Paddle Inference has float16 on a GPU alone")
    graph = ExportedGraph(model, CLASSIFICATION, LAYERS)
    spec = [paddle.static.InputSpec([None, None], "int64", "input_ids")]
    paddle.jit.save(graph, str((tmp_path / FILES["paddle-inference"]).with_suffix("")), input_spec=spec)
    outputs = PaddleInferenceEngine(tmp_path, graph.outputs, amp)(IDS)
    kind = "float16" if amp == "fp16" else "tf32" if has_card() else "float32"
    check(measure_error(outputs, model), BOUNDS[kind])


def test_onnx_export(check, model, tmp_path):
    """In float32, which is the only type of an ONNX export."""
    runtime = pytest.importorskip("onnxruntime", reason="no onnxruntime: sh scripts/setup.sh export")
    if has_card() and GPU not in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime is for CPUs: install onnxruntime-gpu instead")
    from ernie_m.inference.export_onnx import write_onnx  # it needs onnx, of the same extra

    path = tmp_path / FILES["onnx"]
    write_onnx(path, get_weight_arrays(model), toys.make_config(), CLASSIFICATION, LAYERS)
    engine = OnnxEngine(path)
    assert not has_card() or GPU in engine.session.get_providers(), "ONNX Runtime computes on the CPU"
    check(measure_error(engine(IDS), model), BOUNDS["tf32" if has_card() else "float32"])
