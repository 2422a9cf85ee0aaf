"""Small inputs with the corpus built from them; a tiny corpus, and run_pretrain.py called as a function."""

import pytest

from tests import toys
from tests.helpers.files import read_files
from tests.launching import one_error
from tests.pretrain import tiny_run
from tests.pretrain.builds import OPTIONS, make_inputs
from tests.toys import make_corpus, train_piece_model


@pytest.fixture(scope="session")
def piece_model(tmp_path_factory):
    """A sentencepiece model."""
    return train_piece_model(tmp_path_factory.mktemp("piece_model") / "piece.model")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """The options `mono` and `parallel` of a build."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def reference(tmp_path_factory, piece_model, inputs):
    """The files of an uninterrupted build in one process."""
    folder = tmp_path_factory.mktemp("reference") / "corpus"
    make_corpus(folder, piece_model, **inputs, **OPTIONS)
    return read_files(folder)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """The folder of a corpus in de, en and fr."""
    return toys.make_small_corpus(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def pretrained(tiny_corpus, tmp_path_factory):
    """The output folder of a finished run of 12 steps, made once. No test may change it."""
    options = {"optimizer__steps": 24, "run__compute_ratio": 2.0, "run__eval_steps": 6}
    output = tmp_path_factory.mktemp("pretrained") / "out"
    return tiny_run.pretrain(tiny_corpus, output, run__micro_batch_tokens=512, **options)


@pytest.fixture
def pretrain(tiny_corpus, tmp_path):
    """pretrain(output="out", section__key=value) runs in this process; returns the output folder."""

    def call(output: str = "out", corpus=tiny_corpus, **changes):
        return tiny_run.pretrain(corpus, tmp_path / output, **changes)

    return call


@pytest.fixture
def refused(pretrain, capsys):
    """refused(section__key=value): the error line with which such a run ends; see `one_error`."""
    return lambda **changes: one_error(lambda: pretrain(**changes), capsys)
