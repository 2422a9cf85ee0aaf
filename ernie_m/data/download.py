"""Resumable downloads that never mix two versions of a file, and unpacking of archives with size limits."""

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
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from ernie_m.utils.errors import UserError, open_in_place, say
from ernie_m.utils.files import atomic_dir, lock_for_writing, translate_write_errors

LARGEST_ARCHIVE = 16 << 30  # bytes, unpacked; the large weights have 2.2 GB
# Exceptions of the libraries for corrupt archives. RuntimeError: an encrypted one, or nested folders.
# MemoryError: a size that exceeds memory.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,
)


class _CheckedTarInfo(tarfile.TarInfo):
    """A member of a tar archive, which is rejected before a large header exhausts memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Check the size of a member; tarfile calls this for each header, and documents it as overridable."""
        # Data outside of files, such as a long name, is read completely.
        _check_sizes([self.size], LARGEST_ARCHIVE if self.type in tarfile.REGULAR_TYPES else 64 << 10)
        return super()._proc_member(archive)


def download(url: str, path: Path) -> str:
    """Download `url` to `path`.

    An incomplete download is in `<path>.part`, which another call resumes.

    Returns:
        The error, or "" after success.

    Raises:
        UserError: the disk is full, or another command is downloading the file.
    """
    with lock_for_writing(path):
        say(f"downloading {url}")
        return _download(url, path)


def _download(url: str, path: Path) -> str:
    """Download `url` to `path`, and return the error or ""; requires the lock of `path`."""
    part = path.with_name(path.name + ".part")
    version = path.with_name(path.name + ".version")  # the server's ETag: versions are never mixed
    tag_of_part = version.read_text() if version.is_file() else ""
    # Bytes to resume after; without an ETag the part may be of another version of the file.
    size = part.stat().st_size if part.exists() and tag_of_part else 0
    # These make the server send the rest, or everything if the file now has another ETag.
    headers = {"Range": f"bytes={size}-", "If-Range": tag_of_part} if size > 0 else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            if reply.status != 206:  # not "partial content": the server sends the whole file
                size = 0
            tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            if tag.startswith("W/"):  # a weak ETag may be shared by two files
                tag = ""
            with open_in_place(version, "w") as file:
                file.write(tag)
            length = reply.headers.get("Content-Length")  # number of bytes in this response
            total = size + int(length) if length else None  # size of the whole file
            mode = "ab" if size > 0 else "wb"
            bar = {"total": total, "initial": size, "desc": path.name, "mininterval": 10}
            with (
                translate_write_errors(part),
                open_in_place(part, mode) as file,
                tqdm.wrapattr(file, "write", **bar) as file_with_bar,
            ):
                shutil.copyfileobj(reply, file_with_bar, 1 << 20)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # "range not satisfiable": the part is of another file
            part.unlink(missing_ok=True)
        return f"HTTP error {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # a URLError wraps the connection error
        return str(reason) or type(error).__name__
    if total is not None and part.stat().st_size != total:
        return f"interrupted at {part.stat().st_size:,} of {total:,} bytes"
    os.replace(part, path)
    version.unlink(missing_ok=True)
    return ""


def fetch_missing(urls: Mapping[Path, str]) -> list[str]:
    """Download files that do not exist.

    Args:
        urls: path -> URL.

    Returns:
        The error of each failed download.
    """
    errors = {path: download(url, path) for path, url in urls.items() if not path.is_file()}
    return [f"{urls[path]} -> {path}: {error}" for path, error in errors.items() if error]


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive into a new directory.

    Raises:
        UserError: the file is not an archive, is corrupt or too large, or the disk is full.
    """
    say(f"unpacking {archive}")
    try:
        with translate_write_errors(target), atomic_dir(target) as folder:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as file:
                    _check_sizes((member.file_size for member in file.infolist()), LARGEST_ARCHIVE)
                    # 0: stored, 8: deflated. zipfile unpacks others in blocks of any size.
                    if any(member.compress_type not in (0, 8) for member in file.infolist()):
                        raise zipfile.BadZipFile("unsupported compression of a file")
                    file.extractall(folder)
            else:
                with tarfile.open(archive, tarinfo=_CheckedTarInfo) as file:
                    _check_sizes((member.size for member in file), LARGEST_ARCHIVE)
                    if file.fileobj.read(1 << 20).strip(b"\0"):  # a corrupt header looks like the end
                        raise tarfile.ReadError("data after the end")
                    file.extractall(folder, filter="data")  # not outside of the folder
    except _DAMAGED as error:
        raise UserError(
            f"{archive}: cannot unpack ({error}). Delete it and run the same command again"
        ) from error


def _check_sizes(sizes: Iterable[int], max_bytes: int) -> None:
    """Check the sizes of the members of an archive.

    Raises:
        ValueError: the total exceeds `max_bytes`, or a size is negative.
    """
    total = 0
    for size in sizes:
        total += size
        if size < 0 or total > max_bytes:
            raise ValueError(f"invalid size of {total:,} bytes (expected 0 to {max_bytes:,})")


def report_failed_downloads(errors: list[str]) -> None:
    """Print the errors of failed downloads, and raise an error if a download failed.

    Raises:
        UserError: a download failed.
    """
    if errors:
        say("download manually (URL -> path):", *errors, sep="\n  ")
        raise UserError(
            "some files could not be downloaded. Download the files above manually and run the same command "
            "again, which verifies and unpacks them"
        )


def pip_download(requirement: str, folder: Path) -> None:
    """Download the wheel of a package from PyPI into a directory, ignoring the required Python version.

    Raises:
        UserError: pip cannot download the wheel.
    """
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    options += ["--ignore-requires-python", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode or not any(folder.glob("*.whl")):
        reason = (process.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise UserError(
            f"pip cannot download {requirement} ({reason}). Check the network or the proxy and "
            "run the same command again"
        )
