"""What the stages of a build share, and the one loop that takes text from the sources to the workers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pretrain.corpus.duplicates import Bands, Duplicates, bands_for, parts_for
from pretrain.corpus.engine import Engine
from pretrain.corpus.files import Cutting, Unit, interleave, read_units
from pretrain.corpus.inputs import Stream
from pretrain.corpus.lines import Reading
from pretrain.corpus.options import BuildOptions, size_of
from pretrain.corpus.units import UnitTask
from pretrain.corpus.work import Work, read_json, unit_path
from reader.tokenization import Tokenizer
from utils.logging import Progress

Result = TypeVar("Result")

_READERS = 4  # sources read at a time; one is enough for about twenty workers


@dataclass(frozen=True)
class Build:
    """A build in progress.

    Args:
        options: as given.
        streams: languages and pairs.
        work: the work folder.
        workers: to run units.
        tokenizer: to cut the text with.
    """

    options: BuildOptions
    streams: list[Stream]
    work: Work
    workers: Engine
    tokenizer: Tokenizer

    def scans(self, stream: Stream) -> list[dict[str, int]]:
        """What `scan` found in each source of a stream: units, lines, documents."""
        return [read_json(self.work.scanned(stream, number)) for number in range(len(stream.sources))]

    def duplicates(self, stream: Stream) -> Duplicates | None:
        """Where the equal lines of a stream are; None where they stay in."""
        return self._found(stream, "scan", "lines", 1) if self.options.deduplicate else None

    def near_duplicates(self, stream: Stream) -> Duplicates | None:
        """Where the documents of a stream are that nearly equal an earlier one; None where they stay in."""
        return self._found(stream, "near", "documents", self.bands.count) if self.bands else None

    @property
    def bands(self) -> Bands | None:
        """How signatures are cut; None where near-duplicates stay in."""
        return bands_for(self.options.near_duplicates) if self.options.near_duplicates else None

    def _found(self, stream: Stream, stage: str, rows: str, bands: int) -> Duplicates:
        scans = self.scans(stream)
        return Duplicates(
            self.work.of(stream, stage),
            [scan["units"] for scan in scans],
            self.work.of(stream, f"{stage}-found"),
            bands,
            parts_for(sum(scan[rows] for scan in scans)),
        )

    def unit_task(self, unit: Unit, stage: str) -> UnitTask:
        """A unit, to be worked on in a stage."""
        stream = self.streams[unit.stream]
        columns = self.options.tsv_columns
        reading = Reading(
            self.options.documents,
            (columns[0], columns[1]) if columns else None,
            self.options.skip_bad_utf8,
            self.options.score_column,
            self.options.min_score,
        )
        path = unit_path(self.work.of(stream, stage), unit.source, unit.number)
        return UnitTask(unit, stream.sources[unit.source], stream.languages, reading, path)


def over_units(
    build: Build,
    description: str,
    chosen: Sequence[tuple[int, int]],
    function: Callable[[Any], Result],
    to_task: Callable[[Unit], Any],
) -> Iterator[Result]:
    """Read sources and run `function` on their units, on all workers. Results come in any order.

    Args:
        description: shown with the progress.
        chosen: (stream, source) numbers of the sources to read; all others count as done.
        function: of what `to_task` makes of a unit.
    """
    options = build.options
    cutting = Cutting(int(options.unit_mib * (1 << 20)), options.documents == "blank")
    size = {
        (number, place): size_of(source)
        for number, stream in enumerate(build.streams)
        for place, source in enumerate(stream.sources)
    }
    total = sum(size.values())
    shown = Progress(total, description, initial=total - sum(size[key] for key in chosen), unit="bytes")
    weights: dict[tuple[int, int, int], int] = {}

    def tasks() -> Iterator[Any]:
        readers = (
            read_units(stream, number, build.streams[stream].sources[number], cutting)
            for stream, number in chosen
        )
        for unit in interleave(readers, min(_READERS, build.workers.number)):
            weights[unit.key] = unit.weight
            yield to_task(unit)

    try:
        for result in build.workers.run(function, tasks()):
            shown.update(weights.pop(result.key))
            yield result
    finally:
        shown.close()
