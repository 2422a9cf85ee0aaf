"""A model folder carries checksums: a file that is not as it was written is one line, whoever reads it."""

import json
import re

import pytest

from model.checkpoint.folder import read_weights, save_model
from model.ernie_m import ErnieMConfig
from model.heads import SequenceClassifier
from tests.helpers.official_layout import official_config
from utils.errors import UserError


@pytest.fixture
def saved(tmp_path):
    config = ErnieMConfig.from_dict(official_config("tiny"))
    (tmp_path / "v").write_text("[CLS]\n")
    save_model(tmp_path / "best", SequenceClassifier(config, 3), config, vocab_path=tmp_path / "v")
    return tmp_path / "best"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", flip, "damaged, its checksum differs"),
        ("vocab.txt", lambda path: path.write_bytes(b"["), "damaged, 1 bytes instead of"),
        ("config.json", lambda path: path.unlink(), "missing"),
    ],
)
def test_a_damaged_file_is_named(saved, name, damage, message):
    damage(saved / name)
    with pytest.raises(UserError, match=f"{re.escape(str(saved / name))}: {message}") as told:
        read_weights(saved)
    assert f"delete {saved / 'manifest.json'}" in str(told.value)
    (saved / "manifest.json").unlink()  # a change of one's own is declared
    if name != "model.safetensors":
        assert read_weights(saved).weights


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1, "name": "an app"}', "\x00"])
def test_the_card_may_be_edited_and_the_manifest_of_another_program_is_not_ours(saved, content):
    (saved / "README.md").write_text("my words")
    assert read_weights(saved).config
    (saved / "manifest.json").write_text(content)
    assert read_weights(saved).config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(version=9), "version 9 of the format"),
        (
            lambda told: told["files"].update({"../../x": {"bytes": 1, "sha256": ""}}),
            "files of other folders",
        ),
        (lambda told: told["files"].update({"config.json": {"sha256": ""}}), "manifest.json: damaged"),
    ],
)
def test_a_damaged_manifest(saved, change, message):
    told = json.loads((saved / "manifest.json").read_text())
    change(told)
    (saved / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=message):
        read_weights(saved)
