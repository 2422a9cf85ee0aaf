"""Fetch a file over HTTP, and continue where an earlier attempt stopped."""

import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from utils.files import unwritable_is_a_user_error

TIMEOUT_SECONDS = 20
_BLOCK = 1 << 20
_REPORT_SECONDS = 10


class DownloadError(Exception):
    """The file could not be fetched as a whole. The message is the reason in a few words."""


def download(url: str, path: Path) -> None:
    """Fetch `url` to `path`. Until the file is complete, its bytes are in `<path>.part`.

    Raises:
        DownloadError: there is no connection, the server has an error, or the transfer ended early. Another
            call continues it.
        UserError: the disk is full.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            if have and reply.status != 206:  # the server sends it from the start
                have = 0
            length = reply.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            with unwritable_is_a_user_error(part), open(part, "ab" if have else "wb") as file:
                _copy(reply, file, path.name, have, total)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing is left to send
            raise DownloadError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    else:
        if total is not None and part.stat().st_size != total:
            raise DownloadError(f"it broke off at {part.stat().st_size:,} of {total:,} bytes")
    os.replace(part, path)


def _copy(reply, file, name: str, done: int, total: int | None) -> None:
    last = time.monotonic()
    while block := reply.read(_BLOCK):
        file.write(block)
        done += len(block)
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            share = f" of {total / 1e6:,.0f}" if total else ""
            print(f"  {name}: {done / 1e6:,.0f}{share} MB", flush=True)
