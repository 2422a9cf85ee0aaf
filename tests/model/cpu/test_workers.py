"""Worker threads that compute with Paddle: each on one core, stopped within a layer when nobody waits."""

import ctypes
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.attention import ScoreBlocks
from ernie_m.model.cpu.numpy_views import get_usable_thread_count
from ernie_m.model.cpu.workers import limit_to_one_core, make_paddle_workers
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.vectors.encode import PaddleEncoder
from tests.helpers.kernels import needs_mkl

pytestmark = needs_mkl
WORKERS = 3
BLOCKS = ScoreBlocks(PackedLayout([3, 4]), 2)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(WORKERS))


def test_in_a_worker_items_have_its_core():
    def compute(item: int) -> list[int]:
        inner = make_paddle_workers().map(lambda number: threading.get_ident(), range(5))
        return [thread - threading.get_ident() for thread in inner]

    assert list(make_paddle_workers().map(compute, range(2))) == [[0] * 5] * 2


def test_foreign_thread_becomes_a_worker():
    """As those of the server."""
    libraries = Path(paddle.__file__).parent / "libs"
    openmp = ctypes.CDLL(str(libraries / "libiomp5.so"))
    mkl_library = ctypes.CDLL(str(libraries / "libmklml_intel.so"))
    counts = []

    def work() -> None:
        openmp.omp_set_num_threads(WORKERS)
        mkl_library.MKL_Set_Num_Threads_Local(WORKERS)
        limit_to_one_core()
        of_libraries = (openmp.omp_get_max_threads(), mkl_library.MKL_Get_Max_Threads())
        counts.append((get_usable_thread_count(), make_paddle_workers().count, *of_libraries))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counts == [(1, 1, 1, 1)]
    assert make_paddle_workers().count == WORKERS


def test_without_the_libraries_items_are_computed_in_turn(monkeypatch):
    monkeypatch.setattr(mkl, "is_supported", lambda: False)
    found = make_paddle_workers().map(lambda number: threading.get_ident(), range(4))
    assert list(found) == [threading.get_ident()] * 4


def test_workers_end_when_nobody_waits():
    """They stop at the attention of the next layer."""
    ended = threading.Semaphore(0)
    started = threading.Event()

    def compute(number: int) -> None:
        if number == 0:
            return
        started.set()
        try:
            while True:
                BLOCKS.run_on_chunks(lambda chunk: None)
        except CancelledError:
            ended.release()
            raise

    results = make_paddle_workers().map(compute, range(8))
    next(results)
    assert started.wait(timeout=60)
    results.close()
    assert ended.acquire(timeout=60)
    again = make_paddle_workers().map(lambda item: BLOCKS.run_on_chunks(lambda chunk: None), range(9))
    assert list(again) == [None] * 9  # the workers are free again


def test_encoding_during_training_draws_no_dropout():
    """All workers compute without dropout, and the model is in training again when the last one is ready."""
    paddle.seed(1)
    config = ErnieMConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    encoder = PaddleEncoder(ErnieMModel(config), "mean_without_special", 2)
    sentences = [[0, *ids, 2] for ids in np.random.default_rng(0).integers(4, 50, [60, 9]).tolist()]
    encoder.model.eval()
    expected = encoder.encode(sentences)
    encoder.model.train()
    for _ in range(5):
        assert np.array_equal(encoder.encode(sentences, batch_tokens=33), expected)
        assert encoder.model.training
