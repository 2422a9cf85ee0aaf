"""Time the exact search of the nearest vectors beside sentence-transformers (torch) and numpy.

From arrays in memory to the 10 targets with the highest inner product for each query, float32. Ours is the
search of run_retrieval.py, including the time to put the vectors into its index. A peer that finds other
targets, beyond ties, is left out.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import compare, tell
from utils.runtime import prepare

NEIGHBOURS = 10
SLICE = 50_000  # vectors that are written, or compared by numpy, at a time
TARGETS = "targets.npy"
QUERIES = "queries.npy"
OF_THE_FIRST = "nearest.npy"  # what the first contender found
TIES = 1e-4  # share of the targets that may differ, because float32 rounds nearly equal products
SIZES = {"vectors": 1_000_000, "queries": 1000, "width": 768}


def write_vectors(folder: Path, args: Namespace) -> int:
    """Write random vectors of length 1, one slice at a time. Returns the number of queries."""
    rng = np.random.default_rng(0)
    for name, count in ((TARGETS, args.vectors), (QUERIES, args.queries)):
        shape = (count, args.width)
        file = np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, count, SLICE):
            part = rng.standard_normal([min(SLICE, count - start), args.width], dtype=np.float32)
            file[start : start + SLICE] = part / np.linalg.norm(part, axis=1, keepdims=True)
        file.flush()
    return args.queries


def ours(folder: Path, args: Namespace) -> None:
    """The search of run_retrieval.py."""
    prepare(quiet=True)
    from evaluation.search import nearest

    def search(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        _, numbers = nearest(queries, targets, NEIGHBOURS)
        return numbers

    time_search(folder, search)


def sentence_transformers(folder: Path, args: Namespace) -> None:
    """Its exact search, with all queries at a time."""
    import torch
    from sentence_transformers import util

    def search(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        hits_of_queries = util.semantic_search(
            torch.from_numpy(queries),
            torch.from_numpy(targets),
            query_chunk_size=len(queries),
            top_k=NEIGHBOURS,
            score_function=util.dot_score,
        )
        return np.asarray([[hit["corpus_id"] for hit in hits] for hits in hits_of_queries])

    time_search(folder, search)


def with_numpy(folder: Path, args: Namespace) -> None:
    """Inner products of all queries with a slice of the targets at a time."""

    def search(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        products_of_slices = []  # [Q, k] each: the largest inner products
        numbers_of_slices = []  # [Q, k] each: their targets
        for start in range(0, len(targets), SLICE):
            products = queries @ targets[start : start + SLICE].T  # [Q, SLICE]
            k = min(NEIGHBOURS, products.shape[1])  # the last slice may be short
            nearest = np.argpartition(-products, k - 1)[:, :k]  # [Q, k]
            products_of_slices.append(np.take_along_axis(products, nearest, axis=1))
            numbers_of_slices.append(nearest + start)
        # The nearest of all are among the nearest of each slice.
        candidate_products = np.concatenate(products_of_slices, axis=1)  # [Q, k x slices]
        candidates = np.concatenate(numbers_of_slices, axis=1)
        order = np.argsort(-candidate_products)[:, :NEIGHBOURS]
        return np.take_along_axis(candidates, order, axis=1)

    time_search(folder, search)


def time_search(folder: Path, search: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Search once and tell the seconds. The targets found, [Q, k], must be those of the first contender."""
    queries = np.load(folder / QUERIES)
    targets = np.load(folder / TARGETS)
    # A small search first, because libraries load at their first call.
    search(queries[:2], targets[: 4 * NEIGHBOURS])
    start = time.perf_counter()
    nearest = search(queries, targets)
    seconds = time.perf_counter() - start
    nearest = np.sort(nearest, axis=1)
    if not (folder / OF_THE_FIRST).exists():
        np.save(folder / OF_THE_FIRST, nearest)
    different = (np.load(folder / OF_THE_FIRST) != nearest).mean()
    if different > TIES:
        sys.exit(f"{different:.2%} of the targets found differ from those of the first contender")
    tell(seconds)


WORKS = {
    "ours": ours,
    "st_installed": sentence_transformers,
    "st_best_latest": sentence_transformers,
    "numpy": with_numpy,
}


if __name__ == "__main__":
    compare(__doc__, WORKS, SIZES, unit="queries/s", prepare=write_vectors)
