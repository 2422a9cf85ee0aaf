"""The toy task, and run_classifier.py called as a function."""

import json
from functools import partial

import paddle
import pytest

import run_classifier
from model.checkpoint.folder import save_model
from model.ernie_m import ErnieMConfig, ErnieMModel
from tests.finetune import toy
from tests.launching import call_main, one_error
from tests.pretrain import tiny_run


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def random_encoder(toy_folder, tmp_path_factory):
    """A checkpoint of random weights with the toy's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder") / "weights"
    paddle.seed(5)
    config = ErnieMConfig.from_json(toy_folder / "ernie_config.json")
    save_model(folder, ErnieMModel(config), config, piece_model_path=toy_folder / "piece.model")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A tiny corpus, beside the configurations of a model for it, with dropout and without."""
    folder = tmp_path_factory.mktemp("retrieval")
    config = {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    still = {**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "still.json").write_text(json.dumps(still))
    return tiny_run.make_corpus(folder)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """runner(command, flags_of, data) -> a function of flags; it runs the command in `tmp_path`.

    Checkpoints go to `out`; results.json (evaluation.json without training), or None, is returned.
    """
    monkeypatch.chdir(tmp_path)

    def call(command, flags_of, data, out: str = "out", **changes) -> dict | None:
        call_main(command, flags_of(data, tmp_path / out, **changes))
        name = "evaluation" if changes.get("do_train") == "false" else "results"
        results = tmp_path / out / f"{name}.json"
        return json.loads(results.read_text()) if results.exists() else None

    return lambda *which: partial(call, *which)


@pytest.fixture
def classify(runner, toy_folder):
    return runner(run_classifier, toy.flags, toy_folder)


@pytest.fixture
def refusal(capsys):
    """refusal(command, **flags): see `one_error`."""
    return lambda command, **flags: one_error(lambda: command(**flags), capsys)


@pytest.fixture
def refused(classify, refusal):
    """refused(**flags): the refusal of run_classifier.py."""
    return partial(refusal, classify)
