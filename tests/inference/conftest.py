"""Models, exported and not; ernie-m predict called as a function."""

import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import encode_vector, export, predict
from ernie_m.inference.openvino_engine import OpenVinoEngine, make_encoder_engine
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.threads import get_thread_count
from tests import toys
from tests.helpers.checkpoints import stored
from tests.launching import as_flags, call_main, give_input, one_error
from tests.toys import write_lines


@pytest.fixture(scope="session", autouse=True)
def no_graph_is_compiled_twice() -> Iterator[None]:
    """In this process, models with the same weights from the same folder share a graph of OpenVINO.

    The tests load the models of `models` hundreds of times, and each graph takes a fifth of a second.
    test_engines_same_bits.py, and whatever starts a command in a process of its own, make theirs anew.
    """
    engines = {}

    def find(weights: Weights, config: ErnieMConfig, layer: int, amp: str) -> OpenVinoEngine:
        digest = blake2b()
        for array in weights.values():
            digest.update(array.tobytes())
        key = (str(weights.source), digest.digest(), str(config), layer, amp, get_thread_count())
        if key not in engines:
            engines[key] = make_encoder_engine(weights, config, layer, amp)
        return engines[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ernie_m.inference.load.make_encoder_engine", find)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a checkpoint of each kind: classify, tag, answer, encode, full."""
    return toys.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def reranker(models, tmp_path_factory):
    """The folder of a classifier of pairs with one output."""
    folder = tmp_path_factory.mktemp("ranker") / "reranker"
    settings = {"task": "classification", "labels": ["score"], "pipeline": stored(regression=True)}
    toys.make_model(folder, "score", models / "piece.model", settings)
    return folder


@pytest.fixture
def encoder(models):
    """The checkpoint "encode", loaded from Python."""
    return ernie_m.load(models / "encode")


def write_means(folder: Path, languages: Sequence[str]) -> None:
    """Write made-up means of languages into a model's folder; they change which texts are near."""
    random = np.random.default_rng(5)
    means = random.normal(size=(len(languages), toys.LAYERS + 1, toys.HIDDEN_SIZE)).astype(np.float32)
    safetensors.write(folder / LANGUAGE_MEANS, dict(zip(languages, means)))


@pytest.fixture(scope="session")
def exported(models, tmp_path_factory):
    """A folder with the ONNX file of each model with one task: classify, tag, answer, encode."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in ("classify", "tag", "answer", "encode"):
        run_export(models / kind, folder / kind)
    return folder


@pytest.fixture(scope="session")
def model_folder(models, exported, tmp_path_factory):
    """model_folder(kind, engine): the folder of a kind of model that an engine runs."""
    folder = tmp_path_factory.mktemp("paddle-inference")

    def find(kind: str, engine: str) -> Path:
        if engine != "paddle-inference":
            return (exported if engine == "onnx" else models) / kind
        if not (folder / kind).exists():  # each is made where it is used first, as a trace takes a second
            run_export(models / kind, folder / kind, format=engine)
        return folder / kind

    return find


def run_export(model, output, format="onnx", **flags):
    """Run ernie-m export in this process, and return the settings that it wrote. ONNX needs no trace."""
    call_main(export, as_flags({"model": model, "output": output, "format": format} | flags))
    return json.loads((output / "config.json").read_text(encoding="utf-8"))


@pytest.fixture
def ask(monkeypatch, capsys):
    """ask(requests, **flags) gives ernie-m predict requests on standard input, and returns the answers.

    The requests are JSON values, or bytes that are given as they are.
    """

    def call(requests, **flags):
        if isinstance(requests, bytes):
            text = requests
        else:
            text = "\n".join(map(json.dumps, requests)).encode()
        give_input(monkeypatch, text)
        capsys.readouterr()
        call_main(predict, as_flags(flags))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.fixture
def encode_texts(tmp_path, monkeypatch):
    """encode_texts(texts, model, output="out", **flags) runs encode_vector.py for the means of texts.

    What is returned are the arrays that it wrote: name of the file -> array.
    """

    def call(texts, model, output="out", **flags):
        path = tmp_path / f"{output}.txt"
        write_lines(path, texts)
        folder = tmp_path / output
        locations = {"data_set": path, "output_dir": folder, "init_pretraining_params": model}
        others = {"data_format": "text", "vectors": "mean_without_special", "max_seq_len": toys.LONGEST}
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        call_main(encode_vector, as_flags({"use_cuda": "false", **locations, **others, **flags}))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        return {path.stem: np.load(path) for path in folder.glob("*.npy")}

    return call


@pytest.fixture
def refused(capsys):
    """refused(main) -> the one line of error with which main() ends; see `one_error`."""
    return lambda main: one_error(main, capsys)
