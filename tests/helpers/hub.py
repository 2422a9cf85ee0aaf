"""A stand-in on this machine for the Hugging Face Hub: it lists and sends the files of model folders."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.foreign import make_released
from tests.toys import train_piece_model

NAME = "PaddlePaddle/ernie-m-base"
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".pdparams", ".safetensors", ".bin", ".model")  # files that the hub keeps apart from git
# Page of a network that wants a login, which answers every request.
LOGIN = b"<html>log in</html>"


class Hub(http.server.BaseHTTPRequestHandler):
    """The answers of a hub that a download needs: the list of files, and each file.

    Attributes:
        root: contains ORGANIZATION/MODEL/ with the files of each model.
        fetched: the names of the files that were sent, each with the header Range of the request.
        failure: "": none; "corrupt": files are cut short; "breaks off": so is what is sent of them;
            "altered": the last byte of a file is another one; "gated"; "html": every answer is a page.
    """

    root: Path
    fetched: list[str]
    failure: str

    def log_message(self, *_):
        """Keep the output of the tests clean."""

    def do_HEAD(self):
        self.do_GET(has_body=False)

    def do_GET(self, has_body=True):
        path = self.path.split("?")[0]
        if self.failure == "html":
            return self.send(LOGIN, has_body, "text/html")
        for folder in self.root.glob("*/*"):
            name = str(folder.relative_to(self.root))
            if path.startswith(f"/api/models/{name}"):
                files = [describe_file(folder, file) for file in sorted(folder.rglob("*.*"))]
                listing = files if "/tree/" in path else {"id": name, "sha": COMMIT, "siblings": files}
                return self.send(json.dumps(listing).encode(), has_body, "application/json")
            file = folder / path.removeprefix(f"/{name}/resolve/{COMMIT}/")
            if path.startswith(f"/{name}/") and file.is_file():
                return self.send_file(file, has_body)
        return self.refuse(404, "RepoNotFound")

    def send_file(self, file, has_body):
        if self.failure == "gated":
            return self.refuse(403, "GatedRepo")
        if has_body:
            self.fetched.append(file.name + (self.headers["Range"] or ""))
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        if self.failure == "altered":
            content = content[:-1] + b"?"
        if self.failure == "corrupt" and has_body:
            content = content[:-9]
        end = len(content) // 2 if self.failure == "breaks off" else None
        return self.send(content, has_body, "application/octet-stream", tag, end)

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, has_body, kind, tag="", end=None):
        byte_range = self.headers["Range"] or "bytes=0-"
        start = int(byte_range.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{tag}"')
        if kind != "text/html":
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(content[start:end])
            self.close_connection = True


def describe_file(folder: Path, file: Path) -> dict:
    """The hub's entry of a file: git's hash, and for a large file the size and SHA-256 of its content."""
    content = file.read_bytes()
    name = str(file.relative_to(folder))
    blob = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
    entry = {"type": "file", "rfilename": name, "path": name}
    entry |= {"size": len(content), "oid": blob, "blobId": blob}
    if file.suffix in LARGE:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": digest, "oid": digest, "pointerSize": 134}
    return entry


@contextmanager
def serve_hub(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """Serve the models in `folder`/on the hub; models are cached in `folder`, here and in new processes."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        patch.setattr(Hub, "root", folder / "on the hub", raising=False)
        patch.setattr(Hub, "fetched", [], raising=False)
        patch.setattr(Hub, "failure", "", raising=False)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        # The library reads the environment when it is imported, which it is in this process.
        for name, value in {"ENDPOINT": endpoint, "HUB_OFFLINE": "0", "HOME": str(folder)}.items():
            patch.setenv(f"HF_{name}", value)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        copy_of_it = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(copy_of_it, template, raising=False)  # of versions before 1
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        yield Hub
        server.shutdown()


@contextmanager
def serve_release(
    folder: Path, patch: pytest.MonkeyPatch, piece_model: Path | None = None, prefix: str = "", **sizes
) -> Iterator[type[Hub]]:
    """Serve a stand-in for the release's base: its names and its keys, with random weights of `TINY` sizes.

    Args:
        piece_model: a SentencePiece model, by default that of `train_piece_model`.
        prefix: of the tensor names, "ernie_m." or "".
        sizes: other keys of config.json.
    """
    with serve_hub(folder, patch) as hub:
        model = piece_model or train_piece_model(folder / "piece.model")
        make_released(hub.root / NAME, model, prefix, **TINY | sizes)
        yield hub
