"""Time the exact search of the nearest vectors beside sentence-transformers (torch) and numpy.

From arrays in memory to the 10 targets with the highest inner product for each query, float32. Ours is the
search of run_retrieval.py, including the time to put the vectors into its index. A peer that finds other
targets, beyond ties, is left out.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import LATEST, OURS, VENV, Contender, compare, tell
from utils.runtime import prepare

NEIGHBOURS, SLICE = 10, 50_000
TARGETS, QUERIES, FOUND = "targets.npy", "queries.npy", "found.npy"
TIES = 1e-4  # share of the targets that may differ
CONTENDERS = {
    OURS: Contender("ours", OURS),
    "st_installed": Contender("sentence-transformers, as installed", "torch", tuned=False),
    "st_best_latest": Contender("newest sentence-transformers", "torch", environment=LATEST),
    "numpy": Contender("numpy", "numpy", environment=VENV),
}


def write_vectors(folder: Path, args) -> None:
    """Write random vectors of length 1, one slice at a time."""
    rng = np.random.default_rng(0)
    for name, count in ((TARGETS, args.vectors), (QUERIES, args.queries)):
        file = np.lib.format.open_memmap(folder / name, "w+", np.float32, (count, args.width))
        for start in range(0, count, SLICE):
            part = rng.standard_normal([min(SLICE, count - start), args.width], np.float32)
            file[start : start + SLICE] = part / np.linalg.norm(part, axis=1, keepdims=True)
        file.flush()


def ours(folder: Path, _) -> None:
    prepare(quiet=True)
    from evaluation.search import nearest

    time_search(folder, lambda queries, targets: nearest(queries, targets, NEIGHBOURS)[1])


def sentence_transformers(folder: Path, _) -> None:
    import torch
    from sentence_transformers import util

    def search(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found = util.semantic_search(
            torch.from_numpy(queries), torch.from_numpy(targets), query_chunk_size=len(queries),
            top_k=NEIGHBOURS, score_function=util.dot_score,
        )  # fmt: skip
        return np.asarray([[hit["corpus_id"] for hit in hits] for hits in found])

    time_search(folder, search)


def with_numpy(folder: Path, _) -> None:
    def search(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        best = []  # of each slice: inner products and numbers of the best targets, both [Q, k]
        for start in range(0, len(targets), SLICE):
            products = queries @ targets[start : start + SLICE].T  # [Q, SLICE]
            chosen = np.argpartition(-products, min(NEIGHBOURS, products.shape[1]) - 1)[:, :NEIGHBOURS]
            best.append((np.take_along_axis(products, chosen, axis=1), chosen + start))
        scores, numbers = (np.concatenate(parts, axis=1) for parts in zip(*best))
        return np.take_along_axis(numbers, np.argsort(-scores)[:, :NEIGHBOURS], axis=1)

    time_search(folder, search)


def time_search(folder: Path, search: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Search once and tell the seconds. The targets found, [Q, k], must be those of the first contender."""
    queries, targets = np.load(folder / QUERIES), np.load(folder / TARGETS)
    search(queries[:2], targets[: 4 * NEIGHBOURS])  # libraries load at their first call
    start = time.perf_counter()
    found = search(queries, targets)
    seconds = time.perf_counter() - start
    found = np.sort(found, axis=1)
    if not (folder / FOUND).exists():
        np.save(folder / FOUND, found)
    if (different := (np.load(folder / FOUND) != found).mean()) > TIES:
        sys.exit(f"{different:.2%} of the targets found differ from those of the first contender")
    tell(seconds)


if __name__ == "__main__":
    workers = {OURS: ours, "torch": sentence_transformers, "numpy": with_numpy}
    sizes = {"vectors": 1_000_000, "queries": 1000, "width": 768}
    compare(__doc__, CONTENDERS, workers, sizes, "queries/s", lambda args, _: args.queries, write_vectors)
