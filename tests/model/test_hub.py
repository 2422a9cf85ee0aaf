"""A model by its name on a hub, which here is a server on this machine."""

import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from ernie_m.model.checkpoint.hub import resolve_model_path
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMModel
from tests.foreign import make_xlm_r
from tests.launching import error_of, run_script

NAME = "somebody/small-xlm-r"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The two answers of a hub that a download needs: the list of files, and each file."""

    folder: Path
    fetched: list[str]
    failure: str  # "": none; "corrupt": files are cut short; "breaks off": so are answers; "gated"

    def log_message(self, *_):
        """Keep the output of the tests clean."""

    def do_HEAD(self):
        self.do_GET(has_body=False)

    def do_GET(self, has_body=True):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            files = [{"rfilename": str(file.relative_to(self.folder))} for file in self.folder.rglob("*.*")]
            tree = [{"type": "file", "path": file["rfilename"], "size": 1, "oid": "0" * 40} for file in files]
            content = tree if "/tree/" in path else {"id": NAME, "sha": COMMIT, "siblings": files}
            return self.send(json.dumps(content).encode(), has_body, "application/json")
        file = self.folder / path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if path.startswith(f"/{NAME}/") and file.is_file():
            if has_body:
                self.fetched.append(file.name)
            content = file.read_bytes()
            if self.failure == "gated":
                return self.refuse(403, "GatedRepo")
            if self.failure == "corrupt" and has_body:
                content = content[:-9]
            return self.send(content, has_body, "application/octet-stream")
        return self.refuse(404, "RepoNotFound")

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, has_body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(content[: len(content) // 2] if self.failure == "breaks off" else content)
            self.close_connection = True


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, and the folder of its files."""
    monkeypatch.setattr(Hub, "folder", tmp_path / "on the hub", raising=False)
    monkeypatch.setattr(Hub, "fetched", [], raising=False)
    monkeypatch.setattr(Hub, "failure", "", raising=False)
    make_xlm_r(Hub.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield Hub
        server.shutdown()


def test_it_is_downloaded_once(hub, monkeypatch):
    """A cached model needs no hub."""
    for is_offline in (False, False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        assert open_checkpoint(NAME).format == "xlm-r"
        assert ErnieMModel.from_pretrained(NAME).config == open_checkpoint(hub.folder).config
        assert sorted(hub.fetched) == ["config.json", "model.safetensors"]


def test_a_folder_counts_more_than_a_name(hub):
    make_xlm_r(Path(NAME), num_hidden_layers=1)
    assert open_checkpoint(NAME).config.num_hidden_layers == 1
    assert hub.fetched == []


@pytest.mark.parametrize("case", ["no such model", "no hub", "no library"])
def test_a_name_that_leads_nowhere(hub, monkeypatch, case):
    name = "somebody/else" if case == "no such model" else NAME
    if case == "no hub":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    if case == "no library":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = error_of(open_checkpoint, name)
    assert message.startswith(f"{name}: ") and "Hub" in message


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
def test_what_is_no_name_is_not_asked_for(hub, monkeypatch, name):
    """A path in an existing folder, in any notation, or a string that is not a name on the hub."""
    Path("models").mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # it would say that it is missing
    assert resolve_model_path(name) == Path(name)


def test_what_a_model_needs_is_fetched_and_no_more(hub):
    needed = ["README.md", "modules.json", "sentencepiece.bpe.model", "vocab.txt", "1_Pooling/config.json"]
    others = ["onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", "pytorch_model.bin", "a.py"]
    for name in (*needed, *others):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_text("of a test")
    folder = resolve_model_path(NAME)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*.*")}
    assert found == {*needed, "config.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_state.pdparams"])
def test_fetch_weights_in_the_next_format(hub, name):
    (hub.folder / "model.safetensors").rename(hub.folder / name)
    assert (resolve_model_path(NAME) / name).is_file()


@pytest.mark.parametrize("error", ["breaks off", "corrupt"])
def test_interrupted_or_corrupt_download_resumes(hub, error):
    hub.failure = error
    assert error_of(open_checkpoint, NAME).startswith(f"{NAME}: ")
    hub.failure = ""
    assert open_checkpoint(NAME).format == "xlm-r"


def test_a_gated_model(hub):
    """The line names the page on which its terms are accepted, and what says who asks."""
    hub.failure = "gated"
    message = error_of(open_checkpoint, NAME)
    assert (
        message.startswith(f"{NAME}: ")
        and f"{constants.ENDPOINT}/{NAME}" in message
        and "HF_TOKEN" in message
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
    """It fails when the library is imported, so this has a process of its own."""
    pytest.importorskip("huggingface_hub")
    source = (
        "from ernie_m.model.checkpoint.hub import resolve_model_path; resolve_model_path('someone/model')"
    )
    failed = run_script(["-c", source], tmp_path, HF_ENDPOINT="http://[")
    assert failed.stderr.splitlines()[-1].startswith(
        "ernie_m.utils.errors.UserError: invalid HF_ENDPOINT http://["
    )
