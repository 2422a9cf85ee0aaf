"""First pass: read all text, find what is wrong with it, count it, find the lines that occur twice."""

from collections import defaultdict

from pretrain.corpus.build import Build, over_units
from pretrain.corpus.duplicates import PartTask, find_duplicates
from pretrain.corpus.reading import Unit
from pretrain.corpus.units import Scanned, ScanTask, scan_unit
from pretrain.corpus.work import write_json
from utils.errors import UserError
from utils.logging import Progress


def scan(build: Build) -> None:
    """Count units, lines and documents of every source, and hash the lines where duplicates are to go.

    Raises:
        UserError: bad input, with file and line; a source without text.
    """
    chosen = [
        (number, place)
        for number, stream in enumerate(build.streams)
        for place in range(len(stream.sources))
        if not build.work.scanned(stream, place).exists()
    ]
    results: dict[tuple[int, int], list[Scanned]] = defaultdict(list)
    units: dict[tuple[int, int], int] = {}

    def to_task(unit: Unit) -> ScanTask:
        near = build.unit_task(unit, "near").path if build.bands else None
        return ScanTask(build.unit_task(unit, "scan"), build.options.deduplicate, near, build.bands)

    for result in over_units(build, "reading", chosen, scan_unit, to_task):
        *source, number = result.key
        source = tuple(source)
        results[source].append(result)
        if result.last:
            units[source] = number + 1
        if len(results[source]) == units.get(source):
            _record(build, source, results.pop(source))


def find_all_duplicates(build: Build) -> None:
    """Find the lines and the documents that occurred before, in parts that fit in memory."""
    found = [build.duplicates(stream) for stream in build.streams]
    found += [build.near_duplicates(stream) for stream in build.streams]
    tasks = [
        PartTask(duplicates, band, part)
        for duplicates in found
        if duplicates is not None
        for band in range(duplicates.bands)
        for part in range(duplicates.parts)
        if not duplicates.part_file(band, part).exists()
    ]
    shown = Progress(len(tasks), "finding duplicates", unit="parts")
    for _ in build.workers.run(find_duplicates, tasks):
        shown.update()
    shown.close()


def _record(build: Build, key: tuple[int, int], results: list[Scanned]) -> None:
    stream = build.streams[key[0]]
    source = stream.sources[key[1]]
    lines = sum(result.lines for result in results)
    if lines == 0:
        what = (
            f"pair of {' and '.join(source.languages)}"
            if stream.is_parallel
            else f"text in {source.languages[0]}"
        )
        raise UserError(f"{source}: no {what} in it; leave it out")
    documents = sum(result.documents for result in results)
    write_json(
        build.work.scanned(stream, key[1]), {"units": len(results), "lines": lines, "documents": documents}
    )
