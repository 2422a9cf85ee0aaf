"""First pass: read all text, find what is wrong with it, count it, find the lines that occur twice."""

from collections import defaultdict

from pretrain.corpus.build import Build, over_units
from pretrain.corpus.duplicates import PartTask, find_duplicates, part_file
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
    hashes = build.options.deduplicate
    for result in over_units(
        build, "reading", chosen, scan_unit, lambda unit: ScanTask(build.unit_task(unit, "scan"), hashes)
    ):
        *source, number = result.key
        source = tuple(source)
        results[source].append(result)
        if result.last:
            units[source] = number + 1
        if len(results[source]) == units.get(source):
            _record(build, source, results.pop(source))


def find_all_duplicates(build: Build) -> None:
    """Find the lines that occurred before, stream by stream, in parts that fit in memory."""
    tasks = []
    for stream in build.streams:
        found = build.duplicates(stream)
        units = [scan["units"] for scan in build.scans(stream)]
        tasks += [
            PartTask(build.work.of(stream, "scan"), units, found.folder, part, found.parts)
            for part in range(found.parts)
            if not part_file(found.folder, part).exists()
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
