"""The files of a build that is not finished.

    <output>/.build/<key>.npz                  a unit of text as ids, with hashes of its lines
    <output>/.build/mono/en/keys-000000.npy    a unit: the keys of its lines in ascending order
                            repeated-000000.npy    the repeated lines, for one range of the keys
                            fates-000000.npy   a unit: what becomes of each line
    <output>/.build/held_out.npy               the keys of all held-out texts

A unit is done when its file is there: its key is the SHA-256 of the text and of all that decides what is made
of it. So a build goes on with the units of an earlier one where text, options and vocabulary are the same.
The other files take little time, and are made anew.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file

WORK = ".build"
HELD_OUT = "held_out.npy"
VOCABULARY_FILES = ("piece.model", "vocab.txt")
# What `zipfile` and numpy raise for a damaged file.
_OF_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


@dataclass
class StreamWork:
    """What workers need to know of a language or pair.

    Args:
        folder: for its files in the work folder.
        languages: one, or the two of a pair.
        held_out_side: the side of a pair whose hash decides whether it is held out.
        max_ratio: see `BuildOptions`.
        held_out_below: a document or pair with a smaller hash is held out.
        ranges: the number of ranges in which the keys of its lines are compared.
        keeps_all: whether lines are trained on although their text is held out elsewhere.
    """

    folder: Path
    languages: tuple[str, ...]
    held_out_side: int
    max_ratio: float
    held_out_below: int = 0
    ranges: int = 0
    keeps_all: bool = False

    def file(self, kind: str, number: int) -> Path:
        """The file of a unit, or of a range of keys, by its number."""
        return self.folder / f"{kind}-{number:06d}.npy"


def save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, whole or not at all."""
    with atomic_file(path) as file:
        np.save(file, array)


def read_unit(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of the file of a unit.

    Raises:
        UserError: it is gone or damaged, and was removed, so that the same command makes it again.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # Each member is read to its end, where its checksum is compared; `np.load` may stop before.
            members = [io.BytesIO(file.read(f"{name}.npy")) for name in names]
        return [np.lib.format.read_array(member) for member in members]
    except _OF_DAMAGE as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: damaged or gone ({error}); the same command makes it again") from error
