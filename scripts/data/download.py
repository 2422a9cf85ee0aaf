"""Downloads that go on where they broke off, and that never mix two versions of a file."""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError
from utils.files import unwritable_is_a_user_error

LARGEST_ARCHIVE = 16 << 30  # bytes, unpacked; the weights of large have 2.2 GB


def download(url: str, path: Path) -> str:
    """Fetch `url` to `path`.

    Until it is complete, its bytes are in `<path>.part`; another call continues it.

    Returns:
        "", or why it could not be fetched.

    Raises:
        UserError: the disk is full.
    """
    print(f"downloading {url}", flush=True)
    part = path.with_name(path.name + ".part")
    version = path.with_name(path.name + ".version")  # the tag of the server's file: two are never mixed
    part.parent.mkdir(parents=True, exist_ok=True)
    tag_of_part = version.read_text() if version.is_file() else ""
    size = 0  # bytes to continue after; without a tag the part may be of another version of the file
    if part.exists() and tag_of_part:
        size = part.stat().st_size
    headers = {}
    if size > 0:  # the server sends the rest, or all if its file has another tag now
        headers = {"Range": f"bytes={size}-", "If-Range": tag_of_part}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            if reply.status != 206:  # not "partial content": the server sends the file from its start
                size = 0
            tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            if tag.startswith("W/"):  # a weak tag may stand for two files
                tag = ""
            version.write_text(tag)
            length = reply.headers.get("Content-Length")  # of what is sent now
            total = None  # bytes of the whole file, if the server says it
            if length:
                total = size + int(length)
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
        reason = getattr(error, "reason", error)  # of a URLError the error of the connection
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


def refuse_faults(faults: list[str]) -> None:
    """List what could not be downloaded.

    Raises:
        UserError: there is a fault.
    """
    if faults:
        print("download by hand, and put where the arrow points:", *faults, sep="\n  ", flush=True)
        raise UserError(
            "not all files could be downloaded: fetch what is listed above by hand, and run the same command "
            "again, which checks and unpacks them"
        )
