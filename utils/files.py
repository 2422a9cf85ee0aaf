"""Files and folders appear whole or not at all: written to a temporary name, then renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def sha256_of(path: str | os.PathLike) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, UTF-8, into a file of a folder that is being made (`atomic_dir`)."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def unwritable_is_a_user_error(path: str | os.PathLike) -> Iterator[None]:
    """One line where `path` cannot be written: no space, not allowed. What was there before is untouched."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSED:
            raise UserError(f"{error.filename or path}: {error.strerror}; choose another place") from error
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"{path}: no space left to write it ({error.strerror}); what was there before is untouched. "
            "Free some space and run the same command again"
        ) from error


@contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "wb", **options) -> Iterator[IO]:
    """Open a temporary file beside `path` for writing; on success it is synced and takes the name `path`.

    Args:
        path: the final name; its folder is created.
        mode: "wb" or "w"; text is UTF-8 unless `options` says otherwise.
        options: passed on to `open`.

    Raises:
        UserError: the disk is full, or may not be written to. The previous file, if any, is untouched.
    """
    path = Path(path)
    with unwritable_is_a_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    try:
        with unwritable_is_a_user_error(path):
            with open(temporary, mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the name `path`, replacing what was there.

    Raises:
        UserError: the disk is full, or may not be written to. The previous folder, if any, is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    with unwritable_is_a_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        with unwritable_is_a_user_error(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        if not path.exists() and old.exists():  # the second rename failed: put the previous folder back
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # A rename is only durable once the folder that holds the name is synced.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
