"""Files and folders: reading with one-line errors, atomic writing, and locks."""

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

from ernie_m.utils.child_processes import exit_on_sigterm
from ernie_m.utils.errors import FULL, UserError, open_in_place
from ernie_m.utils.logging import logger

LARGEST_JSON = 256 << 20  # bytes
FileVersion = tuple[int, int]  # size and modification time in ns
_POINTER = b"version https://git-lfs.github.com/spec/"  # prefix of a Git LFS pointer
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # flock's errors on a file system without locks
# Nothing can be written there, a file is in the place of a folder or the reverse, the disk fails, or a link
# leads to itself.
_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EIO,
    errno.ELOOP,
)


def resolve_shipped_path(path: str | os.PathLike) -> Path:
    """Return a path; for a missing file in `configs/`, return the path of the file in the package.

    This makes commands the same in a checkout and with the installed package.
    """
    path = Path(path)
    if path.parts[:1] != ("configs",) or path.exists():
        return path
    package = Path(__file__).resolve().parents[1]
    for own in (package / path, package.parent / path):  # in an installed package, in a checkout
        if own.is_file():
            return own
    return path


def is_blank(text: str) -> bool:
    """Return whether a text has only white space and zero-width characters."""
    return re.search(r"[^\s\u00ad\u200b-\u200f\u2060-\u2064\ufeff]", text) is None


def is_valid_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8: it has no lone surrogates, as JSON may have."""
    return text.encode(errors="ignore").decode() == text


def reject_undecodable_names(names: Iterable[str]) -> None:
    """Check that arguments and names of files are UTF-8.

    They are written to manifests, logs and commands to paste, which could not be written or run.

    Raises:
        UserError: a name is in another encoding.
    """
    for name in names:
        if not is_valid_unicode(name):
            raise UserError(f"{name}: the name is not UTF-8. Rename the file or folder")


def read_json(path: str | os.PathLike, advice: str = "") -> Any:
    """Read a JSON file, which may begin with a byte order mark.

    Args:
        advice: end of the error message: what the file should contain, or what to do.

    Raises:
        UserError: the file is unreadable, empty, larger than 256 MiB, not UTF-8 or not JSON.
    """
    ending = f"; {advice}" if advice else ""
    text = read_text(path, LARGEST_JSON, ending)
    if not text.strip():
        raise UserError(f"{path}: empty file{ending}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        location = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}, {location}: not JSON ({error.msg}){ending}") from error
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if is_deep else "a number with thousands of digits"
        raise UserError(f"{path}: not JSON ({reason}){ending}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON text; None if the text is null or not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_object(path: str | os.PathLike, advice: str = "") -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        advice: as in `read_json`.

    Raises:
        UserError: the file is unreadable, empty, larger than 256 MiB or not UTF-8, or is not a JSON object.
    """
    value = read_json(path, advice)
    if not isinstance(value, dict):
        ending = f"; {advice}" if advice else ""
        raise UserError(f"{path}: not a JSON object{ending}")
    return value


def read_text(path: str | os.PathLike, max_bytes: int, advice: str = "") -> str:
    """Read a UTF-8 text file, which may begin with a byte order mark.

    Args:
        max_bytes: maximum size in bytes.
        advice: end of the error message.

    Raises:
        UserError: the file cannot be read, is larger than `max_bytes`, or is not UTF-8.
    """
    data = read_bytes(path, advice, max_bytes)
    if len(data) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes:,} bytes{advice}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1}){advice}") from error


def read_bytes(path: str | os.PathLike, advice: str = "", max_bytes: float = math.inf) -> bytes:
    """Read the bytes of a file.

    Args:
        advice: end of the error message, such as "; see --vocab_path".
        max_bytes: read little more than this number of bytes, because a device such as /dev/zero has no end.

    Raises:
        UserError: the file cannot be read, or is a Git LFS pointer.
    """
    data = bytearray()
    with translate_read_errors(path, advice), open(path, "rb") as file:
        # file.read(largest) would allocate that much memory at once.
        while len(data) <= max_bytes and (block := file.read(1 << 20)):
            data += block
    _reject_lfs_pointer(data, path)
    return bytes(data)


@contextmanager
def translate_read_errors(path: str | os.PathLike | int, advice: str = "") -> Iterator[None]:
    """Translate errors of an unreadable file within a `with` block into `UserError`.

    Args:
        advice: end of the error message.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}){advice}") from error


def get_file_version(file: str | os.PathLike | int) -> FileVersion:
    """Return size and modification time of a file, by path or descriptor, to detect later changes.

    Raises:
        UserError: the file cannot be read.
    """
    with translate_read_errors(file):
        status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def reject_changed_file(
    path: str | os.PathLike, current_version: FileVersion | None, opened_version: FileVersion | None
) -> None:
    """Check that a file has not changed since it was opened.

    Args:
        current_version: current version of the file, from `get_file_version`; None: missing.
        opened_version: version of the file when it was opened.

    Raises:
        UserError: the versions differ.
    """
    if current_version != opened_version:
        raise UserError(f"{path}: changed since it was opened. Restart to load the new version")


def reject_lfs_pointer(path: str | os.PathLike) -> None:
    """Check that a file is not a Git LFS pointer, the placeholder of a file that was not fetched.

    Raises:
        UserError: the file is a Git LFS pointer.
    """
    if os.path.isfile(path):  # a pipe can be read only once
        with suppress(OSError), open(path, "rb") as file:  # the reader reports why it cannot be read
            _reject_lfs_pointer(file.read(len(_POINTER)), path)


def _reject_lfs_pointer(content: bytes | bytearray, path: str | os.PathLike) -> None:
    """Check that a file is not a Git LFS pointer, given its first bytes.

    Raises:
        UserError: the file is a Git LFS pointer.
    """
    if content.startswith(_POINTER):
        raise UserError(
            f"{path}: a Git LFS pointer, not the file. Fetch the file in its repository with git lfs pull"
        )


def compute_sha256(path: str | os.PathLike) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def translate_write_errors(path: str | os.PathLike) -> Iterator[None]:
    """Translate errors of writing `path` within a `with` block, such as a full disk, into `UserError`."""
    try:
        yield
    except OSError as error:
        location = Path(error.filename2 or error.filename or path)  # filename2: target of a rename
        # "No such file" is also the error of a folder that cannot be created, as under /proc. The user can
        # choose another path then. A missing file elsewhere is not a user's mistake.
        has_no_folder = error.errno == errno.ENOENT and Path(path).is_relative_to(location.parent)
        if location.name.startswith(f".{Path(path).name}."):  # the lock or an unfinished file
            location = Path(path)
        if error.errno in _REFUSED or has_no_folder:
            raise UserError(f"{location}: {error.strerror}. Choose another path") from error
        # NumPy's error for an array that it could not write completely has no errno.
        is_of_numpy = error.errno is None and str(error).endswith(" written")
        if error.errno not in FULL and not is_of_numpy:
            raise
        raise UserError(
            f"{path}: no space left ({error.strerror or error}). Free some space and run the same command "
            "again; a previous file is unchanged"
        ) from error


def try_lock(file: IO) -> bool:
    """Lock a file that is open for writing, by flock, without waiting.

    The kernel releases the lock when the file is closed or the process ends, even if it is killed.

    Returns:
        False if another process holds the lock, or has removed or renamed the file since it was opened.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: the file system does not support file locking, so do not run a second "
            "process with this output",
            file.name,
        )
    return os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))


def reject_overwrite(
    inputs: Collection[str | os.PathLike], flag: str, outputs: Iterable[str | os.PathLike]
) -> None:
    """Check that no output file is also an input file.

    Args:
        flag: flag of the outputs, with its value, for the message.

    Raises:
        UserError: a file is both input and output.
    """
    for path in outputs:
        if os.path.realpath(path) in map(os.path.realpath, inputs):
            raise UserError(f"{flag}: would overwrite the input {path}. Choose another output")


@contextmanager
def hold_lock(path: Path, location: Path) -> Iterator[None]:
    """Hold a lock file within a `with` block. The lock ends with the process, even if it is killed.

    Args:
        path: lock file, which contains process id and host of the last owner. Its folder is created.
        location: what is locked, for messages.

    Raises:
        UserError: another process holds the lock, or the file is a link or cannot be written.
    """
    with translate_write_errors(location):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_in_place(path, "a+b", buffering=0)  # not inherited by the reader process
    with file:
        if not try_lock(file):
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
def lock_for_writing(path: str | os.PathLike, new_path_flag: str = "") -> Iterator[None]:
    """Prevent other commands from writing a file or folder within a `with` block.

    The lock file `.NAME.lock` next to `path` is removed at the end and by SIGTERM; a killed command leaves
    it, unlocked.

    Args:
        path: the file or folder to write.
        new_path_flag: flag of the path, if the path must not exist yet; "": it may exist.

    Raises:
        UserError: another command holds the lock, the folder cannot be written, `path` is a link to itself,
            or it must not exist but does.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise UserError(f"{path}: a symbolic link to itself. Choose another path")
    lock_file = target.with_name(f".{target.name}.lock")
    with hold_lock(lock_file, target), exit_on_sigterm():
        try:
            if new_path_flag and target.exists():
                raise UserError(f"{new_path_flag} {path} already exists. Choose another one")
            yield
        finally:
            lock_file.unlink(missing_ok=True)


def get_host_name() -> str:
    """Return the host name with only letters, digits and underscores, for temporary names."""
    return re.sub(r"\W", "_", socket.gethostname())


# Names from `make_temporary_path`.
_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>tmp|old|gone)-(?P<process>\d+)-(?P<host>\w+)-[0-9a-f]{8}", re.DOTALL
)


def make_temporary_path(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden name next to `path`, unique among processes and machines.

    Process ids alone are not unique on machines or containers that share a disk.

    Args:
        kind: "tmp": an unfinished file or folder; "old": a file that is being replaced; "gone": a file that
            is being removed.
    """
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{get_host_name()}-{secrets.token_hex(4)}")


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes from a folder.

    A file that was being replaced is restored if its replacement was not finished. Files of processes that
    are still running on this machine are kept.

    Args:
        name: only remove temporary files for this name, and keep those that other machines or threads may be
            writing, because the folder is not locked. None: remove all; the caller holds the lock.
    """
    for path in sorted(folder.glob(".*")):
        leftover = _TEMPORARY.fullmatch(path.name)  # None: a user's file
        if leftover is None or name not in (None, leftover["name"]):
            continue
        process = int(leftover["process"])
        # It is unknown whether a process still runs if it is on another machine, or in another container with
        # the id of this process.
        can_be_asked = leftover["host"] == get_host_name() and process != os.getpid()
        is_written = _is_running(process) if can_be_asked else name is not None
        if not is_written:
            with suppress(PermissionError):  # files of other users in a shared folder stay
                _remove_or_restore(path, path.with_name(leftover["name"]), leftover["kind"])


def _remove_or_restore(path: Path, original: Path, kind: str) -> None:
    """Remove a temporary file, or restore the original from it.

    Args:
        kind: as in `make_temporary_path`; "old" is restored if `original` does not exist.
    """
    if kind == "old" and path.exists() and not original.exists():
        os.replace(path, original)
        logger.warning("%s: restored, because its replacement was interrupted", original)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    """Return whether a process with this id is running on this machine."""
    try:
        os.kill(process_id, 0)  # signal 0 only checks
    except (OSError, OverflowError) as error:  # the latter: not a process id
        return isinstance(error, PermissionError)  # a process of another user
    return True


@contextmanager
def _replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what is created there is synced and renamed to `path` at the end.

    An existing file or folder is replaced, and restored if this fails. The parent folder is created, and
    temporary files of killed processes are removed first.
    """
    temporary = make_temporary_path(path)
    old = make_temporary_path(path, "old")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        try:
            yield temporary
            for file in (temporary, *temporary.rglob("*")):
                if file.is_file():
                    sync_file(file)
            if temporary.is_dir() and path.exists():  # renaming a file replaces another atomically
                os.replace(path, old)
            os.replace(temporary, path)
            sync_file(path.parent)
        finally:
            _remove_or_restore(old, path, "old")
            _remove_or_restore(temporary, path, "tmp")


@contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "wb", **options) -> Iterator[IO]:
    """Write a file atomically within a `with` block: a temporary file is synced and renamed to `path`.

    The parent folder is created, and temporary files of killed processes are removed first.

    Args:
        mode: "wb" or "w".
        options: for `open`; by default the encoding is UTF-8.

    Raises:
        UserError: the file cannot be written. An existing file is unchanged.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with _replace_atomically(Path(path)) as temporary, open(temporary, mode, **options) as file:
        yield file


@contextmanager
def atomic_dir(path: str | os.PathLike) -> Iterator[Path]:
    """Write a folder atomically within a `with` block: a temporary folder is synced and renamed to `path`.

    An existing file or folder, or the target of a symbolic link, is replaced. Temporary files of killed
    processes are removed first.

    Raises:
        UserError: the folder cannot be written. An existing file or folder is unchanged.
    """
    path = Path(path)
    with _replace_atomically(Path(os.path.realpath(path)) if path.is_symlink() else path) as temporary:
        temporary.mkdir()
        yield temporary


def format_json(value: Any) -> str:
    """Format a value as indented JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value to a file as indented JSON, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_file(path, "w", newline="\n") as file:
        file.write(format_json(value))


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a symbolic link without its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_file(path: Path) -> None:
    """Sync a file or folder to disk. A rename survives a crash only after its folder was synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Contents = TypeVar("Contents")


class Folder:
    """A folder that is listed once, and whose files are read once.

    Args:
        path: path of the folder, or of a file in it; need not exist.

    Attributes:
        path: path of the folder.
        named: name of the file, if the path of a file was given; otherwise None.
        names: names of the files in the folder, without subfolders.

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
                # `DirEntry.is_file` fails for a link to itself.
                self.names = {
                    entry.name
                    for entry in entries
                    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
                }

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def find_first(self, names: Iterable[str]) -> Path | None:
        """Return the path of the first of these names that exists; None: none does."""
        return next((self.path / name for name in names if name in self.names), None)

    def read(self, name: str, reader: Callable[[Path], Contents]) -> Contents:
        """Return `reader(path)` for a file; cached, so the result must not be modified."""
        if name not in self._contents:
            self._contents[name] = reader(self.path / name)
        return self._contents[name]

    def clear_cache(self) -> None:
        """Drop the cached contents of files, which may be large."""
        self._contents.clear()

    def read_object(self, name: str) -> dict[str, Any]:
        """Read a JSON file that contains an object; {} if the file is missing.

        Raises:
            UserError: the file is corrupt or does not contain an object.
        """
        return self.read(name, read_object) if name in self.names else {}
