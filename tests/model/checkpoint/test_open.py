"""A path without a model is described, and the line says what to do."""

import json

import pytest

from ernie_m.model.checkpoint.open import open_checkpoint
from tests.helpers.files import write_file
from tests.launching import error_of
from tests.toys import make_corpus, sentences, train_piece_model, write_lines


@pytest.fixture(scope="module")
def outputs(module_folder):
    """A folder with an empty run, a corpus, an exported model, one whose encoder is not there, and a text."""
    (module_folder / "run").mkdir()
    (module_folder / "parts/0_Transformer").mkdir(parents=True)
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (module_folder / "parts/modules.json").write_text(json.dumps(modules))
    text = write_lines(module_folder / "en.txt", sentences(100))
    make_corpus(module_folder / "corpus", train_piece_model(module_folder / "piece.model"), mono={"en": text})
    write_file(module_folder / "exported/config.json", json.dumps({"export": {"task": "encoding"}}))
    return module_folder


@pytest.mark.parametrize(
    "path, what, instead",
    [
        ("run/bset", "folder", "step_N"),
        ("run", "not a model", "step_N"),
        ("configs/bas", "folder", "ernie-m download weights"),
        ("configs/e5-small", "folder", "ernie-m download e5-small"),
        ("corpus", "corpus", "step_N"),
        ("parts", "/0_Transformer: not a model", "step_N"),
        ("exported", "ernie-m export", "step_N"),
        ("en.txt", "file", "step_N"),
        ("xlm-roberta-base", "Hub", "step_N"),  # it may also be a published model
    ],
)
def test_names_the_path_its_kind_and_a_replacement(outputs, monkeypatch, path, what, instead):
    monkeypatch.chdir(outputs)
    line = error_of(open_checkpoint, path)
    assert line.startswith(path) and what in line.removeprefix(path) and instead in line
