"""transformers 5 opens the release of PaddlePaddle, converted by its name on a stand-in hub."""

import pytest

from ernie_m.commands import convert
from tests.helpers.hub import NAME, serve_release
from tests.helpers.torch_peers import assert_close, batch, load_torch, run_ours, run_torch


@pytest.mark.parametrize("prefix", ["", "ernie_m."])
def test_transformers_computes_our_numbers(tmp_path, monkeypatch, prefix):
    ids, mask = batch()
    with serve_release(tmp_path, monkeypatch, prefix=prefix):
        convert.main([NAME, str(tmp_path / "converted"), "--to", "xlm-roberta"])
        outputs = run_ours(NAME, None, ids)
    reference = load_torch("xlm-roberta", None, tmp_path / "converted")
    assert_close(outputs, run_torch(reference, None, ids, mask), mask, atol=1e-5)
