"""OpenVINO as the engine of predictions: alone, next to Paddle, in forks, and what is refused."""

import json
import os
import subprocess
import sys
import textwrap
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ernie_m
from ernie_m.inference import load as loading
from ernie_m.inference import openvino_engine
from ernie_m.inference.load import choose_engine, load
from ernie_m.model.checkpoint.weights import WEIGHTS
from ernie_m.utils.errors import get_install_command
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.launching import error_of
from tests.toys import sentences

TEXTS = sentences(12, seed=4)


def run_alone(models, folder, code: str, **environment: str) -> str:
    """What a process prints without Paddle, with a HOME of its own."""
    before = f"""
        import os, pathlib, signal, socket, sys, threading
        sys.modules["paddle"] = None
        import ernie_m
        models, texts = pathlib.Path({str(models)!r}), {TEXTS!r}
    """
    # Python 3.12 and later warn if a process with threads forks.
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", textwrap.dedent(before) + textwrap.dedent(code)],
        env={**os.environ, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_needs_no_paddle_and_tells_nobody(models, tmp_path):
    """No file in HOME, no thread of Python, no connection. What is fitted is written."""
    code = """
        def connect(*given):
            raise OSError("a connection")
        socket.socket.connect = connect
        model = ernie_m.load(models / "encode")
        assert model.engine == "openvino" and "engine openvino" in repr(model)
        model.encode(texts)
        model.index(texts).search(texts[0])
        fitted = model.fit(texts, ["a", "b"] * 6, pathlib.Path.home() / "fitted")
        fitted.classify(texts)
        ernie_m.load(models / "classify").classify(texts)
        ernie_m.load(models / "tag").tag(texts)
        ernie_m.load(models / "answer").answer(texts[0], texts[1])
        print(threading.active_count(), sorted(os.listdir(pathlib.Path.home())))
    """
    assert run_alone(models, tmp_path, code, OMP_NUM_THREADS="1") == "1 ['fitted']\n"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_forked_process_answers_and_ends(models, tmp_path, threads):
    code = """
        model = ernie_m.load(models / "encode")
        texts = texts * 30
        expected = model.encode(texts).tobytes()
        child = os.fork()
        if not child:
            signal.alarm(60)
            sys.exit(model.encode(texts).tobytes() != expected)
        print(os.waitpid(child, 0)[1])
    """
    assert run_alone(models, tmp_path, code, OMP_NUM_THREADS=threads) == "0\n"


@pytest.mark.parametrize(("threads", "begun_and_ended"), [("1", "1 0"), ("2", "2 2")])
def test_ctrl_c_during_a_batch(models, tmp_path, threads, begun_and_ended):
    """The workers have ended their batches before the command ends, and have begun no others."""
    code = """
        import json, time
        from ernie_m.commands import predict
        from ernie_m.inference.openvino_engine import OpenVinoEngine
        from ernie_m.utils.errors import run
        compute = OpenVinoEngine.__call__
        begun, ended = [], []
        def compute_long(self, ids):
            begun.append(ids)
            if len(begun) == int(os.environ["OMP_NUM_THREADS"]):
                threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            end = time.monotonic() + 2 / len(begun)  # the first batch ends last
            while time.monotonic() < end:
                outputs = compute(self, ids)
            ended.append(ids)
            return outputs
        OpenVinoEngine.__call__ = compute_long
        requests = pathlib.Path.home() / "requests.jsonl"
        requests.write_text("".join(json.dumps({"text": text}) + "\\n" for text in texts * 300))
        model = str(models / "encode")
        sys.argv = ["predict", "--task", "embedding", "--model", model, "--input", str(requests)]
        sys.stderr = sys.stdout
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
        signal.alarm(60)
        try:
            run(predict.main)
        except SystemExit as exit:
            print(exit.code, len(begun), len(ended))
    """
    expected = f"interrupted\n130 {begun_and_ended}\n"
    assert run_alone(models, tmp_path, code, OMP_NUM_THREADS=threads).endswith(expected)


def test_a_signal_after_a_model_was_freed_in_a_thread(models, tmp_path):
    """Ctrl-C ended the process by a fault, as OpenVINO had taken the stack of its signals away."""
    code = """
        models = [ernie_m.load(models / "encode")]
        models[0].encode(texts)
        thread = threading.Thread(target=models.clear)
        thread.start()
        thread.join()
        signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
        os.kill(os.getpid(), signal.SIGINT)
    """
    assert run_alone(models, tmp_path, code) == "interrupted\n"


def test_a_cpu_without_avx(models, monkeypatch):
    """There the library answers with no rows."""
    engine = ernie_m.load(models / "encode", engine="openvino").loaded.get_engine("embedding")
    request = SimpleNamespace(infer=lambda inputs: {"sequence": np.zeros((0, 0, 32))})
    monkeypatch.setattr(engine._of_thread, "request", request, raising=False)  # other tests have this engine
    assert "--engine paddle-eager" in error_of(engine, np.array([[0, 5, 2]]))


def test_an_exception_of_openvino_names_the_weights(models, monkeypatch):
    engine = ernie_m.load(models / "encode", engine="openvino").loaded.get_engine("embedding")
    request = mock.Mock(infer=mock.Mock(side_effect=RuntimeError("at file.cpp:7\nout of memory")))
    monkeypatch.setattr(engine._of_thread, "request", request, raising=False)
    assert (
        error_of(engine, np.array([[0, 5, 2]])) == f"{engine.source}: OpenVINO cannot run it: out of memory"
    )


@pytest.mark.parametrize("layers", [toys.LAYERS, 0])  # 0: a static model
@pytest.mark.parametrize(
    ("kind", "task", "settings"),
    [
        ("encode", "embedding", {}),
        ("classify", "classification", {}),
        ("classify", "classification", {"pipeline": stored(pooling="mean")}),
        ("classify", "multi-label", {"pipeline": stored(multi_label=True)}),
        ("score", "regression", {"task": "classification"}),
        ("score", "regression", {"task": "choice"}),
        ("tag", "token-classification", {}),
        ("answer", "question-answering", {}),
    ],
)
def test_both_engines_answer_equally(models, tmp_path, monkeypatch, kind, task, settings, layers):
    make_config = partial(toys.small_config, num_hidden_layers=layers)
    monkeypatch.setattr(toys, "model_config", lambda size: make_config(vocab_size=size))
    settings = toys.SETTINGS.get(kind, {}) | settings
    toys.make_model(tmp_path / "model", kind, models / "piece.model", settings)
    request = {"question": TEXTS[0], "context": TEXTS[1]} if kind == "answer" else {"text": TEXTS[0]}
    expected, answers = (
        ernie_m.load(tmp_path / "model", engine=engine)._predict(task, [request])
        for engine in ("paddle-eager", "openvino")
    )
    near = json.loads(json.dumps(answers), parse_float=lambda text: pytest.approx(float(text), abs=1e-5))
    assert near == expected


def test_heads_and_embeddings_share_an_encoder(models, monkeypatch):
    """Those of a model, and of models fitted from it. Other tests share a folder's graph; this does not."""
    monkeypatch.setattr(loading, "make_encoder_engine", openvino_engine.make_encoder_engine)
    model = ernie_m.load(models / "classify")
    model.classify(TEXTS)
    assert model.loaded.get_engine("classification").encode is model.loaded.get_engine("embedding")
    base = ernie_m.load(models / "encode")
    first, second = (base.fit(TEXTS, [n % 2 for n in range(12)][::step]) for step in (1, -1))
    assert first.classify(TEXTS) != second.classify(TEXTS)
    encoders = [fitted.loaded.get_engine("embedding") for fitted in (first, second)]
    assert encoders[0] is encoders[1] is base.loaded.get_engine("embedding")


@pytest.mark.parametrize(
    ("installed", "has_gpu", "is_best"),
    [
        ({"openvino": 1, "paddle": 1}, False, True),
        ({"openvino": 1, "paddle": 1}, True, False),
        ({"openvino": 1}, True, True),  # Paddle cannot use the GPU
        ({"paddle": 1}, False, False),
    ],
)
def test_where_it_is_best(monkeypatch, installed, has_gpu, is_best):
    monkeypatch.setattr(openvino_engine, "find_spec", installed.get)
    monkeypatch.setattr(openvino_engine, "has_gpu", lambda: has_gpu)
    assert openvino_engine.is_openvino_best() is is_best
    assert choose_engine("onnx") == "onnx"  # what is asked for


def test_without_it_paddle_predicts(models, monkeypatch, caplog):
    """The log says once what to install."""
    expected = ernie_m.load(models / "encode").encode(TEXTS)
    monkeypatch.setattr(openvino_engine, "is_openvino_installed", lambda: False)
    loading._recommend_openvino.cache_clear()
    for _ in range(2):
        model = ernie_m.load(models / "encode")
    assert model.engine == "paddle-eager"
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    assert sum(get_install_command("openvino") in message for message in caplog.messages) == 1
    assert error_of(load, models / "encode", engine="openvino").startswith("engine openvino: ")


def test_fill_mask_needs_paddle(models):
    assert "engine openvino does not support fill-mask" in error_of(
        load, models / "full", engine="openvino", task="fill-mask"
    )
    model = ernie_m.load(models / "full")
    assert model.engine == "openvino"
    assert model.fill("mo [MASK]") == ernie_m.load(models / "full", engine="paddle-eager").fill("mo [MASK]")


def test_truncated_weights(models, tmp_path):
    """Without a manifest; also while the model is in use."""
    folder = changed_copy(models / "encode", tmp_path / "copy")
    model = ernie_m.load(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])
    for call in (load, lambda folder: model.encode(TEXTS)):
        assert error_of(call, folder).startswith(f"{folder / WEIGHTS}: ")


def test_weights_that_are_missing(models, tmp_path):
    folder = changed_copy(models / "encode", tmp_path / "copy")
    weights = load_file(folder / WEIGHTS)
    del weights["encoder.layers.1.linear2.bias"]
    save_file(weights, folder / WEIGHTS)
    assert "encoder.layers.1.linear2.bias" in error_of(load, folder, engine="openvino")
