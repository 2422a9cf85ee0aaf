"""One input given to one reader: it is taken, refused in one line that names the file, or shows a fault."""

import os
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
ACCEPTED, REFUSED = "accepted", "refused"
LONGEST_MESSAGE = 3000  # characters


class Target(NamedTuple):
    """A reader.

    file: the input's name in the reader's folder.
    seeds: makes what lies beside the input in that folder, and returns inputs to begin with.
    read: reads the input at this path, all of it.
    edit: changes an input in the way of its format; other changes know nothing of it.
    words: what may be inserted.
    mib: memory the reader may take, and 64 bytes more for each byte of the input.
    slow: it reads some tens of inputs a second, so that the short form gives it a tenth.
    """

    file: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    edit: Callable[[Random, bytes], bytes] | None = None
    words: tuple[bytes, ...] = ()
    mib: int = 64
    slow: bool = False


class Outcome(NamedTuple):
    """kind: ACCEPTED, REFUSED, or what is wrong. place: our lines on the way. report: what it said."""

    kind: str
    place: tuple[str, ...] = ()
    report: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind not in (ACCEPTED, REFUSED)


def attempt(target: Target, path: Path, folder: Path) -> Outcome:
    """Read the input at `path`, which lies in the reader's `folder`."""
    try:
        target.read(path)
    except UserError as error:
        wrong = fault_of(str(error), path, folder)
        kind = REFUSED if wrong is None else f"message {wrong}"
        return Outcome(kind, place_of(error), str(error)[:LONGEST_MESSAGE])
    except Exception as error:
        return Outcome(type(error).__name__, place_of(error), _short(traceback.format_exc()))
    return Outcome(ACCEPTED)


def fault_of(message: str, path: Path, folder: Path) -> str | None:
    """What is wrong with the line that a user sees; None: nothing."""
    if not message.strip() or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in message):
        return "that is not one line of text"
    if len(message) > LONGEST_MESSAGE:
        return "without end"
    if path.name not in message and str(folder) not in message:
        return "that names no file"
    return None


def place_of(error: BaseException) -> tuple[str, ...]:
    """The lines of the project that an exception, and what caused it, came through."""
    ours, here = f"{ROOT}{os.sep}", f"{HERE}{os.sep}"
    places = []
    seen = error
    while seen is not None:
        for frame, line in traceback.walk_tb(seen.__traceback__):
            file = frame.f_code.co_filename  # and no Path: a recursion has thousands of frames
            if file.startswith(ours) and not file.startswith(here) and "site-packages" not in file:
                places.append(f"{file.removeprefix(ours)}:{line}")
        places.append(type(seen).__name__)
        seen = seen.__cause__
    return tuple(dict.fromkeys(places))  # a recursion's frames once


def each(*reads: Callable[[], Any]) -> None:
    """Call them all; the first refusal is raised when all were tried."""
    refused = None
    for read in reads:
        try:
            read()
        except UserError as error:
            refused = refused or error
    if refused:
        raise refused


def _short(text: str, most: int = 6000) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}\n...\n{text[-most // 2 :]}"
