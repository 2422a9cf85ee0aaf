"""Names on hubs: what is asked of the libraries, and the one line where they or the network are missing."""

import sys
import types
from pathlib import Path

import pytest

import convert
from model.checkpoint.hub import local_folder
from model.checkpoint.read import read_weights
from tests.helpers.toy_models import make_ours
from utils.errors import UserError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A huggingface_hub that knows someone/model, and keeps what it was asked for."""
    make_ours(tmp_path / "ours")
    convert.main([str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "huggingface"])
    asked = []

    def snapshot_download(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        if name == "someone/absent":
            raise OSError("404 Client Error\nRepository Not Found")
        if name == "someone/paddle":
            return str(tmp_path / ("pn" if "model_state*.pdparams" in allow_patterns else "nothing"))
        return str(tmp_path / "hf")

    (tmp_path / "nothing").mkdir()
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_name_stands_for_its_folder(hub, tmp_path):
    assert read_weights("hf://someone/model").format == "huggingface"
    assert local_folder("hf://someone/model@v2") == tmp_path / "hf"
    assert [(name, revision) for name, revision, _ in hub] == [
        ("someone/model", None),
        ("someone/model", "v2"),
    ]
    assert "model*.safetensors" in hub[0][2] and "pytorch_model*.bin" not in hub[0][2]
    convert.main(["hf://someone/model", str(tmp_path / "out"), "--to", "ernie-m"])
    assert read_weights(tmp_path / "out").format == "ours"


def test_other_forms_are_asked_for_where_there_is_no_safetensors(hub, tmp_path):
    convert.main([str(tmp_path / "ours"), str(tmp_path / "pn"), "--to", "paddlenlp"])
    assert read_weights("hf://someone/paddle").format == "paddlenlp"
    assert len(hub) == 3


def test_what_cannot_be_fetched(hub):
    with pytest.raises(UserError) as error:
        local_folder("hf://someone/absent")
    assert str(error.value).startswith(
        "hf://someone/absent: cannot be fetched (404 Client Error); download "
        "https://huggingface.co/someone/absent (config.json, model.safetensors or"
    )
    assert "\n" not in str(error.value)
    for name in ("hf://model", "hf:///model", "hf://a/b/c"):
        with pytest.raises(UserError, match="a name on the hub is hf://organisation/name"):
            local_folder(name)


@pytest.mark.parametrize(
    "module, name", [("huggingface_hub", "hf://a/b"), ("paddlenlp", "paddlenlp://ernie-m-base")]
)
def test_without_the_library(monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"{module} is not installed, or does not import") as error:
        read_weights(name)
    assert "into a folder and give that folder" in str(error.value) and "\n" not in str(error.value)


def test_other_paths_are_left_alone():
    assert local_folder("configs/base") == Path("configs/base")
