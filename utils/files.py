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

from utils.errors import FULL, UserError

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
        if error.errno not in FULL:
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


class StagedFolder:
    """A folder that is written under a temporary name beside `path`, for as long as that takes.

    At any moment `path` is what it was before or, after `commit`, the new folder, whole.

    Args:
        path: the final name; its parents are created.

    Attributes:
        temporary: where to write.

    Raises:
        UserError: the place cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        self._old = self.path.with_name(f".{self.path.name}.old-{os.getpid()}")
        shutil.rmtree(self.temporary, ignore_errors=True)
        with unwritable_is_a_user_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.mkdir()

    def commit(self) -> None:
        """Give the folder its name, in place of what was there. Its files must be synced (`sync_files`)."""
        try:
            with unwritable_is_a_user_error(self.path):
                if self.path.exists():
                    os.replace(self.path, self._old)
                os.replace(self.temporary, self.path)
                _sync_folder(self.path.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written, unless it has its name; what was there before stays."""
        if not self.path.exists() and self._old.exists():  # the second rename failed
            os.replace(self._old, self.path)
        shutil.rmtree(self._old, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the name `path`, replacing what was there.

    Raises:
        UserError: the disk is full, or may not be written to. The previous folder, if any, is untouched.
    """
    staged = StagedFolder(path)
    try:
        with unwritable_is_a_user_error(path):
            yield staged.temporary
            sync_files(staged.temporary)
        staged.commit()
    finally:
        staged.discard()


def remove(path: Path) -> None:
    """Remove a file, or a folder and all that is in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_files(folder: Path) -> None:
    """Wait until all files below a folder are on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            sync_file(file)


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # A rename is only durable once the folder that holds the name is synced.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
