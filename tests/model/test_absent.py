"""A path without a model is described, and the models right below the nearest folder are named."""

import json

import pytest

from ernie_m.model.checkpoint import no_model_here
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import save_model
from ernie_m.model.encoder import ErnieMConfig, ErnieMModel
from ernie_m.utils.errors import start_of
from tests.foreign import make_official, official_config
from tests.launching import error_of
from tests.toys import make_corpus, sentences, train_pieces, write_lines

MODELS = "run/best, run/step_3"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with two models of a run, official weights, a corpus, an exported model and a text."""
    folder = tmp_path_factory.mktemp("outputs")
    shape = ErnieMConfig.from_dict(official_config())
    # The last one is half written.
    for name in ("best", "step_3", ".best.tmp-1"):
        save_model(folder / "run" / name, ErnieMModel(shape), shape)
    (folder / "run/log").mkdir()
    make_official(folder / "configs/base", official_config(), seed=0)
    text = write_lines(folder / "en.txt", sentences(100))
    make_corpus(folder / "corpus", train_pieces(folder / "piece.model"), mono={"en": text})
    (folder / "exported").mkdir()
    (folder / "exported/config.json").write_text(json.dumps({"export": {"task": "encoding"}}))
    return folder


@pytest.mark.parametrize(
    "path, what, instead",
    [
        ("run/bset", "folder", MODELS),
        ("run/bset/params", "folder", MODELS),
        ("run", "no model", MODELS),
        ("run/log", "no model", MODELS),  # they are beside it
        ("run/best/params", "folder", "run/best"),
        ("configs/bas", "folder", "configs/base"),  # not also its folder params
        ("rnu/2/best", "folder", "step_N"),
        ("corpus", "corpus", "step_N"),
        ("exported", "ernie-m export", "step_N"),
        ("en.txt", "file", "step_N"),
        ("xlm-roberta-base", "hub", "step_N"),  # it may also be a published model
    ],
)
def test_what_is_there_and_what_to_name_instead(outputs, monkeypatch, path, what, instead):
    monkeypatch.chdir(outputs)
    line = error_of(open_checkpoint, path)
    assert line.startswith(f"{path}: ") and what in line.removeprefix(path) and instead in line
    assert ("models are in" in line or "a model is in" in line) == (instead != "step_N")


def test_only_the_first_of_many_models_are_named(outputs, monkeypatch):
    monkeypatch.setattr(no_model_here, "_MOST_LISTED", 1)
    line = error_of(open_checkpoint, outputs / "run/none")
    assert f"{outputs}/run/best" in line and "step_3" not in line


def test_without_released_weights(tmp_path):
    """Below `configs`, the advice is to fetch them, or the one model that was named."""
    (tmp_path / "configs").mkdir()
    assert "get_weights" in error_of(open_checkpoint, tmp_path / "configs/base")
    assert start_of("get_weights") + " e5-small" in error_of(open_checkpoint, tmp_path / "configs/e5-small")
    make_official(tmp_path / "configs/e5-small", official_config(), seed=0)  # as the demo leaves a model
    for folder in ("base", "base/params", "large/params"):
        _, fetch, models = error_of(open_checkpoint, tmp_path / "configs" / folder).split("; ")
        assert "get_weights" in fetch and "configs/e5-small" in models
