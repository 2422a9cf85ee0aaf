"""The faults of a file, said at once."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

from ernie_m.utils.errors import UserError

MOST_FAULTS = 10  # lines that are named for one kind of fault


class RowErrors:
    """What is wrong with the lines of a file, which is said at once.

    Args:
        name: of the file.
        skip: whether lines with a fault are left out, instead of ending the command.
        may_skip: whether --on_error skip could leave them out.
    """

    def __init__(self, name: str | os.PathLike, skip: bool = False, may_skip: bool = True):
        self.name = name
        self.count = 0
        self._skip = skip
        self._may_skip = may_skip
        self._kinds: dict[str, list[str]] = {}  # what mends a kind -> its first faults
        self._more: Counter[str] = Counter()  # what mends a kind -> the number of its other faults

    def add(self, line: int, what: str, mend: str) -> None:
        """Note that a line is left out, if the command goes on."""
        self.count += 1
        errors = self._kinds.setdefault(mend, [])
        if len(errors) < MOST_FAULTS:
            errors.append(f"line {line}: {what}")
        else:
            self._more[mend] += 1

    @contextmanager
    def of_line(self, line: int) -> Iterator[None]:
        """`add` what a UserError within the block says; its message may begin with the place."""
        try:
            yield
        except UserError as error:
            what, _, mend = str(error).removeprefix(f"{self.name}, line {line}: ").partition("; ")
            self.add(line, what, mend)

    def end(self, say: Callable[[str], None], kept: Sized | None = None, only: str | None = None) -> None:
        """Say which further lines are left out, or raise what is wrong.

        Args:
            kept: the rows without faults, of which there must be one; None: there may be none.
            only: the value of --filter, if it was given.

        Raises:
            UserError: there are faults, and lines with faults are not left out; or no row is left.
        """
        lines = []
        for mend, errors in self._kinds.items():
            *others, last = errors
            lines += [*others, f"{last}; {mend}" if mend else last]
            lines += [f"and {self._more[mend]:,} more such lines"] if self._more[mend] else []
        if lines and not self._skip:
            way_out = ["--on_error skip leaves such lines out"] if self._may_skip and self.count > 1 else []
            raise UserError(f"{self.name}, {lines[0]}", *lines[1:], *way_out)
        for line in lines:
            say(f"{self.name}: left out: {line}")
        self._kinds.clear()  # what was said is not said again
        self._more.clear()
        if kept is not None and not len(kept):
            raise UserError(f"{self.name}: no rows are left" + (f" by --filter {only}" if only else ""))
