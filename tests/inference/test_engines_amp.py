"""Predictions in half precision: on a CPU they are near those in float32; for a GPU there are stand-ins."""

import contextlib
import copy

import numpy as np
import paddle
import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.inference import openvino_engine, paddle_inference_engine
from ernie_m.inference.paddle_inference_engine import PaddleInferenceEngine
from ernie_m.model.ernie import ErnieMModel
from ernie_m.training import precision
from ernie_m.utils.paddle_settings import Cpu
from tests.launching import as_flags, call_main, error_of
from tests.toys import write_lines

TEXTS = ["the old cat", "a red saw is here", "the milk"]


def test_bfloat16_from_python(models, cpu_with_bf16):
    in_float32 = ernie_m.load(models / "classify").classify(TEXTS)
    model = ernie_m.load(models / "classify", amp="bf16")
    in_bfloat16 = model.classify(TEXTS)
    assert copy.deepcopy(model).classify(TEXTS) == in_bfloat16 != in_float32
    for rounded, exact in zip(in_bfloat16, in_float32, strict=True):
        assert rounded["probabilities"] == pytest.approx(exact["probabilities"], abs=0.01)


def test_paddle_inference_has_the_cores_of_this_process(model_folder, monkeypatch):
    """Not those of the machine, of which a container may have a part."""
    folder = model_folder("encode", "paddle-inference")
    configs = []
    create_predictor = paddle.inference.create_predictor

    def record(config):
        configs.append(config)
        return create_predictor(config)

    monkeypatch.setattr(paddle.inference, "create_predictor", record)
    monkeypatch.setattr(paddle_inference_engine, "read_cpu", lambda: Cpu("", frozenset(), 3, 0))
    PaddleInferenceEngine(folder, ["sequence"])
    assert [config.cpu_math_library_num_threads() for config in configs] == [3]


def test_precisions_that_are_refused(models, exported, model_folder, refused, monkeypatch, tmp_path):
    flags = {"task": "embedding", "amp": "bf16", "input": write_lines(tmp_path / "texts.txt", ["a"])}

    def predicting(model):
        """A function that calls ernie-m predict in bfloat16."""
        return lambda: call_main(predict, as_flags(flags | {"model": model}))

    assert "encode: amp bf16" in refused(predicting(exported / "encode"))
    assert "encode: amp fp16" in error_of(
        PaddleInferenceEngine, model_folder("encode", "paddle-inference"), ["sequence"], "fp16"
    )
    monkeypatch.setattr(openvino_engine, "read_cpu", lambda: Cpu("", frozenset({"avx2"}), 1, 0))
    assert "amp bf16 requires a CPU with bfloat16" in refused(predicting(models / "encode"))
    monkeypatch.setattr(precision, "_find_missing_bf16_requirement", lambda: "a CPU with bfloat16")
    for options, message in (
        ({"engine": "paddle-eager", "amp": "bf16"}, "amp bf16 requires a CPU with bfloat16"),
        ({"amp": "fp16"}, "amp fp16"),
        ({"amp": "int8"}, "int8"),
        ({"engine": "paddle-eager", "amp": "fp16"}, "amp fp16"),
        ({"engine": "paddle-eager", "amp": "int8"}, "int8"),
    ):
        assert message in error_of(ernie_m.load, models / "encode", **options)
    monkeypatch.setattr(precision, "is_on_gpu", lambda: True)
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert "amp bf16 requires a GPU of compute capability 8.0" in error_of(
        ernie_m.load, models / "encode", engine="paddle-eager", amp="bf16"
    )


@pytest.fixture
def autocasts(monkeypatch) -> list[dict]:
    """Let Paddle take this machine for a GPU. The list gets the options of each enabled `auto_cast`.

    The CPU still computes in float32, and what leaves the encoder is rounded to float16. The encoder must run
    within such a context.
    """
    calls: list[dict] = []
    are_enabled: list[bool] = []  # of each context that is open now, the innermost last

    @contextlib.contextmanager
    def auto_cast(enable=True, **options):
        if enable:
            calls.append(options)
        are_enabled.append(enable)
        yield
        are_enabled.pop()

    encode = ErnieMModel.encode

    def encode_in_half(*args, **options):
        output = encode(*args, **options)
        assert are_enabled[-1]
        return output._replace(sequence=output.sequence.astype("float16").astype("float32"))

    monkeypatch.setattr(openvino_engine, "has_gpu", lambda: True)
    monkeypatch.setattr(precision, "is_on_gpu", lambda: True)
    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(ErnieMModel, "encode", encode_in_half)
    return calls


def test_half_precision_on_a_gpu(models, autocasts, encode_texts, ask):
    """From Python, by ernie-m predict and by encode_vector.py each forward pass is in an `auto_cast`."""
    ernie_m.load(models / "classify", amp="fp16").classify(TEXTS)
    ask([{"text": text} for text in TEXTS], task="embedding", model=models / "encode", amp="fp16")
    written = encode_texts(TEXTS, models / "encode", amp="fp16", vectors="official")
    assert written["cls_emb"].dtype == np.float32
    assert autocasts == [{"level": "O1", "dtype": "float16"}] * 3  # each of the three has one batch
