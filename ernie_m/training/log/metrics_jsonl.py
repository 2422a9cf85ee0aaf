"""metrics.jsonl: a record of a run in each line, in the order of the steps.

A record has a "step". That of an evaluation after the step has its results under "held_out".
"""

import json
from pathlib import Path
from typing import Any

from ernie_m.training.log.evaluation import as_json_values
from ernie_m.utils.files import atomic_file, sync_file, unwritable_is_a_user_error
from ernie_m.utils.logging import logger

HELD_OUT = "held_out"
METRICS = "metrics.jsonl"


class Records:
    """The records of a run. Only the main process may use it.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Write a record behind the others.

        Raises:
            UserError: the disk is full or read-only.
        """
        line = json.dumps(as_json_values(record)) + "\n"
        with unwritable_is_a_user_error(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(line)

    def sync(self) -> None:
        """Wait until all records are on the disk: a checkpoint must not know of a step without its record."""
        if self.path.is_file():
            sync_file(self.path)

    def cut_back(self, step: int, evaluated_step: int) -> int:
        """Drop the records that a resumed run will write again, and damaged lines.

        The last line may have been cut short by a kill. A warning names any other that is damaged.

        Args:
            step: drop records of later steps.
            evaluated_step: drop evaluations after later steps.

        Returns:
            The number of dropped lines.
        """
        records = self._record_of_each_line()
        remaining = []
        for number, record in enumerate(records, 1):
            if record is None:
                if number < len(records):
                    logger.warning("%s, line %d: damaged; the record is lost", self.path, number)
                continue
            last_step = evaluated_step if HELD_OUT in record else step
            if record["step"] <= last_step:
                remaining.append(json.dumps(record) + "\n")
        if records:
            with atomic_file(self.path, "w") as file:
                file.writelines(remaining)
        return len(records) - len(remaining)

    def _record_of_each_line(self) -> list[dict[str, Any] | None]:
        """The record of each line that is not empty; None: the line is damaged.

        A file that does not exist has no lines.
        """
        if not self.path.is_file():
            return []
        return [_record_in(text) for text in self.path.read_bytes().split(b"\n") if text.strip()]


def _record_in(text: bytes) -> dict[str, Any] | None:
    """The record in a line; None if the line is damaged."""
    try:
        record = json.loads(text)
        return record if isinstance(record["step"], int) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
