"""ernie-m download weights: weights are laid out and checked, downloads resume, errors name the files."""

import io
import shutil
import tarfile
import tempfile
import zipfile
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from ernie_m.data import download_weights
from ernie_m.data.download import _check_sizes, download, unpack
from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.tokenization import Tokenizer
from tests.helpers.files import disk_full_after, names_in, read_files, write_files
from tests.helpers.hub import NAME, serve_release
from tests.launching import ROOT, error_of
from tests.reader.conftest import files

# Nobody answers at this port. The address of the weights has the field {size}, that of a vocabulary {name}.
NOWHERE = "http://127.0.0.1:9/{size}{name}"


@pytest.fixture
def small(tokenizer, monkeypatch, server):
    """The weights are tiny and lie on the local server."""
    monkeypatch.setattr(download_weights, "VOCAB_SIZE", tokenizer.vocab_size)
    monkeypatch.setattr(download_weights, "HIDDEN_SIZE", {"base": 4, "large": 8})
    monkeypatch.setattr(download_weights, "WEIGHTS_URL", server.url + "/model-ernie-m-{size}.tar.gz")
    monkeypatch.setattr(download_weights, "VOCAB_URL", server.url + "/{name}")
    for size in ("base", "large"):
        server.files[f"/model-ernie-m-{size}.tar.gz"] = archive(
            tokenizer.vocab_size, download_weights.HIDDEN_SIZE[size]
        )
    server.files["/piece.model"] = tokenizer.piece_model_path.read_bytes()
    lines = [f"{token}\t{id_}\n" for token, id_ in tokenizer.vocab.items()]
    server.files["/vocab.txt"] = "".join(lines).encode()
    return server


def archive(
    vocab_size: int, hidden: int, leave_out: str = "", folder_of_weights: str = "model-ernie-m/params/"
) -> bytes:
    """A release: a folder with params, and a configuration next to it.

    Args:
        leave_out: the tensor that is missing.
        folder_of_weights: the folder in the archive; "" has none.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar, tempfile.TemporaryDirectory() as folder:
        contents = {"model-ernie-m/ernie_config.json": b"{}"}
        for name, shape in {"word_embedding": [vocab_size, hidden], "pooled_fc.b_0": [hidden]}.items():
            if name != leave_out:
                lod_tensors.write(Path(folder, name), np.zeros(shape, np.float32))
                contents[f"{folder_of_weights}{name}"] = Path(folder, name).read_bytes()
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def get(configs: Path, *arguments) -> None:
    """`ernie-m download weights arguments` into a folder, in this process."""
    download_weights.main([*map(str, arguments), "--configs", str(configs)])


def test_all_are_laid_out(small, tokenizer, tmp_path, capsys):
    configs = tmp_path / "configs"
    get(configs)
    assert files(tmp_path) == [
        "configs/base/params/pooled_fc.b_0",
        "configs/base/params/word_embedding",
        "configs/large/params/pooled_fc.b_0",
        "configs/large/params/word_embedding",
        "configs/piece.model",
        "configs/vocab.txt",
    ]
    assert lod_tensors.read(configs / "base/params/word_embedding").shape == (tokenizer.vocab_size, 4)
    assert Tokenizer.from_folder(configs).digest == tokenizer.digest
    requests = len(small.requests)
    get(configs)
    assert len(small.requests) == requests  # what is there is not fetched again
    assert "already exists" in capsys.readouterr().out


def test_released_sizes_match_the_configurations():
    for size, hidden in download_weights.HIDDEN_SIZE.items():
        config = ErnieMConfig.from_json(ROOT / f"configs/{size}/ernie_config.json")
        assert (config.hidden_size, config.vocab_size) == (hidden, download_weights.VOCAB_SIZE)


def test_an_archive_without_folders(small, tokenizer, tmp_path):
    """Its weights are the whole of it."""
    (tmp_path / "a.tar.gz").write_bytes(archive(tokenizer.vocab_size, 4, folder_of_weights=""))
    download_weights.unpack_parameters(tmp_path / "a.tar.gz", tmp_path / "base/params", "base")
    assert {"base/params/word_embedding", "base/params/pooled_fc.b_0"} <= set(files(tmp_path))
    assert not (tmp_path / "a.tar.gz").exists()


WEIGHTS = "model_state.pdparams"


@pytest.fixture
def hub(small, piece_model, tmp_path, monkeypatch):
    """A hub with the tiny base."""
    with serve_release(tmp_path, monkeypatch, piece_model, hidden_size=4) as hub:
        yield hub


def test_weights_come_from_the_hub(hub, small, tmp_path, capsys):
    """Nothing is in its cache, or asked of the official server, and what is there is not fetched again."""
    for said in (", from the Hugging Face Hub", " already exists"):
        get(tmp_path / "configs", "base")
        assert f"base: {tmp_path}/configs/base/params{said}" in capsys.readouterr().out
    assert sorted(hub.fetched) == names_in(hub.root / NAME)
    assert set(hub.fetched) == set(names_in(tmp_path / "configs/base/params"))
    assert not (small.requests or (tmp_path / "hub").exists())


@pytest.mark.parametrize("failure", ["breaks off", "corrupt", "altered", "full disk"])
def test_a_download_from_the_hub_that_fails_resumes(hub, small, tmp_path, capsys, failure):
    """What has been fetched is kept, and what differs from the hub's is fetched again."""
    model = hub.root / NAME
    hub.failure = failure
    with disk_full_after((model / WEIGHTS).stat().st_size - 9 if failure == "full disk" else 1 << 40):
        said = error_of(get, tmp_path / "configs", "base") + capsys.readouterr().out
    assert f"{tmp_path}/configs/base/params.part/{WEIGHTS}" in said
    assert not (tmp_path / "configs/base/params").exists()
    hub.failure = ""
    hub.fetched.clear()
    get(tmp_path / "configs", "base")
    begun = [name for name in hub.fetched if "bytes=" in name]
    assert bool(begun) == (failure in ("breaks off", "full disk"))
    assert read_files(model).items() == read_files(tmp_path / "configs/base/params").items()
    assert small.requests == []


@pytest.mark.parametrize("case", ["html", "no hub", "no such model", "offline"])
def test_the_archive_where_the_hub_cannot_be_reached(hub, tmp_path, monkeypatch, capsys, case):
    if case == "no such model":
        shutil.rmtree(hub.root)
    hub.failure = case
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", case == "offline")
    if case == "no hub":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    get(tmp_path / "configs", "base")
    said = capsys.readouterr().out
    assert NAME in said and "from model-ernie-m-base.tar.gz" in said
    assert (tmp_path / "configs/base/params/word_embedding").exists()


DATA = b"0123456789"
TAG = '"first version"'
OTHER = '"of another file"'
# What is there of an earlier download and its version, whether the server sends parts, its tag; the messages.
DOWNLOADS = {
    "it is there": (None, None, True, TAG, [""]),
    "it resumes": (DATA[:3], TAG, True, TAG, [""]),
    "from a server that sends only all of it": (DATA[:3], TAG, False, TAG, [""]),
    "of another version": (b"abc", OTHER, True, TAG, [""]),
    "of an unknown version": (b"abc", "", True, TAG, [""]),
    # As after a kill before it got its name: the server has nothing more to send.
    "all of it is there": (
        DATA,
        TAG,
        True,
        TAG,
        [f"HTTP error 416 {HTTPStatus(416).phrase}", ""],  # its words differ by Python
    ),
}


@pytest.mark.parametrize("case", DOWNLOADS)
def test_download_resumes_without_mixing_versions(server, tmp_path, case):
    part, version, server.ranges, server.tag, messages = DOWNLOADS[case]
    server.files["/x"] = DATA
    if part:
        write_files(tmp_path, {"x.part": part, "x.version": version})
    assert [download(f"{server.url}/x", tmp_path / "x") for _ in messages] == messages
    assert (tmp_path / "x").read_bytes() == DATA and files(tmp_path) == ["x"]
    assert server.requests[0] == ("/x", f"bytes={len(part)}-" if version else None)


@pytest.mark.parametrize(("tag", "version"), [(TAG, TAG), ('W/"x"', "")])
def test_a_download_that_breaks_off(server, tmp_path, tag, version):
    """The next one finds what is there, and its version; a weak tag may stand for two files."""
    server.files["/x.gz"] = DATA
    server.drop_at, server.tag = 3, tag
    assert download(f"{server.url}/x.gz", tmp_path / "x.gz") == "interrupted at 3 of 10 bytes"
    assert {name: (tmp_path / name).read_text() for name in files(tmp_path)} == {
        "x.gz.part": "012",
        "x.gz.version": version,
    }
    assert download(f"{server.url}/none", tmp_path / "none") == "HTTP error 404 Not Found"


def test_without_a_network(monkeypatch, tmp_path, capsys):
    """Every file is named, where it is and where it belongs; nothing half-made is left."""
    monkeypatch.setattr(download_weights, "WEIGHTS_URL", NOWHERE.replace("{name}", ".tar.gz"))
    monkeypatch.setattr(download_weights, "VOCAB_URL", NOWHERE.replace("{size}", ""))
    assert "some files could not be downloaded" in error_of(get, tmp_path)
    message = capsys.readouterr().out
    for name in ("vocab.txt", "piece.model", "base.tar.gz"):
        assert f"http://127.0.0.1:9/{name} -> {tmp_path / name}: " in message
    assert files(tmp_path) == []


def test_archives_that_may_fill_the_memory(tmp_path):
    """zipfile decompresses bzip2 in blocks of any size, and a size below 0 hides others."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a", "b")
    assert error_of(unpack, tmp_path / "a.zip", tmp_path / "b").startswith(f"{tmp_path}/a.zip: cannot unpack")
    with pytest.raises(ValueError, match="invalid size"):
        _check_sizes([5, -1], 9)


def test_reject_another_vocab_size(tokenizer, tmp_path):
    """The released vocabulary has 250,002 ids, and this one is smaller."""
    tokenizer.write_vocab(tmp_path / "vocab.txt")
    (tmp_path / "piece.model").write_bytes(tokenizer.piece_model_path.read_bytes())
    assert f"{tmp_path / 'vocab.txt'}: " in error_of(get, tmp_path, "vocab")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: b"<html>log in</html>", "cannot unpack"),
        (lambda: archive(9, 4, leave_out="word_embedding"), "missing word_embedding"),
        (lambda: archive(9, 4)[:-60], "cannot unpack"),
        (lambda: archive(9, 4), "shape (9, 4)"),
        (lambda: archive(download_weights.VOCAB_SIZE, 8), ", 8) (expected "),  # of the large model
    ],
    ids=["html", "other", "cut", "shape", "size"],
)
def test_reject_bad_archives_and_keep_them(small, tmp_path, make, message):
    small.files["/model-ernie-m-base.tar.gz"] = make()
    assert message in error_of(get, tmp_path, "base")
    assert files(tmp_path) == ["model-ernie-m-base.tar.gz"]
