"""The numbers of a run's records as curves: in a log of VisualDL, and in a picture of the losses."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_m.training.log.metrics_jsonl import HELD_OUT, Records
from ernie_m.utils.errors import UserError, install_command
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXTRA = "pictures"
_LOG = "vdlrecords.run.log"  # VisualDL looks for such names


@contextmanager
def the_run_goes_on(path: Path) -> Iterator[None]:
    """Turn what cannot be written at a path, or a package that is missing, into a line of the log."""
    try:
        yield
    except ImportError as error:
        logger.warning("%s: no %s: %s; the run goes on", path, error.name, install_command(_EXTRA))
    except OSError as error:
        logger.warning("%s: %s; the run goes on", path, error.strerror or error)
    except UserError as error:  # of `atomic_file`, and names the path
        logger.warning("%s; the run goes on", error)


def write_log(records: Records, folder: Path) -> None:
    """Write the records, those so far and those to come, into a log of VisualDL.

    It begins anew, because a log of VisualDL cannot be cut back: a resumed run would have two lines between
    its checkpoint and the step where it was broken off.
    """
    with the_run_goes_on(folder):
        from visualdl import LogWriter

        # What cannot be written is an error here, where VisualDL prints it from a thread of its own.
        folder.mkdir(exist_ok=True)
        (folder / _LOG).touch()
        (folder / _LOG).unlink()
        writer = LogWriter(logdir=str(folder), file_name=_LOG)

        def add(record: Mapping[str, Any]) -> None:
            for place, value in scalars(record):
                tag = place.replace("%s", "*").replace("%", "")  # VisualDL refuses %, as in dev.%s.tsv
                writer.add_scalar(tag=tag, step=record["step"], value=value)
            writer.flush()

        for record in records.read():
            add(record)
        records.follow(add)


def scalars(record: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, float]]:
    """Each number of a record with the keys that lead to it, as ("mmlm/loss", 2.5); of a list, the places."""
    for key, value in record.items():
        place = f"{of}{key}"
        if isinstance(value, Mapping):
            yield from scalars(value, f"{place}/")
        elif isinstance(value, list):
            yield from scalars(dict(enumerate(value)), f"{place}/")
        elif isinstance(value, int | float) and place != "step":
            yield place, float(value)


def draw(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the picture of the losses."""
    if find_spec("matplotlib") is None:  # nobody has asked for it, so this is no warning
        logger.info("%s needs matplotlib: %s", path.name, install_command(_EXTRA))
        return
    with the_run_goes_on(path):
        with atomic_file(path) as file:
            losses(records).savefig(file, format="png", dpi=120)
        logger.info("the losses: %s", path)


def losses(records: Iterable[Mapping[str, Any]]) -> "Figure":
    """The picture: a line for each loss of the training, points for means of held-out languages or pairs."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}  # name -> (step, loss)
    for record in records:
        held_out: dict[str, list[float]] = {}  # name of a curve -> a loss for each language or pair
        for place, value in scalars(record):
            keys = place.split("/")  # "loss", "mmlm/loss" or "held_out/mmlm/en/perplexity"
            if keys[0] == HELD_OUT and keys[-1] == "perplexity":
                held_out.setdefault(f"{keys[1]}, held out", []).append(math.log(value))
            elif keys[0] != HELD_OUT and keys[-1] == "loss":
                curves.setdefault(keys[0], []).append((record["step"], value))
        for name, values in held_out.items():
            curves.setdefault(name, []).append((record["step"], sum(values) / len(values)))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    colours: dict[str, str] = {}  # objective -> colour, the same for both of its curves: "C0", "C1", ...
    for name, points in curves.items():
        objective, _, held_out_label = name.partition(", ")
        colour = colours.setdefault(objective, f"C{len(colours)}")
        steps, values = zip(*points)
        axes.plot(steps, values, "o" if held_out_label else "-", color=colour, label=name)
    if curves:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure
