"""MKL is tried before it is used."""

import pytest

from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.workers import make_paddle_workers
from ernie_m.training import device_summary
from tests.helpers.caches import nothing_cached
from tests.helpers.kernels import needs_mkl


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """MKL has not been tried yet in this process, which may use three threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with nothing_cached(mkl.is_supported, mkl._load_functions):
        yield


@needs_mkl
@pytest.mark.parametrize(
    ("function", "reason"),
    [("cblas_none", "cblas_none"), ("cblas_sgemm_batch", "product in float64")],
)
def test_mkl_that_multiplies_otherwise_is_not_used(monkeypatch, caplog, function, reason):
    monkeypatch.setitem(mkl._NAMES, "float64", function)
    assert device_summary.name_attention(is_half_precision=False) == "padded groups"
    assert make_paddle_workers().count == 1
    (line,) = caplog.messages
    assert "MKL is disabled" in line and reason in line
