"""One run at a time in an output folder: a lock that ends with the process that holds it."""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils import distributed
from utils.errors import UserError
from utils.files import unwritable_is_a_user_error

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


@contextmanager
def only_run_in(folder: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of an output folder on the main process; the other processes of the run need none.

    It is an flock on the file `.lock`: the kernel drops it with the process, however that ends, so nothing
    has to be cleared away after a kill. The file stays and tells who was there last.

    Args:
        folder: made where it is missing.

    Raises:
        UserError: another run holds it (the line names its process and host), or the folder cannot be
            written.
    """
    if not distributed.is_main():
        yield
        return
    path = Path(folder, LOCK)
    with unwritable_is_a_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # not inherited by the reader process
    try:
        _take(file, path)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path.parent}: another run is at work there ({_holder(file)}); wait until it has ended, end "
            "it, or choose another output folder"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks: see that no second run writes there", path.parent)
        return
    with unwritable_is_a_user_error(path):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _holder(file: int) -> str:
    try:
        who = json.loads(os.pread(file, 1000, 0))
        return f"process {who['process']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just come and not signed yet
        return "its process is not known yet"
