"""A model by its name on a hub, which here is a server on this machine."""

import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from ernie_m.model.checkpoint.hub import resolve_model_path
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMModel
from tests.foreign import make_xlm_r
from tests.helpers.files import disk_full_after
from tests.helpers.hub import serve_hub
from tests.launching import check_error, error_of, run_script

NAME = "somebody/small-xlm-r"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, and the folder of its files."""
    monkeypatch.chdir(tmp_path)
    with serve_hub(tmp_path, monkeypatch) as hub:
        make_xlm_r(hub.root / NAME)
        yield hub


def test_it_is_downloaded_once(hub, monkeypatch):
    """A cached model needs no hub."""
    for is_offline in (False, False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        assert open_checkpoint(NAME).format == "xlm-r"
        assert ErnieMModel.from_pretrained(NAME).config == open_checkpoint(hub.root / NAME).config
        assert sorted(hub.fetched) == ["config.json", "model.safetensors"]


def test_a_folder_counts_more_than_a_name(hub):
    make_xlm_r(Path(NAME), num_hidden_layers=1)
    assert open_checkpoint(NAME).config.num_hidden_layers == 1
    assert hub.fetched == []


@pytest.mark.parametrize("case", ["no such model", "no hub", "no weights"])
def test_a_name_that_leads_nowhere(hub, monkeypatch, case):
    name = "somebody/else" if case == "no such model" else NAME
    if case == "no weights":
        (hub.root / NAME / "model.safetensors").unlink()
    if case == "no hub":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    check_error(error_of(open_checkpoint, name), "Hub", start=f"{name}: ")


@pytest.mark.parametrize(
    "name",
    [
        "models/small-xlm-r",
        "/models/small",
        "small-xlm-r",
        "a/b/c",
        "models/",
        "configs/base",
        "checkpoints/best",
        "output/full",
    ],
)
def test_asks_the_hub_for_no_local_path(hub, monkeypatch, name):
    """A path in an existing folder, in any notation, or a string that is not a name on the hub."""
    Path("models").mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # it cannot be imported
    assert resolve_model_path(name) == Path(name)


def test_fetches_only_files_that_a_model_needs(hub):
    needed = ["README.md", "modules.json", "sentencepiece.bpe.model", "vocab.txt", "1_Pooling/config.json"]
    others = ["onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", "pytorch_model.bin", "a.py"]
    for name in (*needed, *others):
        (hub.root / NAME / name).parent.mkdir(exist_ok=True)
        (hub.root / NAME / name).write_text("of a test")
    folder = resolve_model_path(NAME)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*.*")}
    assert found == {*needed, "config.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_state.pdparams"])
def test_fetch_weights_in_the_next_format(hub, name):
    (hub.root / NAME / "model.safetensors").rename(hub.root / NAME / name)
    assert (resolve_model_path(NAME) / name).is_file()


@pytest.mark.parametrize("error", ["breaks off", "corrupt", "html", "full disk"])
def test_interrupted_or_corrupt_download_resumes(hub, error):
    hub.failure = error
    with disk_full_after(1000 if error == "full disk" else 1 << 40):
        message = error_of(open_checkpoint, NAME)
    assert message.startswith(f"{constants.HF_HUB_CACHE}: no space" if error == "full disk" else f"{NAME}: ")
    hub.failure = ""
    assert open_checkpoint(NAME).format == "xlm-r"


def test_a_gated_model(hub):
    """The line names the page on which its terms are accepted, and what says who asks."""
    hub.failure = "gated"
    check_error(
        error_of(open_checkpoint, NAME), f"{constants.ENDPOINT}/{NAME}", "HF_TOKEN", start=f"{NAME}: "
    )


@pytest.mark.parametrize(
    "endpoint, is_asked",
    [
        ("http://example.invalid", False),
        ("http://127.0.0.1.example.invalid", False),
        ("http://localhost@example.invalid", False),
        ("http://[", False),
        ("https://127.0.0.1:9", True),
        ("http://localhost:9", True),
        ("http://[::1]:9", True),
    ],
)
def test_a_hub_is_https_or_this_machine(hub, monkeypatch, endpoint, is_asked):
    assert huggingface_hub.snapshot_download  # is imported here, because its import reads the endpoint
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    message = error_of(open_checkpoint, NAME)
    assert message.startswith(f"{NAME}: ") if is_asked else f" HF_ENDPOINT {endpoint}" in message


def test_an_address_that_the_library_cannot_read(tmp_path):
    """Some versions of the library fail when they are imported, so this has a process of its own."""
    source = (
        "from ernie_m.model.checkpoint.hub import resolve_model_path; resolve_model_path('someone/model')"
    )
    failed = run_script(["-c", source], tmp_path, HF_ENDPOINT="http://[", HF_HUB_OFFLINE="0")
    assert " HF_ENDPOINT http://[" in failed.stderr.splitlines()[-1]
