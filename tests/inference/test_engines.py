"""Which device an exported model runs on: stand-ins, for a machine without a GPU."""

import onnxruntime
import paddle
import pytest
from paddle import inference

from inference.engines import OnnxEngine, PaddleEngine
from utils.errors import UserError


@pytest.mark.parametrize(("gpus", "call"), [(0, "disable_gpu"), (1, "enable_use_gpu")])
def test_paddle_inference_takes_the_gpu(tmp_path, monkeypatch, gpus, call):
    calls = []

    class Config:
        def __init__(self, *files):
            pass

        def __getattr__(self, name):
            assert hasattr(real, name)
            return lambda *args: calls.append((name, *args))

    def create_predictor(config):
        raise RuntimeError("no graph")

    real = inference.Config
    monkeypatch.setattr(inference, "Config", Config)
    monkeypatch.setattr(inference, "create_predictor", create_predictor)
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: bool(gpus))
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: gpus)
    with pytest.raises(UserError, match="Paddle cannot load it"):
        PaddleEngine(tmp_path, ["logits"], 1)
    assert [given for given in calls if "gpu" in given[0]] == [(call, 512, 0) if gpus else (call,)]


def test_onnx_runtime_takes_the_gpu(tmp_path, monkeypatch):
    asked = []

    def session(path, options, providers):
        asked.append(providers)
        raise RuntimeError("no graph")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for available in (["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda found=available: found)
        with pytest.raises(UserError, match="ONNX Runtime cannot load it"):
            OnnxEngine(tmp_path / "model.onnx", 1)
    assert asked == [["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]]
