"""A folder whose files are listed once, and each read once."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_object

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
            try:
                with os.scandir(self.path) as entries:
                    # `DirEntry.is_file` fails at a link that leads to itself.
                    self.names = {
                        entry.name
                        for entry in entries
                        if entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
                    }
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def first(self, names: Iterable[str]) -> Path | None:
        """The first file of one of these names; None: there is none."""
        return next((self.path / name for name in names if name in self.names), None)

    def read(self, name: str, reader: Callable[[Path], Contents]) -> Contents:
        """What a reader makes of a file. It is asked once, so nobody may change what it returned."""
        if name not in self._contents:
            self._contents[name] = reader(self.path / name)
        return self._contents[name]

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty if there is no such file.

        Raises:
            UserError: it is damaged.
        """
        return self.read(name, read_object) if name in self.names else {}
