"""encode_vector.py on what export.py wrote: the same files as from the checkpoint."""

import numpy as np
import pytest

import encode_vector
from tests.helpers.small_corpus import sentences
from tests.launching import as_flags, call_main


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
