"""ernie-m export: every graph equals the model on rows of mixed length; refused models and folders."""

import dataclasses
import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import onnx
import paddle
import pytest

from ernie_m.commands import predict
from ernie_m.inference import encoder_graph, onnx_engine, openvino_engine
from ernie_m.inference import load as loading
from ernie_m.inference.encode_vector import open_encoder
from ernie_m.inference.encode_vector_args import EncodeVectorFlags
from ernie_m.inference.engines import FILES, WEIGHTS_FILES
from ernie_m.inference.export import compute_max_difference, compute_outputs, generate_random_inputs
from ernie_m.inference.export_onnx import write_onnx
from ernie_m.inference.export_paddle import ExportedGraph
from ernie_m.inference.load import _log_engine, load
from ernie_m.inference.onnx_engine import OnnxEngine
from ernie_m.inference.openvino_engine import load_onnx_file, make_encoder_engine
from ernie_m.inference.paddle_eager_engine import PaddleEagerEngine
from ernie_m.inference.tasks.encode import GraphEncoder
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import POOLED, TASKS
from ernie_m.reader.batching import iter_padded_batches, pad
from ernie_m.utils.checksums import MANIFEST, write_manifest
from tests import toys
from tests.helpers.batches import PAD, padded_batch
from tests.helpers.checkpoints import changed_copy, stored
from tests.helpers.files import disk_full_after, flip_middle_bit, write_files
from tests.inference.conftest import run_export
from tests.launching import as_flags, call_main, check_error, error_of, run_script
from tests.toys import sentences, write_lines

# The kind of a model -> its task.
TASK_OF = {
    "encode": "embedding",
    "classify": "classification",
    "tag": "token-classification",
    "answer": "question-answering",
}

NAMES_IN_FILES = dict(zip(TASK_OF, ["encoding", "classification", "tagging", "question_answering"]))


def draw_rows(model):
    """Rows of random ids, of 3 tokens to the maximum length of the model."""
    tokenizer = model.tokenizer
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids)
    rows = generate_random_inputs(model.max_length, ordinary, tokenizer.cls_id, tokenizer.sep_id)
    assert len({len(row) for row in rows}) > 20 and max(map(len, rows)) == toys.LONGEST
    return rows


def directly(models, kind, rows):
    """Yield for each row the outputs of the Paddle model itself, as a list of arrays."""
    model = toys.model(kind, toys.model_config(load(models / kind).config.vocab_size))
    load_weights(model, open_checkpoint(models / kind))
    for row in rows:
        inputs = padded_batch([row])
        if kind == "encode":
            states = model.encode(inputs).sequence
            outputs = (states.unsqueeze(0), model.pooler(states[:1]))  # [1, T, H], [1, H]
        else:
            outputs = model(inputs)
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        yield [output.numpy()[0] for output in outputs]


@pytest.mark.parametrize("engine", ["openvino", "paddle-eager", "paddle-inference", "onnx"])
@pytest.mark.parametrize("kind", TASK_OF)
def test_every_engine_equals_the_model(models, model_folder, kind, engine):
    model = load(model_folder(kind, engine), engine=engine)
    assert model.engine_name == engine
    rows = draw_rows(model)
    expected = list(directly(models, kind, rows))
    task = TASK_OF[kind]
    batches = list(iter_padded_batches(rows, PAD, batch_tokens=128))
    assert len(batches) > 10
    for numbers, ids in batches:
        outputs = model.get_engine(task)(ids)
        assert tuple(outputs) == tuple(TASKS[task].outputs)
        for number, *outputs_of_row in zip(numbers, *outputs.values()):
            for output, expected_output in zip(outputs_of_row, expected[number], strict=True):
                if len(output) == ids.shape[1]:  # per token, with pads
                    output = output[: len(rows[number])]
                np.testing.assert_allclose(output, expected_output, atol=1e-4)


def test_a_graph_with_another_pad_id_and_epsilon(models, tmp_path):
    model = load(models / "encode")
    weights = open_checkpoint(models / "encode").tensors
    rows = draw_rows(model)[:9]
    outputs = []
    for pad_id in (PAD, model.tokenizer.mask_id):
        config = dataclasses.replace(model.config, pad_token_id=pad_id, layer_norm_eps=0.01)
        encoder = toys.model("encode", config)
        load_weights(encoder, open_checkpoint(models / "encode"))
        write_onnx(tmp_path / "model.onnx", weights, config, "embedding", toys.LAYERS)
        for run in (
            OnnxEngine(tmp_path / "model.onnx"),
            load_onnx_file(tmp_path / "model.onnx", config, "embedding", True),
            make_encoder_engine(weights, config, toys.LAYERS, "none"),
            PaddleEagerEngine(encoder, "embedding", toys.LAYERS),
        ):
            outputs.append(compute_outputs("embedding", run, rows, pad_id))
    for other in outputs[1:]:
        assert compute_max_difference(outputs[0], other) < 1e-5
    changed = [row | {"pooled": row["pooled"] + 1} for row in outputs[0]]
    assert compute_max_difference(outputs[0], changed) == pytest.approx(1)


@pytest.mark.parametrize("pooling", [POOLED, MEAN_OF_TOKENS])
def test_the_traced_classifier_equals_the_model(pooling):
    """Whatever it reads, with pads."""
    model = SequenceClassifier(toys.model_config(99), 3, pooling=pooling).eval()
    ids = np.array([[0, 5, 6, 7, 2], [0, 8, 2, PAD, PAD]])
    expected = PaddleEagerEngine(model, "classification", toys.LAYERS)(ids)["logits"]
    with paddle.no_grad():
        (logits,) = ExportedGraph(model, "classification", toys.LAYERS)(paddle.to_tensor(ids))
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["paddle-inference", "onnx"])
@pytest.mark.parametrize("kind", ["official", "mean", "pooler"])
def test_encode_vector_writes_the_same_files(models, model_folder, encode_texts, engine, kind):
    texts = sentences(40, seed=2)
    expected = encode_texts(texts, models / "encode", "model", vectors=kind)
    arrays = encode_texts(texts, model_folder("encode", engine), "export", vectors=kind)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(arrays[name], array, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("target", FILES)
@pytest.mark.parametrize("kind", TASK_OF)
def test_export_files_and_report(model_folder, target, kind):
    """Files have other words for a task than --task."""
    folder = model_folder(kind, target)
    if target == "onnx":
        graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
        assert graph.name == f"ernie_m_{NAMES_IN_FILES[kind]}"
    names = {"README.md", "config.json", "manifest.json", "piece.model", "vocab.txt"}
    assert {path.name for path in folder.iterdir()} == names | {
        FILES[target],
        WEIGHTS_FILES[target],
    }
    settings = json.loads((folder / "config.json").read_text())
    assert settings == {
        **toys.model_config(settings["vocab_size"]).to_dict(),
        "model_type": "ernie_m",
        "pipeline": stored(),
        **{key: value for key, value in toys.SETTINGS[kind].items() if value},
        "task": NAMES_IN_FILES[kind],
        "export": {
            "task": NAMES_IN_FILES[kind],
            "layer": 2,
            "outputs": [*TASKS[TASK_OF[kind]].outputs],
            "has_pooler": True,
            "checked_on": "64 random sequences",
            "engines": {target: pytest.approx(0, abs=1e-4)},
        },
    }
    card = (folder / "README.md").read_text()
    assert all(label in card for label in settings.get("labels", ()))
    assert f"Largest difference: {target}" in card and f"\n- Task: {NAMES_IN_FILES[kind]}\n" in card


def test_default_export_is_paddle_inference_without_warnings(models, tmp_path):
    flags = ["--model", models / "classify", "--output", tmp_path / "out"]
    completed = run_script(["-m", "ernie_m", "export", *flags], tmp_path)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert (tmp_path / "out/inference.json").is_file()


def test_an_encoder_that_ends_at_a_layer(models, tmp_path):
    for target in FILES:
        flags = {"task": "embedding", "layer": 1, "format": target}
        settings = run_export(models / "classify", tmp_path / target, **flags)
        assert settings["export"]["outputs"] == ["sequence"]
    graph = onnx.load(str(tmp_path / "onnx/model.onnx"), load_external_data=False).graph
    assert [output.name for output in graph.output] == ["sequence"]
    assert not any("layers.1" in tensor.name for tensor in graph.initializer)
    checkpoint = load(models / "classify", engine="paddle-eager")
    ids = pad(draw_rows(checkpoint)[:5], PAD)
    output = checkpoint.model.ernie_m.encode(padded_batch(ids), output_hidden_states=True)
    for target in FILES:
        sequence = load(tmp_path / target).get_engine("embedding")(ids)["sequence"]  # [5, T, H]
        is_real = ids != PAD  # [5, T]; hidden states are those of the real tokens alone
        np.testing.assert_allclose(sequence[is_real], output.hidden_states[1].numpy(), atol=1e-4)
    assert "up to layer 1" in error_of(load(tmp_path / "onnx").get_engine, "embedding", 2)


def test_a_pretrained_model_is_exported_as_an_encoder(models, tmp_path, monkeypatch, capsys):
    devices = []  # the arguments of paddle.set_device
    monkeypatch.setattr(paddle, "set_device", devices.append)
    _log_engine.cache_clear()  # it logs an engine once in a process
    settings = run_export(models / "full", tmp_path / "out")
    assert devices == ["cpu"]  # even where there is a GPU
    assert settings["export"]["task"] == "encoding" and "languages" not in settings
    difference = f"{settings['export']['engines']['onnx']:.1e} (64 random sequences)"
    assert capsys.readouterr().out.splitlines() == [
        "engine: Paddle",
        "exporting the encoder only, without the masked-LM head and the language embeddings",
        f"onnx: maximum difference from the checkpoint: {difference}",
        f"exported embedding: {tmp_path}/out",
    ]


@pytest.mark.parametrize("masked_score", [0.0, math.nan])  # with 0.0 tokens attend to pads
def test_a_graph_that_does_not_agree_is_not_left(models, tmp_path, monkeypatch, refused, masked_score):
    monkeypatch.setattr(encoder_graph, "MASKED_SCORE", masked_score)
    check_error(refused(lambda: run_export(models / "tag", tmp_path / "out")), "1e-04", start="error: onnx: ")
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_cannot_be_replaced(models, tmp_path, in_tmp_path, refused):
    assert "--output . " in refused(lambda: run_export(models / "classify", "."))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_an_export_without_files(models, tmp_path, refused):
    """Paddle writes only a part of its weights and reports no error, but ernie-m export notices it."""
    with disk_full_after(20_000):  # bytes, which are fewer than the weights have
        line = refused(lambda: run_export(models / "encode", tmp_path / "out", format="paddle-inference"))
    assert f"{tmp_path / 'out'}: " in line
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written(models, tmp_path, monkeypatch, refused):
    """Paddle writes the code that it traces there."""
    monkeypatch.setenv("HOME", "/dev/null")
    check_error(
        refused(lambda: run_export(models / "encode", tmp_path / "out", format="paddle-inference")),
        "/dev/null/.cache/paddle: ",
        "HOME",
    )
    assert list(tmp_path.iterdir()) == []


def test_export_does_not_delete_other_files(models, tmp_path, refused):
    """An export replaces the earlier one, of either form, and nothing else: neither weights nor a file."""
    shutil.copytree(models / "tag", tmp_path / "with_graph")
    write_files(tmp_path, {"with_graph/model.onnx": b"", "file": "mine"})
    for name in ("with_graph", "file"):
        assert f"--output {tmp_path / name} already exists and is not an export" in refused(
            partial(run_export, models / "tag", tmp_path / name)
        )
    run_export(models / "classify", tmp_path / "out")
    (tmp_path / "out/inference.json").touch()
    assert load(tmp_path / "out").engine_name == "onnx"  # the first one of two
    run_export(models / "encode", tmp_path / "out")
    assert not (tmp_path / "out/inference.json").exists()
    (tmp_path / "out/notes.txt").write_text("mine")
    check_error(
        refused(lambda: run_export(models / "encode", tmp_path / "out")),
        f"--output {tmp_path / 'out'}: ",
        "notes.txt",
    )
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


GRAPH_FILES = ["model.onnx", "model.onnx.data", "inference.pdiparams", "inference.json"]


@pytest.mark.parametrize("name", [*GRAPH_FILES, "vocab.txt", "piece.model"])
def test_name_corrupt_file(model_folder, tmp_path, refused, name):
    """One bit is changed. Without the checksums it could go unnoticed, and change the predictions."""
    engine = "paddle-inference" if name.startswith("inference") else "onnx"
    folder = shutil.copytree(model_folder("classify", engine), tmp_path / "copy")
    flip_middle_bit(folder / name)
    requests = write_lines(tmp_path / "in.jsonl", ['{"text": "bado"}'])
    flags = {"task": "classification", "model": folder, "input": requests}
    assert f"{folder / name}: " in refused(lambda: call_main(predict, as_flags(flags)))


@pytest.mark.parametrize("name", GRAPH_FILES)
def test_corrupt_files_without_a_manifest(model_folder, tmp_path, name):
    """Only the engine can notice it."""
    engine = "onnx" if "onnx" in name else "paddle-inference"
    folder = changed_copy(model_folder("classify", engine), tmp_path / "copy")
    data = (folder / name).read_bytes()
    for content in (data[: len(data) // 3], b"{}"):
        (folder / name).write_bytes(content)
        line = error_of(load(folder).get_engine, "classification")
        assert f"{folder}/" in line and "load it" in line and "Exception from" not in line


@pytest.mark.parametrize("error", [ValueError("odd"), type("OfTheEngine", (Exception,), {})("odd")])
def test_an_exception_of_onnx_runtime_names_the_file(monkeypatch, error):
    """Its exceptions are classes of its own, or Python's."""
    monkeypatch.setattr("onnxruntime.InferenceSession", mock.Mock(side_effect=error))
    assert error_of(OnnxEngine, Path("model.onnx")).startswith("model.onnx: ")


@pytest.mark.parametrize("error", [MemoryError(), type("OfTheEngine", (Exception,), {})("odd\nline")])
def test_an_exception_of_an_engine_names_the_export(exported, monkeypatch, error):
    monkeypatch.setattr("ernie_m.inference.load.load_onnx", lambda *given: mock.Mock(side_effect=error))
    line = error_of(load(exported / "encode").get_engine("embedding"), np.array([[0, 5, 2]]))
    assert line.startswith(f"{exported / 'encode'}: ") and type(error).__name__ in line and "\n" not in line


@pytest.mark.parametrize(
    "change",
    [
        {"export": 7},
        {"export": {"task": ["classification"], "layer": 2, "has_pooler": True}},
        {"export": {"task": "classification", "layer": "2", "has_pooler": True}},
        {"export": {"task": "classification", "layer": 3, "has_pooler": True}},
        {"export": {"task": "classification", "layer": -1, "has_pooler": True}},
        {"export": {"task": "classification", "layer": True, "has_pooler": True}},
        {"export": {"task": "classification", "layer": 2}},
        {"export": {"task": "classification", "has_pooler": True}},
        {"labels": {"a": 1}},
        {"labels": ["a", None, "b"]},
        {"labels": []},
        {"pipeline": ["max_seq_len"]},
        {"pipeline": stored(max_seq_len="9")},
        {"hidden_size": "9"},
    ],
)
def test_a_config_that_was_not_exported(exported, tmp_path, change):
    """Without a manifest nothing says that it is as it was written."""
    folder = changed_copy(exported / "classify", tmp_path / "copy", **change)
    assert f"{folder / 'config.json'}: " in error_of(lambda: make_predictor("classification", load(folder)))


def test_reject_config_with_another_width(exported):
    loaded = load(exported / "encode")
    wider = dataclasses.replace(loaded.config, hidden_size=2 * loaded.config.hidden_size)
    encoder = GraphEncoder(loaded.get_engine("embedding"), wider, "mean_without_special", toys.LAYERS)
    assert "config.json: hidden_size" in error_of(encoder.encode, [[0, 5, 2]])


def test_engines_that_are_not_there(models, model_folder):
    folder = model_folder("tag", "paddle-inference")
    for engine in ("onnx", "paddle-eager"):
        assert f"{folder}: engine {engine} is not available (exported for: paddle-inference)" in error_of(
            load, folder, engine=engine
        )
    assert "engine onnx " in error_of(load, models / "tag", engine="onnx")
    assert "tag: amp fp16 " in error_of(load, model_folder("tag", "onnx"), amp="fp16")
    assert "for token-classification" in error_of(load(folder).get_engine, "classification")


def test_weights_that_are_not_finite(exported, tmp_path):
    """Of an export of a stranger, whose checksums fit."""
    folder = shutil.copytree(exported / "encode", tmp_path / "encode")
    file = folder / WEIGHTS_FILES["onnx"]
    file.write_bytes(np.full(file.stat().st_size // 4, np.nan, np.float32).tobytes())
    (folder / MANIFEST).unlink()
    write_manifest(folder / MANIFEST)
    assert error_of(load(folder).get_engine("embedding"), np.array([[0, 5, 2]])).startswith(f"{folder}: ")


def test_only_an_onnxruntime_that_is_not_there_is_called_missing(tmp_path, monkeypatch):
    """An interrupted import does not mean that the library is missing."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime" in error_of(OnnxEngine, tmp_path / "model.onnx")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('interrupted')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="interrupted"):
        OnnxEngine(tmp_path / "model.onnx")


class OnnxRuntime:
    """What `OnnxEngine` uses of onnxruntime, on a machine with a GPU.

    Args:
        available, used: the devices that it was built for, and those of its sessions: letters of GPU, CPU.
    """

    def __init__(self, available, used):
        names = {"G": "CUDAExecutionProvider", "C": "CPUExecutionProvider"}
        self.available = [names[letter] for letter in available]
        self.used = [names[letter] for letter in used]
        self.SessionOptions = SimpleNamespace
        self.calls = []

    def get_available_providers(self):
        return self.available

    def preload_dlls(self):
        self.calls.append("preload")
        print("libcublas.so.12 is not there")

    def InferenceSession(self, path, options, providers):
        self.threads = options.intra_op_num_threads
        self.calls.append([name for name, _ in providers])
        return SimpleNamespace(get_providers=lambda: self.used, get_outputs=list)


@pytest.mark.parametrize(
    ("available", "used", "with_gpu", "preloads", "said"),
    [
        ("GC", "GC", True, True, None),
        ("GC", "GC", True, None, None),  # an older one, which has no such function
        ("GC", "C", True, True, "CUDA"),
        ("C", "C", True, False, "onnxruntime-gpu"),
        ("GC", "C", False, False, None),
        ("C", "C", False, False, None),
    ],
)
def test_warn_once_if_onnx_does_not_run_on_the_gpu(
    monkeypatch, capsys, caplog, available, used, with_gpu, preloads, said
):
    """Nothing of it goes to standard output, where answers are."""
    library = OnnxRuntime(available, used)
    if preloads is None:
        monkeypatch.delattr(OnnxRuntime, "preload_dlls")
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    for module in (onnx_engine, loading):
        monkeypatch.setattr(module, "has_gpu", lambda: with_gpu)
    monkeypatch.setattr(openvino_engine, "is_openvino_installed", lambda: with_gpu)  # it has no GPU
    monkeypatch.setattr(onnx_engine, "read_cpu", lambda: SimpleNamespace(cores=37))
    onnx_engine._warn_about_cpu.cache_clear()
    for _ in range(2):
        loading.load_onnx(Path("model.onnx"), None, "embedding", False)
    assert library.threads == 37  # as many as this process may use
    assert library.calls == [*(["preload"] if preloads else []), library.available] * 2
    assert capsys.readouterr().out == ""
    assert len(caplog.messages) == (said is not None) and (said or "") in "".join(caplog.messages)


def change_export(source, target, **changes):
    """Copy an export with other values in what its config.json says of it, and return the copy."""
    export = json.loads((source / "config.json").read_text(encoding="utf-8"))["export"]
    return changed_copy(source, target, export=export | changes)


@pytest.mark.parametrize("kind", ["official", "pooler"])
def test_encode_vector_needs_the_pooler(exported, encode_texts, tmp_path, refused, kind):
    folder = change_export(exported / "encode", tmp_path / "copy", has_pooler=False)
    assert f"{folder}: " in refused(lambda: encode_texts(["mo"], folder, vectors=kind))
    assert len(encode_texts(["mo"], folder, "mean", vectors="mean")["vectors"]) == 1


def test_encode_vector_uses_the_exported_layer(exported, encode_texts, tmp_path, refused):
    """Layer and maximum length are the export's by default; another --layer is refused."""
    folder = change_export(exported / "encode", tmp_path / "copy", layer=1)
    named, default = (
        encode_texts(["bado kani " * 99], folder, f"cut{length}", max_seq_len=length, layer=layer)["vectors"]
        for length, layer in ((toys.LONGEST, 1), ("", None))
    )
    np.testing.assert_array_equal(named, default)
    assert f"{folder}" in refused(lambda: encode_texts(["mo"], folder, layer=2))
    weights = {"data_set": "-", "init_pretraining_params": str(folder)}
    shorter = EncodeVectorFlags(**weights, vectors="mean", max_seq_len=9)
    assert open_encoder(shorter)[0].max_seq_len == 9  # a default below the room stays
