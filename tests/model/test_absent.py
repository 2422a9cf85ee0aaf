"""A path without a model is described, and the models right below the nearest folder are named."""

import json

import pytest

from model.checkpoint import absent
from model.checkpoint.folder import save_model
from model.checkpoint.read import open_checkpoint
from model.ernie_m import ErnieMConfig, ErnieMModel
from tests.foreign import make_official, official_config
from tests.launching import error_of
from tests.toys import make_corpus, sentences, train_pieces, write_lines

MODELS = "; models are in run/best, run/step_3"
ANY_CHECKPOINT = "; name the folder of a checkpoint, such as best or step_N of a run"


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
    "path, beginning, end",
    [
        ("run/bset", "no such folder; ", MODELS),
        ("run/bset/params", "no such folder; ", MODELS),
        ("run", "holds no model: ", MODELS),
        ("run/log", "holds no model: ", MODELS),  # they are beside it
        ("run/best/params", "no such folder; ", "a model is in run/best"),
        ("configs/bas", "no such folder; ", "models are in configs/base"),  # not also its folder params
        ("rnu/2/best", "no such folder; ", ANY_CHECKPOINT),
        ("corpus", "a corpus for pre-training, no model; ", ANY_CHECKPOINT),
        ("exported", "what export.py wrote, ", ANY_CHECKPOINT),
        ("en.txt", "no file of weights; these are model.safetensors, ", ANY_CHECKPOINT),
        # It may also be a published model.
        ("xlm-roberta-base", "no such folder, and no name of a model on Hugging Face's hub", ANY_CHECKPOINT),
    ],
)
def test_what_is_there_and_what_to_name_instead(outputs, monkeypatch, path, beginning, end):
    monkeypatch.chdir(outputs)
    line = error_of(open_checkpoint, path)
    assert line.startswith(f"{path}: {beginning}") and line.endswith(end)


def test_only_the_first_of_many_models_are_named(outputs, monkeypatch):
    monkeypatch.setattr(absent, "_MOST_LISTED", 1)
    assert error_of(open_checkpoint, outputs / "run/none").endswith(
        f"; models are in {outputs}/run/best and others"
    )


def test_without_released_weights(tmp_path):
    """Below `configs`, the advice is to fetch them."""
    (tmp_path / "configs").mkdir()
    assert "; sh scripts/data/get_weights.sh fetches" in error_of(open_checkpoint, tmp_path / "configs/base")
