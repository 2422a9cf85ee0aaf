"""Toys and random weights, and the commands of fine-tuning called as functions."""

import json
import weakref
from contextlib import chdir
from functools import partial

import paddle
import pytest

from ernie_m.commands import run_classifier, run_retrieval
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.reader.tokenization import Tokenizer
from tests import command_lines, toys
from tests.helpers.checkpoints import save_model
from tests.launching import call_main, one_error


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The data, vocabulary and config of `toys.make_classification`."""
    return toys.make_classification(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def trained(toy_folder, tmp_path_factory):
    """The output folder of a run whose `best/` knows the toy task. Its log is in the folder around it."""
    folder = tmp_path_factory.mktemp("trained")
    with chdir(folder):
        call_main(
            run_classifier,
            command_lines.classification(toy_folder, folder / "out", **command_lines.LEARNS),
        )
    return folder / "out"


@pytest.fixture(scope="session")
def answering_folder(tmp_path_factory):
    """The data, vocabulary and config of `toys.make_answering`."""
    return toys.make_answering(tmp_path_factory.mktemp("answering"))


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
    """A tiny corpus. Next to it are config.json and without_dropout.json, the shapes of models for it."""
    folder = tmp_path_factory.mktemp("retrieval")
    config = {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "without_dropout.json").write_text(json.dumps(config | toys.WITHOUT_DROPOUT))
    return toys.make_small_corpus(folder)


@pytest.fixture
def tokenizer(corpus):
    """The tokenizer of the corpus."""
    return Tokenizer.from_folder(corpus)


@pytest.fixture
def models_in_memory(monkeypatch) -> list[int]:
    """For each encoder that is made: how many of those that were made before are still in memory."""
    counts, made, init = [], weakref.WeakSet(), ErnieMModel.__init__

    def count_and_init(model, *given, **options):
        counts.append(len(made))
        made.add(model)
        init(model, *given, **options)

    monkeypatch.setattr(ErnieMModel, "__init__", count_and_init)
    return counts


@pytest.fixture
def train_on_pairs(corpus, tmp_path, in_tmp_path):
    """train_on_pairs(out, **flags) runs run_retrieval.py in `tmp_path`; returns the log of that run."""

    def call(out: str, **changes) -> str:
        log = tmp_path / "log" / "job.log.0"
        log.unlink(missing_ok=True)
        call_main(run_retrieval, command_lines.retrieval(corpus, tmp_path / out, **changes))
        return log.read_text()

    return call


@pytest.fixture
def runner(tmp_path, in_tmp_path):
    """runner(command, flags_of, data) -> run, and run(out="out", **flags) runs the command in `tmp_path`.

    Checkpoints go to `tmp_path/out`. What is returned is results.json (without training the newest
    evaluation.json), or None if the command wrote none.

    Args:
        command: a script as a module, such as `run_classifier`.
        flags_of: `command_lines.classification` or its like.
        data: the folder that `make` of the same toy wrote.
    """

    def make_run(command, flags_of, data):
        def run(out: str = "out", **changes) -> dict | None:
            call_main(command, flags_of(data, tmp_path / out, **changes))
            name = "evaluation" if changes.get("do_train") == "false" else "results"
            reports = sorted((tmp_path / out).glob(f"{name}*.json"), key=lambda path: path.stat().st_mtime_ns)
            return json.loads(reports[-1].read_text()) if reports else None

        return run

    return make_run


@pytest.fixture
def classify(runner, toy_folder):
    """classify(out="out", **flags) runs run_classifier.py on the toy task; see `runner`."""
    return runner(run_classifier, command_lines.classification, toy_folder)


@pytest.fixture
def refusal(capsys):
    """refusal(command, **flags) -> the one line of error with which command(**flags) ends."""
    return lambda command, **flags: one_error(lambda: command(**flags), capsys)


@pytest.fixture
def refused(classify, refusal):
    """refused(**flags) -> the one line of error with which run_classifier.py ends."""
    return partial(refusal, classify)
