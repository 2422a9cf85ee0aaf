"""metrics.jsonl: a record of a run in each line, in the order of the steps.

A record has a "step". That of an evaluation after the step has its results under "held_out".
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.utils.files import atomic_file, sync_file, unwritable_is_a_user_error
from ernie_m.utils.logging import logger

HELD_OUT = "held_out"
METRICS = "metrics.jsonl"


class _Line(NamedTuple):
    """A line of the file, and its record; None if the line is damaged."""

    text: bytes
    record: dict[str, Any] | None


class Records:
    """The records of a run. Only the main process may use it.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._follower: Callable[[dict[str, Any]], object] = lambda record: None

    def append(self, record: dict[str, Any]) -> None:
        """Write a record behind the others.

        Raises:
            UserError: the disk is full or read-only.
        """
        with unwritable_is_a_user_error(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._follower(record)

    def follow(self, follower: Callable[[dict[str, Any]], object]) -> None:
        """Call `follower` with each record that will be appended."""
        self._follower = follower

    def read(self) -> list[dict[str, Any]]:
        """The records, without damaged lines."""
        return [line.record for line in self._lines() if line.record]

    def sync(self) -> None:
        """Wait until all records are on the disk: a checkpoint must not know of a step without its record."""
        if self.path.is_file():
            sync_file(self.path)

    def last_evaluation(self) -> dict[str, Any] | None:
        """The results of the last evaluation; None if there was none."""
        evaluations = [record[HELD_OUT] for record in self.read() if HELD_OUT in record]
        return evaluations[-1] if evaluations else None

    def cut_back(self, step: int, evaluated_step: int) -> int:
        """Drop the records that a resumed run will write again, and damaged lines.

        The last line may have been cut short by a kill. A warning names any other that is damaged.

        Args:
            step: drop records of later steps.
            evaluated_step: drop evaluations after later steps.

        Returns:
            The number of dropped lines.
        """
        lines = list(self._lines())
        remaining = []
        for number, line in enumerate(lines, 1):
            if line.record is None:
                if number < len(lines):
                    logger.warning("%s, line %d: damaged; the record is lost", self.path, number)
                continue
            last_step = evaluated_step if HELD_OUT in line.record else step
            if line.record["step"] <= last_step:
                remaining.append(line.text + b"\n")
        if lines:
            with atomic_file(self.path) as file:
                file.writelines(remaining)
        return len(lines) - len(remaining)

    def _lines(self) -> Iterator[_Line]:
        """The lines of the file, without empty ones. A file that does not exist has none."""
        if not self.path.is_file():
            return
        for text in self.path.read_bytes().split(b"\n"):
            if text.strip():
                yield _Line(text, _record_in(text))


def _record_in(text: bytes) -> dict[str, Any] | None:
    """The record in a line; None if the line is damaged."""
    try:
        record = json.loads(text)
        return record if isinstance(record["step"], int) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
