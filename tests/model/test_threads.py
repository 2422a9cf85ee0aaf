"""Threads that each compute on one core: results in order, errors, and an end when nobody waits."""

import ctypes
import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import paddle
import pytest

pytest.importorskip("ernie_m.model.cpu")
from ernie_m.model import kernel_selection
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.attention import ScoreBlocks
from ernie_m.model.cpu.numpy_views import get_thread_count
from ernie_m.model.cpu.workers import get_worker_count, limit_to_one_core, make_paddle_workers, map_in_workers
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.reader.batching import batch_by_length
from ernie_m.vectors.encode import PaddleEncoder
from tests.helpers.kernels import needs_mkl

pytestmark = needs_mkl
WORKERS = 3
BLOCKS = ScoreBlocks(PackedLayout([3, 4]), 2)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(WORKERS))


def test_results_are_in_order_and_several_are_computed_at_a_time():
    meeting = threading.Barrier(WORKERS)  # opens when so many wait

    def compute(number: int) -> tuple[int, int]:
        meeting.wait(timeout=60)
        time.sleep(0.01 * (number % WORKERS))  # the first one of three is the quickest
        return number, get_thread_count()

    assert list(map_in_workers(compute, range(4 * WORKERS))) == [(n, 1) for n in range(4 * WORKERS)]


@pytest.mark.parametrize("ahead", [1, 4])
def test_an_iterator_is_read_little_ahead(ahead):
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    results = map_in_workers(lambda number: number, items(), ahead)
    assert next(results) == 0
    assert len(read) == ahead * WORKERS + 1
    assert list(results) == list(range(1, 100))


def test_an_only_item_has_one_core():
    """On all cores a short text would take half as long again."""
    assert list(map_in_workers(lambda item: get_thread_count(), ["text"])) == [1]
    assert list(map_in_workers(lambda item: item, [])) == []


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([20] * 6, [6]),  # too few tokens to share
        ([60] * 6, [2, 2, 2]),  # one batch for each worker
        ([60] * 7, [3, 3, 1]),
        ([500] * 6, [1] * 6),
        ([16] * 600, [100] * 6),  # of a sixth of all
        ([16] * 6000, [128] * 46 + [112]),  # of at most 2,048
    ],
)
def test_rows_are_shared_out_evenly(lengths, sizes):
    rows = [[0] * length for length in lengths]
    batches = batch_by_length(lengths, make_paddle_workers().count_batch_tokens(rows, 4096))
    assert list(map(len, batches)) == sizes
    assert make_paddle_workers().count_batch_tokens(rows, 100) == 100
    assert make_paddle_workers().count_batch_tokens([], 4096) <= 4096


def test_in_a_worker_items_have_its_core():
    def compute(item: int) -> list[int]:
        inner = map_in_workers(lambda number: threading.get_ident(), range(5))
        return [thread - threading.get_ident() for thread in inner]

    assert list(map_in_workers(compute, range(2))) == [[0] * 5] * 2


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
        counts.append((get_thread_count(), get_worker_count(), *of_libraries))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counts == [(1, 1, 1, 1)]
    assert get_worker_count() == WORKERS


def test_without_the_libraries_items_are_computed_in_turn(monkeypatch):
    monkeypatch.setattr(mkl, "is_supported", lambda: False)
    found = map_in_workers(lambda number: threading.get_ident(), range(4))
    assert list(found) == [threading.get_ident()] * 4


def test_an_error_is_raised_once_and_ends_the_others():
    computed = []

    def compute(number: int) -> None:
        if number == 1:
            raise ValueError("of item 1")
        computed.append(number)

    with pytest.raises(ValueError, match="of item 1"):
        list(map_in_workers(compute, range(1000)))
    assert len(computed) < 100


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

    results = map_in_workers(compute, range(8))
    next(results)
    assert started.wait(timeout=60)
    results.close()
    assert ended.acquire(timeout=60)
    again = map_in_workers(lambda item: BLOCKS.run_on_chunks(lambda chunk: None), range(9))
    assert list(again) == [None] * 9  # the workers are free again


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("count", [1, 50])
def test_ctrl_c_waits_for_the_workers(count):
    ended = []

    def compute(number: int) -> None:
        try:
            while number == 0:
                BLOCKS.run_on_chunks(lambda chunk: None)
        finally:
            time.sleep(0 if number else 0.5)
            ended.append(number)

    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        list(map_in_workers(compute, range(count)))
    assert 0 in ended


def test_encode_during_training():
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


def test_kernels_that_are_plain_compute_in_turn(monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    assert list(map_in_workers(lambda item: get_thread_count(), range(2))) == [WORKERS] * 2
