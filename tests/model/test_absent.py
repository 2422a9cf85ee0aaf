"""A path without a model is described, and the folders beside it that hold one are named."""

import json

import pytest

from model.checkpoint import absent
from model.checkpoint.folder import save_model
from model.checkpoint.read import open_checkpoint
from model.ernie_m import ErnieMConfig, ErnieMModel
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from utils.errors import UserError

MODELS = "; models are in output/run/best, output/run/step_3"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The folder `output` with two models, below the current folder."""
    monkeypatch.chdir(tmp_path)
    shape = ErnieMConfig.from_dict(official_config("tiny"))
    for name in ("best", "step_3"):
        save_model(tmp_path / "output/run" / name, ErnieMModel(shape), shape)
    return tmp_path / "output"


def refusal_of(path):
    """The message with which a path is refused."""
    with pytest.raises(UserError) as error:
        open_checkpoint(path)
    return str(error.value)


@pytest.mark.parametrize("path", ["output/run/bset", "output/run/bset/params", "output/run/log/x"])
def test_a_path_that_does_not_exist_names_the_models_beside_it(outputs, path):
    (outputs / "run/log").mkdir()
    assert refusal_of(path) == f"{path}: no such folder{MODELS}"


@pytest.mark.parametrize("name", ["xlm-roberta-base", "FacebookAI/xlm-roberta-base"])
def test_the_name_of_a_published_model(outputs, name):
    line = refusal_of(name)
    assert line.startswith(f"{name}: no such folder, and models are not downloaded by name: ")
    assert "tokenizer.json" in line


def test_a_path_below_a_model_names_that_model(outputs):
    path = "output/run/best/params"
    assert refusal_of(path) == f"{path}: no such folder; a model is in output/run/best"


def test_the_folder_of_a_run_names_its_models(outputs):
    line = refusal_of("output/run")
    assert line.startswith("output/run: holds no model: neither model.safetensors, pytorch_model.bin, ")
    assert line.endswith(MODELS)


def test_a_corpus_is_called_one(outputs):
    pieces = train_pieces(outputs / "piece.model")
    text = write_lines(outputs / "en.txt", sentences(100))
    build(outputs / "corpus", pieces, mono={"en": text})
    assert refusal_of("output/corpus").startswith("output/corpus: a corpus for pre-training, no model; ")


def test_an_export_is_called_one(outputs):
    (outputs / "exported").mkdir()
    (outputs / "exported/config.json").write_text(json.dumps({"export": {"task": "encoding"}}))
    assert refusal_of("output/exported").startswith("output/exported: what export.py wrote, ")


def test_a_file_that_holds_no_weights(outputs):
    (outputs / "en.txt").write_text("text")
    line = refusal_of("output/en.txt")
    assert line.startswith("output/en.txt: no file of weights; these are model.safetensors, ")


def test_only_the_first_of_many_models_are_named(outputs, monkeypatch):
    monkeypatch.setattr(absent, "_MOST_LISTED", 1)
    line = refusal_of("output/run/nothing")
    assert line == "output/run/nothing: no such folder; models are in output/run/best and others"


def test_without_a_model_near_the_path(tmp_path):
    """The advice is to name a checkpoint, and below `configs` to fetch the released weights."""
    (tmp_path / "a/configs").mkdir(parents=True)
    assert refusal_of(tmp_path / "a/b") == (
        f"{tmp_path}/a/b: no such folder; name the folder of a checkpoint, such as best or step_N of a run"
    )
    assert refusal_of(tmp_path / "a/configs/base") == (
        f"{tmp_path}/a/configs/base: no such folder; sh scripts/data/get_weights.sh fetches the released "
        "weights into configs/"
    )


def test_a_model_that_is_half_written_is_not_named(outputs):
    (outputs / "run/best").rename(outputs / "run/.best.tmp-1")
    line = refusal_of("output/run/best")
    assert line == "output/run/best: no such folder; models are in output/run/step_3"


def test_an_official_directory_is_named_once(tmp_path):
    make_official_weights(tmp_path / "configs/base", official_config("tiny"), seed=0)
    assert refusal_of(tmp_path / "configs/bas").endswith(f"; models are in {tmp_path}/configs/base")
