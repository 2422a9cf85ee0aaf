"""Collection of the errors in the rows of a file, to report all of them at once."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

from ernie_m.utils.errors import UserError

MOST_ERRORS = 10  # lines reported per kind of error


class RowErrors:
    """The errors in the rows of a file, collected to report all of them at once.

    Args:
        name: the name of the file.
        skip: whether invalid rows are dropped; otherwise they are an error.
        may_skip: whether the command has the option --on_error skip.

    Attributes:
        count: the number of invalid rows.
        lines: the line numbers of the invalid rows.
    """

    def __init__(self, name: str | os.PathLike, skip: bool = False, may_skip: bool = True):
        self.name = name
        self.count = 0
        self.lines: set[int] = set()
        self._skip = skip
        self._may_skip = may_skip
        self._kinds: dict[str, list[str]] = {}  # fix of a kind of error -> its first errors
        self._more: Counter[str] = Counter()  # fix of a kind of error -> the number of further errors

    def add(self, line: int, error: str, fix: str) -> None:
        """Record an invalid row.

        Args:
            line: the line number of the row.
            error: the error.
            fix: a sentence that tells how to fix the row, or "".
        """
        self.count += 1
        self.lines.add(line)
        errors = self._kinds.setdefault(fix, [])
        if len(errors) < MOST_ERRORS:
            errors.append(f"line {line}: {error}")
        else:
            self._more[fix] += 1

    @contextmanager
    def record_errors(self, line: int) -> Iterator[None]:
        """Record a UserError that is raised within the context as the error of a line; see `add`.

        The last sentence of the error's message is the fix.
        """
        try:
            yield
        except UserError as error:
            what, _, fix = str(error).removeprefix(f"{self.name}, line {line}: ").rpartition(". ")
            self.add(line, what or fix, fix if what else "")

    def report(
        self, log: Callable[[str], None], kept_rows: Sized | None = None, row_filter: str | None = None
    ) -> None:
        """Report the errors after the last row: log the dropped rows, or raise an error.

        Args:
            log: logs a message.
            kept_rows: the valid rows, which may not be empty; None: not checked.
            row_filter: the value of --filter; None if not set.

        Raises:
            UserError: there are invalid rows that are not dropped, or no row is left.
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
            log(f"{self.name}: dropped: {line}")
        self._kinds.clear()  # do not report them again
        self._more.clear()
        if kept_rows is not None and not len(kept_rows):
            raise UserError(
                f"{self.name}: no rows left" + (f" after --filter {row_filter}" if row_filter else "")
            )
