"""Read JSON files with clear errors; write files and folders so that they appear whole or not at all."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, get_args, get_origin, get_type_hints

from utils.errors import FULL, UserError

T = TypeVar("T")
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def read_json(path: str | os.PathLike, advice: str = "") -> Any:
    """The value in a JSON file. A byte order mark at the start is skipped.

    Args:
        advice: appended to an error message: what the file should hold, or what to do.

    Raises:
        UserError: the file is unreadable, empty, not UTF-8 or not JSON; names the file, line and column.
    """
    advice = f"; {advice}" if advice else ""
    data = read_bytes(path, advice)
    if not data.strip():
        raise UserError(f"{path}: the file is empty{advice}")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1}){advice}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}, {place}: not JSON ({error.msg}){advice}") from error
    except ValueError as error:  # Python does not read integers with thousands of digits
        raise UserError(f"{path}: not JSON (a number of thousands of digits){advice}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON (nested too deeply){advice}") from error


def read_bytes(path: str | os.PathLike, advice: str = "") -> bytes:
    """The bytes of a file. UserError: it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}){advice}") from error


def read_dataclass(path: str | os.PathLike, cls: type[T], advice: str = "") -> T:
    """A dataclass of numbers, strings and dicts of them, from the JSON form of `dataclasses.asdict`.

    Raises:
        UserError: as for `read_json`; missing or unknown keys, or values of another type.
    """
    values, kinds = read_json(path, advice), get_type_hints(cls)
    wanted = {field.name: kinds[field.name] for field in dataclasses.fields(cls)}
    advice = f"; {advice}" if advice else ""
    if not isinstance(values, dict) or values.keys() != wanted.keys():
        raise UserError(f"{path}: holds no object with the keys {', '.join(wanted)}{advice}")
    for key, kind in wanted.items():
        if not _fits(values[key], kind):
            raise UserError(f"{path}: {key} is of another type{advice}")
    return cls(**values)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(kind)[1]) for item in value.values())
    return type(value) in ((int, float) if kind is float else (kind,))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON. Not atomic: use it inside `atomic_dir`."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_of(path: str | os.PathLike) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def unwritable_is_a_user_error(path: str | os.PathLike) -> Iterator[None]:
    """Turn "no space left" and "permission denied" into a one-line `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename or path)
        no_place = error.errno == errno.ENOENT and Path(path).is_relative_to(place.parent)  # as under /proc
        if error.errno in _REFUSED or no_place:
            raise UserError(f"{place}: {error.strerror}; choose another place") from error
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{path}: no space left to write it ({error.strerror}); what was there before is untouched. "
            "Free some space and run the same command again"
        ) from error


def host_name() -> str:
    """This machine's name, as it stands in temporary names: letters, digits and underscores."""
    return re.sub(r"\W", "_", socket.gethostname())


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """A hidden name beside `path` that no other process on any machine takes, `kind`: tmp, old or gone.

    Process ids alone repeat on the machines, or in the containers, that share a disk.
    """
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{host_name()}-{secrets.token_hex(4)}")


@contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "wb", **options) -> Iterator[IO]:
    """Open a temporary file beside `path`; on success it is synced and renamed to `path`.

    Args:
        path: the final name. Its folder is created.
        mode: "wb" or "w". Text is UTF-8 unless `options` says otherwise.
        options: passed on to `open`.

    Raises:
        UserError: the disk is full or read-only. An earlier file of that name is untouched.
    """
    path = Path(path)
    temporary = temporary_name(path)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with unwritable_is_a_user_error(path):
        _make_parents(path)
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


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # below /proc
        raise PermissionError(errno.EACCES, "no folder can be made there", str(path.parent)) from error


class StagedFolder:
    """A folder written under a temporary name beside `path`. `path` is either the old or the new folder.

    Args:
        path: the final name. Its parents are created.

    Attributes:
        temporary: the folder to write into.

    Raises:
        UserError: the place cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.temporary = temporary_name(self.path)
        self._old = temporary_name(self.path, "old")
        with unwritable_is_a_user_error(self.path):
            _make_parents(self.path)
            self.temporary.mkdir()

    def commit(self) -> None:
        """Rename the folder to `path`, replacing an earlier one. Call `sync_files` before."""
        try:
            with unwritable_is_a_user_error(self.path):
                if self.path.exists():
                    os.replace(self.path, self._old)
                os.replace(self.temporary, self.path)
                _sync_folder(self.path.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary folder. An earlier folder of that name stays."""
        if not self.path.exists() and self._old.exists():  # the second rename failed
            os.replace(self._old, self.path)
        shutil.rmtree(self._old, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is synced and renamed to `path`.

    Raises:
        UserError: the disk is full or read-only. An earlier folder of that name is untouched.
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
    """Remove a file, or a folder with everything in it."""
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
    """Wait until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # A rename survives a crash only once the folder is synced.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
