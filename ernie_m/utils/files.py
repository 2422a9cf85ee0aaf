"""Files and folders: written so that they appear whole or not at all, locked, and read with clear errors.

A `Folder` is listed once, and each of its files is read once.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from ernie_m.utils.child_processes import exits_at_sigterm
from ernie_m.utils.errors import FULL, UserError
from ernie_m.utils.logging import logger

LARGEST_JSON = 256 << 20  # bytes
FileVersion = tuple[int, int]  # what changes when a file is written: its size, and the time of that in ns
_POINTER = b"version https://git-lfs.github.com/spec/"  # how a pointer of Git LFS begins
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # flock's errors on a file system without locks
# Nothing may be written there, or a file is where a folder should be, or a folder where a file should be; or
# the disk fails.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO)


def shipped(path: str | os.PathLike) -> Path:
    """Return the path of a file; if missing and in `configs/`, the path of the file in the package.

    So a command has the same words in a checkout and from the installed package.
    """
    path = Path(path)
    if path.parts[:1] != ("configs",) or path.exists():
        return path
    package = Path(__file__).resolve().parents[1]
    for own in (package / path, package.parent / path):  # of an installed package, of a checkout
        if own.is_file():
            return own
    return path


def is_blank(text: str) -> bool:
    """Whether a text has nothing but white space and characters of zero width."""
    return re.search(r"[^\s\u00ad\u200b-\u200f\u2060-\u2064\ufeff]", text) is None


def is_whole_text(text: str) -> bool:
    """Return whether a text has no lone surrogate, which JSON may contain and a file may not."""
    return text.encode(errors="ignore").decode() == text


def read_json(path: str | os.PathLike, advice: str = "") -> Any:
    """Return the value in a JSON file. A byte order mark at the start is skipped.

    Args:
        advice: the last part of an error: what the file should hold, or what to do.

    Raises:
        UserError: the file is unreadable, empty, larger than 256 MiB, not UTF-8 or not JSON; names the file,
            line and column.
    """
    ending = f"; {advice}" if advice else ""
    text = read_text(path, LARGEST_JSON, ending)
    if not text.strip():
        raise UserError(f"{path}: the file is empty{ending}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        location = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}, {location}: not JSON ({error.msg}){ending}") from error
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if is_deep else "a number of thousands of digits"
        raise UserError(f"{path}: not JSON ({reason}){ending}") from error


def json_of(text: str | bytes) -> Any:
    """Return the value of a text; None: it is null, or not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_object(path: str | os.PathLike, advice: str = "") -> dict[str, Any]:
    """Return the object in a JSON file; `read_json` describes the rest.

    Raises:
        UserError: also if the file holds another value.
    """
    value = read_json(path, advice)
    if not isinstance(value, dict):
        ending = f"; {advice}" if advice else ""
        raise UserError(f"{path}: not a JSON object{ending}")
    return value


def read_text(path: str | os.PathLike, largest: int, ending: str = "") -> str:
    """Return the text of a file of at most `largest` bytes. A byte order mark at the start is skipped.

    Args:
        ending: the end of an error.

    Raises:
        UserError: the file cannot be read, is larger, or is not UTF-8.
    """
    data = read_bytes(path, ending, largest)
    if len(data) > largest:
        raise UserError(f"{path}: larger than {largest:,} bytes{ending}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1}){ending}") from error


def read_bytes(path: str | os.PathLike, ending: str = "", largest: float = math.inf) -> bytes:
    """Read a file.

    Args:
        ending: the end of an error, such as "; see --vocab_path".
        largest: the number of bytes after which it is not read on; a device such as /dev/zero has no end.

    Raises:
        UserError: the file cannot be read.
    """
    data = bytearray()
    with translate_read_errors(path, ending), open(path, "rb") as file:
        # file.read(largest) would take that much memory at once.
        while len(data) <= largest and (block := file.read(1 << 20)):
            data += block
    _reject_pointer(data, path)
    return bytes(data)


@contextmanager
def translate_read_errors(path: str | os.PathLike | int, ending: str = "") -> Iterator[None]:
    """Turn the error of a file that cannot be read into a one-line `UserError` with this ending."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}){ending}") from error


def version_of(file: str | os.PathLike | int) -> FileVersion:
    """What tells whether a file, by its path or its descriptor, is still the one that was opened.

    Raises:
        UserError: it cannot be read.
    """
    with translate_read_errors(file):
        status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def refuse_changed(path: str | os.PathLike, now: FileVersion | None, version: FileVersion | None) -> None:
    """Refuse a file that is no longer the one that was opened.

    Args:
        now, version: what it is and was; None: there is or was none.

    Raises:
        UserError: it was written or replaced.
    """
    if now != version:
        raise UserError(f"{path}: changed since it was opened; start again with what is there now")


def reject_pointer(path: str | os.PathLike) -> None:
    """Check that a file is not what Git LFS puts in the place of one that it has not fetched.

    Raises:
        UserError: it is.
    """
    if os.path.isfile(path):  # a pipe can be read but once
        with suppress(OSError), open(path, "rb") as file:  # who reads the file says why it cannot be read
            _reject_pointer(file.read(len(_POINTER)), path)


def _reject_pointer(content: bytes | bytearray, path: str | os.PathLike) -> None:
    """`reject_pointer` for a file whose first bytes, or all, were read."""
    if content.startswith(_POINTER):
        raise UserError(
            f"{path}: a Git LFS pointer, not the file. Fetch the file in its repository with git lfs pull"
        )


def sha256_of(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def translate_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn "no space left" and "permission denied" into a one-line `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        location = Path(error.filename2 or error.filename or path)  # filename2: the target of a rename
        # "No such file" is also the error of a folder that cannot be made, as under /proc. The user can name
        # another place then. If a file elsewhere is missing, that is no mistake of the user.
        has_no_folder = error.errno == errno.ENOENT and Path(path).is_relative_to(location.parent)
        if location.name.startswith(f".{Path(path).name}."):  # the lock, or what is unfinished
            location = Path(path)
        if error.errno in _REFUSED or has_no_folder:
            raise UserError(f"{location}: {error.strerror}. Choose another path") from error
        # numpy's error of an array that it could not write whole has no number.
        is_of_numpy = error.errno is None and str(error).endswith(" written")
        if error.errno not in FULL and not is_of_numpy:
            raise
        raise UserError(
            f"{path}: no space left ({error.strerror or error}). Free some space and run the same command "
            "again; a previous file is unchanged"
        ) from error


def take_lock(file: IO) -> bool:
    """Lock a file that is open for writing, by flock, without waiting.

    The kernel releases the lock when the file is closed, or the process ends, even by a kill.

    Returns:
        False if another process has the lock, or has renamed the file since it was opened.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: the file system has no locks; do not run a second process with this output", file.name
        )
    return os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))


def reject_overwrite(
    inputs: Collection[str | os.PathLike], flag: str, outputs: Iterable[str | os.PathLike]
) -> None:
    """Refuse to write files that are read.

    Args:
        flag: the flag that names the outputs, with its value, for the message.

    Raises:
        UserError: a file is among both.
    """
    for path in outputs:
        if os.path.realpath(path) in map(os.path.realpath, inputs):
            raise UserError(f"{flag}: would overwrite the input {path}. Choose another output")


@contextmanager
def lock(path: Path, location: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which names the last process that held it, for work in `location`.

    It ends with the process, so there is nothing to clean up. The folder of the file is made.

    Raises:
        UserError: another process holds the lock (the line names it and its host), or the file cannot be
            written.
    """
    with translate_write_errors(location):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 - not inherited by the reader process
    with file:
        if not take_lock(file):
            file.seek(0)
            raise UserError(
                f"{location}: locked by another command ({file.read(1000).decode()}). Wait until it has "
                "ended, stop it, or choose another output"
            )
        with translate_write_errors(location):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


@contextmanager
def lock_writer(path: str | os.PathLike, new: str = "") -> Iterator[None]:
    """Let no other command write a file or folder while this one does.

    The lock is that of a hidden file next to `path`, `.NAME.lock`, which is removed at the end, also by
    SIGTERM; a killed command leaves it, unlocked.

    Args:
        new: the flag of the path, if nothing may be there yet. Without the lock another command could make
            it between the look and the writing.

    Raises:
        UserError: another command has the lock, the folder cannot be written, or `path` is there.
    """
    target = Path(os.path.realpath(path))
    lock_file = target.with_name(f".{target.name}.lock")
    with lock(lock_file, target), exits_at_sigterm():
        try:
            if new and target.exists():
                raise UserError(f"{new} {path} already exists. Choose another one")
            yield
        finally:
            lock_file.unlink(missing_ok=True)


def host_name() -> str:
    """This machine's name, as it stands in temporary names: letters, digits and underscores."""
    return re.sub(r"\W", "_", socket.gethostname())


# A name of `temporary_name`.
_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>tmp|old|gone)-(?P<process>\d+)-(?P<host>\w+)-[0-9a-f]{8}", re.DOTALL
)


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden name next to `path` that no other process on any machine takes.

    Process ids alone repeat on the machines, or in the containers, that share a disk.

    Args:
        kind: what is there: "tmp", an unfinished file or folder; "old", one that is being replaced; "gone",
            one that is being removed.
    """
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{host_name()}-{secrets.token_hex(4)}")


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written in a folder.

    What was being replaced is put back if the new one had not yet got its name. What a process that still
    runs on this machine writes stays.

    Args:
        name: only what was to have this name. Nobody has locked the folder, so what other machines, or
            threads of this process, may be writing stays as well. None: everything; the caller holds the
            lock.
    """
    for path in sorted(folder.glob(".*")):
        leftover = _TEMPORARY.fullmatch(path.name)  # None: it is the user's
        if leftover is None or name not in (None, leftover["name"]):
            continue
        process = int(leftover["process"])
        # Whether it still runs cannot be asked if it is on another machine, or has the number of this process
        # in another container.
        can_be_asked = leftover["host"] == host_name() and process != os.getpid()
        is_written = _is_running(process) if can_be_asked else name is not None
        if not is_written:
            with suppress(PermissionError):  # what another user left in a shared folder stays
                _clear(path, path.with_name(leftover["name"]), leftover["kind"])


def _clear(path: Path, original: Path, kind: str) -> None:
    """Remove what has a temporary name, or put it back; `kind` as of `temporary_name`."""
    if kind == "old" and path.exists() and not original.exists():
        os.replace(path, original)
        logger.warning("%s: restored; its replacement was never finished", original)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Return whether a process of this machine has this number."""
    try:
        os.kill(process, 0)  # signal 0 only checks
    except (OSError, OverflowError) as error:  # the latter: no process can have it
        return isinstance(error, PermissionError)  # a process of another user
    return True


@contextmanager
def _replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file or folder that is made there is synced and renamed to `path`.

    What was there is replaced then, and put back if that fails. The folder is created, and what a killed
    process left is removed before.
    """
    temporary = temporary_name(path)
    old = temporary_name(path, "old")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, path.name)
        try:
            yield temporary
            for file in (temporary, *temporary.rglob("*")):
                if file.is_file():
                    sync_file(file)
            if temporary.is_dir() and path.exists():  # a file takes the place of another at once
                os.replace(path, old)
            os.replace(temporary, path)
            sync_file(path.parent)
        finally:
            _clear(old, path, "old")
            _clear(temporary, path, "tmp")


@contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "wb", **options) -> Iterator[IO]:
    """Open a temporary file next to `path`; on success it is synced and renamed to `path`.

    The folder is created, and what a killed process left of such a file is removed. `mode` is "wb" or "w",
    and text is UTF-8 unless `options` for `open` say otherwise.

    Raises:
        UserError: the disk is full or read-only. An earlier file of that name is untouched.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with _replace_atomically(Path(path)) as temporary, open(temporary, mode, **options) as file:
        yield file


@contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; on success it is synced and renamed to `path`.

    An earlier file or folder of that name is replaced then. A link stays, and what it leads to is replaced.
    What a killed process left of such a folder is removed before.

    Raises:
        UserError: the disk is full or read-only. What was there before is untouched.
    """
    path = Path(path)
    with _replace_atomically(Path(os.path.realpath(path)) if path.is_symlink() else path) as temporary:
        temporary.mkdir()
        yield temporary


def as_json(value: Any) -> str:
    """Format a value as indented JSON with a newline at the end. For files in an `atomic_dir`."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented UTF-8 JSON. The file appears whole or not at all."""
    with atomic_file(path, "w", newline="\n") as file:
        file.write(as_json(value))


def remove(path: Path) -> None:
    """Remove a file, a folder with everything in it, or a link, but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk. A rename survives a crash only once its folder is synced as well."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Contents = TypeVar("Contents")


class Folder:
    """The files of a folder.

    Args:
        path: the folder, or one of its files; there may be neither.

    Attributes:
        path: the folder.
        named: the name of the file that was given; None: the folder was.
        names: of the files right in it.

    Raises:
        UserError: the folder cannot be listed.
    """

    def __init__(self, path: Path):
        is_file = path.is_file()
        self.path = path.parent if is_file else path
        self.named = path.name if is_file else None
        self.names: set[str] = set()
        self._contents: dict[str, Any] = {}
        if self.path.is_dir():
            with translate_read_errors(self.path), os.scandir(self.path) as entries:
                # `DirEntry.is_file` fails at a link that leads to itself.
                self.names = {
                    entry.name
                    for entry in entries
                    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
                }

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def first(self, names: Iterable[str]) -> Path | None:
        """Return the first file of one of these names; None: there is none."""
        return next((self.path / name for name in names if name in self.names), None)

    def read(self, name: str, reader: Callable[[Path], Contents]) -> Contents:
        """What a reader makes of a file. It is asked once, so nobody may change what it returned."""
        if name not in self._contents:
            self._contents[name] = reader(self.path / name)
        return self._contents[name]

    def forget(self) -> None:
        """Let go of what was read, which may be large."""
        self._contents.clear()

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; empty if there is no such file.

        Raises:
            UserError: it is corrupt.
        """
        return self.read(name, read_object) if name in self.names else {}
