"""The numbers of a run's records as curves in a log of VisualDL, beside their file."""

from collections.abc import Iterator, Mapping
from typing import Any

from ernie_m.training.log.metrics_jsonl import Records
from ernie_m.utils.errors import UserError, install_command
from ernie_m.utils.files import unwritable_is_a_user_error

VISUALDL = "visualdl"  # the folder of the log, for `visualdl --logdir`
_LOG = "vdlrecords.run.log"  # VisualDL looks for such names


def follow(records: Records) -> None:
    """Write the records, those so far and those to come, into a log of VisualDL.

    It begins anew, because a log of VisualDL cannot be cut back: a resumed run would have two lines between
    its checkpoint and the step where it was broken off.

    Raises:
        UserError: VisualDL is not installed, or the log cannot be written.
    """
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise UserError(f"visualdl: no {error.name}: {install_command('pictures')}") from error
    folder = records.path.parent / VISUALDL
    with unwritable_is_a_user_error(folder):  # VisualDL would only print it, from a thread of its own
        folder.mkdir(exist_ok=True)
        (folder / _LOG).write_bytes(b"")
    writer = LogWriter(logdir=str(folder), file_name=_LOG)

    def add(record: Mapping[str, Any]) -> None:
        for place, value in _numbers(record):
            tag = place.replace("%s", "*").replace("%", "")  # VisualDL refuses %, as in dev.%s.tsv
            writer.add_scalar(tag=tag, step=record["step"], value=value)
        writer.flush()

    for record in records.read():
        add(record)
    records.follow(add)


def _numbers(record: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, float]]:
    """Each number of a record with the keys that lead to it, as ("mmlm/loss", 2.5); of a list, the places."""
    for key, value in record.items():
        place = f"{of}{key}"
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}/")
        elif isinstance(value, int | float) and place != "step":
            yield place, float(value)
