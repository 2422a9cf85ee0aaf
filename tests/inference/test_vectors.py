"""encode_vector.py on what export.py wrote: the same files as from the checkpoint."""

import subprocess
import sys

import numpy as np
import pytest

import encode_vector
from tests.helpers.small_corpus import sentences
from tests.inference.conftest import run_export
from tests.launching import ROOT, as_flags, call_main


@pytest.fixture
def vectors(tmp_path):
    """vectors(model, **flags) -> the arrays that were written, by name."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(40, seed=2)) + "\n")

    def call(model, output, **flags):
        flags = {"data_set": texts, "data_format": "text", "init_pretraining_params": model,
                 "max_seq_len": 62,
                 "output_dir": tmp_path / output, "use_cuda": "false"} | flags  # fmt: skip
        call_main(encode_vector, as_flags(flags))
        return {path.stem: np.load(path) for path in (tmp_path / output).iterdir()}

    return call


@pytest.mark.parametrize("engine", ["auto", "paddle", "onnx"])
@pytest.mark.parametrize("kind", ["official", "mean", "pooled"])
def test_engines(vectors, models, exported, engine, kind):
    wanted = vectors(models / "encode", "wanted", vectors=kind)
    found = vectors(exported / "encode", "found", vectors=kind, engine=engine)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4, err_msg=name)


def test_a_middle_layer(vectors, models, tmp_path, refused):
    run_export(models / "encode", tmp_path / "exported", layer=1, formats="onnx")
    wanted = vectors(models / "encode", "wanted", vectors="mean", layer=1)["vectors"]
    found = vectors(tmp_path / "exported", "found", vectors="mean", layer=1)["vectors"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    line = refused(lambda: vectors(tmp_path / "exported", "more", vectors="mean"))
    assert "exported up to layer 1, not 2: export it with --layer 2" in line
    line = refused(lambda: vectors(tmp_path / "exported", "more", layer=1))
    assert "is of the top layer" in line
    assert not (tmp_path / "more").exists()


def test_an_engine_needs_an_exported_folder(vectors, models, refused):
    line = refused(lambda: vectors(models / "encode", "out", engine="onnx"))
    assert "--engine onnx needs an exported folder: python export.py --task encode --model" in line


def test_onnx_needs_no_paddle(exported, tmp_path):
    (tmp_path / "a.txt").write_text("bado\n")
    flags = ["--data_set", "a.txt", "--data_format", "text", "--output_dir", "out", "--max_seq_len", "62"]
    flags += ["--init_pretraining_params", str(exported / "encode"), "--vectors", "mean"]
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
if __name__ == "__main__":
    import encode_vector
    sys.argv = ["encode_vector.py", *{flags}]
    encode_vector.main()
    assert "paddle" not in sys.modules
"""
    (tmp_path / "run.py").write_text(code)
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True)
    assert np.load(tmp_path / "out/vectors.npy").shape == (1, 32)
