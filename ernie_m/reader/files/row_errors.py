"""Errors in the rows of a file, reported together."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

from ernie_m.utils.errors import UserError

MOST_ERRORS = 10  # lines reported per kind of error


class RowErrors:
    """The errors in the rows of a file, reported together.

    Args:
        name: the name of the file.
        skip: whether to drop invalid rows instead of raising an error.
        may_skip: whether --on_error skip is available.
    """

    def __init__(self, name: str | os.PathLike, skip: bool = False, may_skip: bool = True):
        self.name = name
        self.count = 0
        self._skip = skip
        self._may_skip = may_skip
        self._kinds: dict[str, list[str]] = {}  # fix of a kind of error -> its first errors
        self._more: Counter[str] = Counter()  # fix of a kind of error -> the number of further errors

    def add(self, line: int, what: str, fix: str) -> None:
        """Record an invalid row. `fix`: the fix, a sentence, or ""."""
        self.count += 1
        errors = self._kinds.setdefault(fix, [])
        if len(errors) < MOST_ERRORS:
            errors.append(f"line {line}: {what}")
        else:
            self._more[fix] += 1

    @contextmanager
    def of_line(self, line: int) -> Iterator[None]:
        """`add` a UserError within the block. The last sentence of its message is the fix."""
        try:
            yield
        except UserError as error:
            what, _, fix = str(error).removeprefix(f"{self.name}, line {line}: ").rpartition(". ")
            self.add(line, what or fix, fix if what else "")

    def end(self, say: Callable[[str], None], kept: Sized | None = None, only: str | None = None) -> None:
        """Log the dropped rows, or raise the errors.

        Args:
            kept: the valid rows, of which there must be at least one; None: there may be none.
            only: the value of --filter, if it was given.

        Raises:
            UserError: there are errors, and invalid rows are not dropped; or no row is left.
        """
        lines = []
        for fix, errors in self._kinds.items():
            *others, last = errors
            lines += [*others, f"{last}. {fix}" if fix else last]
            lines += [f"and {self._more[fix]:,} more such rows"] if self._more[fix] else []
        if lines and not self._skip:
            way_out = ["To drop these rows, set --on_error skip"] if self._may_skip and self.count > 1 else []
            raise UserError(f"{self.name}, {lines[0]}", *lines[1:], *way_out)
        for line in lines:
            say(f"{self.name}: dropped: {line}")
        self._kinds.clear()  # do not report them again
        self._more.clear()
        if kept is not None and not len(kept):
            raise UserError(f"{self.name}: no rows left" + (f" after --filter {only}" if only else ""))
