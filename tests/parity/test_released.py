"""The release of PaddlePaddle, by its name on a stand-in hub, computes here what it computes in PaddleNLP."""

import paddlenlp.transformers as paddlenlp
import pytest

from tests.helpers.hub import NAME, serve_release
from tests.helpers.torch_peers import assert_close, batch, run_ours
from tests.parity.test_convert import run_paddlenlp


@pytest.mark.parametrize("prefix", ["", "ernie_m."])
def test_outputs_equal_those_of_paddlenlp(tmp_path, monkeypatch, prefix):
    with serve_release(tmp_path, monkeypatch, prefix=prefix) as hub:
        reference = paddlenlp.ErnieMModel.from_pretrained(str(hub.root / NAME))
        ids, mask = batch()
        outputs = run_ours(NAME, None, ids)
    assert_close(outputs, run_paddlenlp(reference, None, ids, mask), mask, atol=1e-5)
