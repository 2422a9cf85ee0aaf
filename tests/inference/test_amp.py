"""Predictions in bfloat16 on a CPU: near those in float32; where they cannot be made, one line says so."""

import numpy as np
import paddle
import pytest

import encode_vector
import ernie_m
import predict
from model.cpu import onednn
from tests.launching import as_flags, call_main
from utils.errors import UserError

TEXTS = ["the old cat", "a red saw is here", "the milk"]


def test_from_python(models, cpu_with_bf16):
    in_float32 = ernie_m.load(models / "classify").classify(TEXTS)
    in_bfloat16 = ernie_m.load(models / "classify", amp="bf16").classify(TEXTS)
    assert in_bfloat16 != in_float32
    for rounded, exact in zip(in_bfloat16, in_float32, strict=True):
        assert rounded["probabilities"] == pytest.approx(exact["probabilities"], abs=0.01)


def test_predict(models, ask, cpu_with_bf16):
    requests = [{"text": text} for text in TEXTS]
    in_float32 = ask(requests, task="encode", model=models / "encode")
    in_bfloat16 = ask(requests, task="encode", model=models / "encode", amp="bf16")
    for rounded, exact in zip(in_bfloat16, in_float32, strict=True):
        assert rounded != exact
        assert rounded["vector"] == pytest.approx(exact["vector"], abs=0.05)


def test_encode_vector(models, tmp_path, cpu_with_bf16):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    vectors = {}
    for amp in ("none", "bf16"):
        flags = {
            "data_set": tmp_path / "texts.txt",
            "data_format": "text",
            "output_dir": tmp_path / amp,
            "init_pretraining_params": models / "encode",
            "max_seq_len": 32,
            "vectors": "mean",
            "amp": amp,
        }
        call_main(encode_vector, as_flags(flags))
        vectors[amp] = np.load(tmp_path / amp / "vectors.npy")
    assert not np.array_equal(vectors["bf16"], vectors["none"])
    assert np.linalg.norm(vectors["bf16"] - vectors["none"]) < 0.02 * np.linalg.norm(vectors["none"])


def test_what_is_refused(models, exported, refused, monkeypatch):
    def call(model):
        return lambda: call_main(predict, as_flags({"task": "encode", "model": model, "amp": "bf16"}))

    assert "encode: amp bf16 is for checkpoints; this folder" in refused(call(exported / "encode"))
    monkeypatch.setattr(onednn, "missing", lambda: "a CPU with bfloat16")
    assert refused(call(models / "encode")).endswith("amp bf16 needs a CPU with bfloat16: leave it out")
    with pytest.raises(UserError, match="amp fp16: predictions are made in bf16 or none"):
        ernie_m.load(models / "encode", amp="fp16")
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    with pytest.raises(UserError, match="amp bf16: predictions on a GPU are made in float32"):
        ernie_m.load(models / "encode", amp="bf16")
