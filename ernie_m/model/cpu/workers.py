"""Worker threads for inference and training on a CPU.

Results are bitwise independent of the number of workers (docs/reliability.md, `ernie_m.model.threads`).
"""

from ernie_m.model import threads
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.numpy_views import get_usable_thread_count
from ernie_m.model.threads import Workers

_MOST = 2048  # tokens of a batch


def make_paddle_workers() -> Workers:
    """Return the workers of the current thread: a single one in a worker, or without MKL."""
    count = get_usable_thread_count() if mkl.is_supported() else 1
    return Workers(count, limit_to_one_core, _MOST) if count > 1 else Workers()


def limit_to_one_core() -> None:
    """Limit the current thread to one core for all later work in NumPy, Paddle, MKL and oneDNN."""
    threads.mark_as_worker()
    mkl.use_one_thread()
