"""First pass: read all text, find what is wrong with it, count it, find the lines that occur twice."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.corpus.build import Build, over_units
from pretrain.corpus.duplicates import PartTask, find_duplicates
from pretrain.corpus.files import Unit
from pretrain.corpus.inputs import Stream
from pretrain.corpus.shards import ShardTask, group_units, pieces_file, write_array, write_shard
from pretrain.corpus.units import (
    DROPPED,
    Rules,
    Scanned,
    ScanTask,
    Tokenized,
    TokenizeTask,
    id_dtype,
    scan_unit,
    tokenize_unit,
    written,
)
from pretrain.corpus.work import VOCABULARY_FILES, forget, read_json, unit_path, unit_paths, write_json
from reader.corpus import FORMAT, MANIFEST, SPLITS
from utils.errors import UserError
from utils.files import atomic_file, sha256_of
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


# Second pass: read all text again and cut it into ids; then join the units to shards.

_LARGEST_HELD_OUT = 0.05  # share of a stream


def tokenize(build: Build) -> None:
    """Cut every unit into ids; record, per stream, the ids of each unit and what was left out.

    Raises:
        UserError: text that has changed since the scan.
    """
    options = build.options
    model, vocab = _write_vocabulary(build)
    rules = Rules(
        str(vocab),
        str(model),
        options.min_tokens,
        options.max_tokens,
        options.max_ratio,
    )
    streams = {
        number: _OpenStream(build, number)
        for number, stream in enumerate(build.streams)
        if not tokens_record(build, stream).exists()
    }
    chosen = [
        (number, place)
        for number, stream in streams.items()
        for place in range(len(stream.units))
        if not stream.find_written(place)
    ]

    def to_task(unit: Unit) -> TokenizeTask:
        stream = streams[unit.stream]
        return TokenizeTask(
            build.unit_task(unit, "tokens"),
            rules,
            stream.duplicates,
            stream.near_duplicates,
            stream.ordinal(unit),
            stream.held_out_below,
            stream.held_out_side,
        )

    for result in over_units(build, "tokenizing", chosen, tokenize_unit, to_task):
        streams[result.key[0]].results[result.key] = result
    for number, stream in streams.items():
        results = [stream.results[key] for key in sorted(stream.results)]
        dropped = [sum(counts) for counts in zip(*(result.dropped for result in results))]
        write_json(
            tokens_record(build, build.streams[number]),
            {"tokens": [result.tokens for result in results], "dropped": dict(zip(DROPPED, dropped))},
        )


def write_shards(build: Build) -> None:
    """Join the units to shards; a stream's units are deleted when its last shard is written."""
    dtype = id_dtype(build.tokenizer.vocab_size)
    shard_tokens = max(1, int(build.options.shard_mib * (1 << 20)) // dtype.itemsize)
    tasks = []
    for stream in build.streams:
        units = unit_paths(build.work.of(stream, "tokens"), [scan["units"] for scan in build.scans(stream)])
        tokens = read_json(tokens_record(build, stream))["tokens"]
        for place, split in enumerate(SPLITS):
            runs = group_units([counts[place] for counts in tokens], shard_tokens)
            tasks += [
                ShardTask(
                    split,
                    number,
                    units[run],
                    build.work.output,
                    stream.folder,
                    stream.languages,
                    build.work.of(stream, "shards"),
                    build.tokenizer.vocab_size,
                    dtype.str,
                )
                for number, run in enumerate(runs)
            ]
    left = Counter(task.stream for task in tasks)
    shown = Progress(len(tasks), "writing shards", unit="shards")
    for name in build.workers.run(write_shard, tasks):
        shown.update()
        left[name] -= 1
        if left[name] == 0:
            shutil.rmtree(build.work.folder / name / "tokens", ignore_errors=True)
    shown.close()


def tokens_record(build: Build, stream: Stream) -> Path:
    """The record of a stream whose units are all written."""
    return build.work.of(stream, "tokens.json")


def _write_vocabulary(build: Build) -> tuple[Path, Path]:
    """Put the vocabulary beside the text: then the folder is all that training needs, and all workers."""
    model, vocab = (build.work.output / name for name in VOCABULARY_FILES)
    with atomic_file(model) as file:
        file.write(build.tokenizer.piece_model_path.read_bytes())
    build.tokenizer.write_vocab(vocab)
    return model, vocab


class _OpenStream:
    """A stream that is being tokenized: what its units need to know, and their results."""

    def __init__(self, build: Build, number: int):
        self.stream = build.streams[number]
        self.number = number
        self.results: dict[tuple[int, int, int], Tokenized] = {}
        self.units = [scan["units"] for scan in build.scans(self.stream)]
        self.duplicates = build.duplicates(self.stream)
        self.near_duplicates = build.near_duplicates(self.stream)
        self.held_out_below = _held_out_below(build, self.stream)
        self.held_out_side = _deciding_side(build, self.stream)
        self._folder = build.work.of(self.stream, "tokens")

    def find_written(self, place: int) -> bool:
        """Take in the units of a source that are written; whether these are all."""
        keys = [(self.number, place, unit) for unit in range(self.units[place])]
        found = {key: written(unit_path(self._folder, *key[1:]), key) for key in keys}
        self.results |= {key: result for key, result in found.items() if result is not None}
        return None not in found.values()

    def ordinal(self, unit: Unit) -> int:
        """Number of a unit in the stream.

        Raises:
            UserError: the source has not the units that were counted.
        """
        expected = self.units[unit.source]
        if unit.number >= expected or (unit.last and unit.number + 1 < expected):
            raise UserError(
                f"{self.stream.sources[unit.source]}: changed while the corpus was built; start afresh with "
                "--overwrite true"
            )
        return sum(self.units[: unit.source]) + unit.number


def _held_out_below(build: Build, stream: Stream) -> int:
    """The hash below which a document is held out, so that about as many are as the options say."""
    documents = sum(scan["documents"] for scan in build.scans(stream))
    share = min(build.options.held_out / documents, _LARGEST_HELD_OUT)
    return int(share * (1 << 64))


def _deciding_side(build: Build, stream: Stream) -> int:
    """The side of a pair whose text decides whether it is held out: that of the language with most pairs.

    So a sentence that stands in several pairs of languages tends to be held out in all or in none.
    """
    if not stream.is_parallel:
        return 0
    pairs = Counter(language for other in build.streams if other.is_parallel for language in other.languages)
    first, second = stream.languages
    return int(pairs[second] > pairs[first])


# The end of a build: the manifest, the piece counts, and a table of what there is.

_MANY_UNKNOWN = 0.05


def finish(build: Build, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write the piece counts and, last of all, the manifest; remove the work folder.

    Raises:
        UserError: a stream of which the filters left nothing.
    """
    output = build.work.output
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **plan,
        "dtype": id_dtype(build.tokenizer.vocab_size).name,
        "mono": {},
        "parallel": {},
        "pieces": {},
        "files": {},
    }
    pieces: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(build.tokenizer.vocab_size, np.int64))
    for stream in build.streams:
        kind, name = stream.folder.split("/")
        entry = {"dropped": read_json(tokens_record(build, stream))["dropped"]}
        for split in SPLITS:
            records = _records(build, stream, split)
            entry[split] = _total(records)
            for record in records:
                manifest["files"] |= record["files"]
            if split == "train":
                for record in records:
                    counts = np.load(pieces_file(build.work.of(stream, "shards"), record["name"]))
                    for language, count in zip(stream.languages, counts):
                        pieces[language] += count
        if not entry["train"]["shards"]:
            raise UserError(
                f"{name}: nothing is left of its text (left out: {_dropped(entry)}); loosen the filters or "
                "leave it out"
            )
        manifest[kind][name] = entry
    for language, counts in sorted(pieces.items()):
        name = f"pieces/{language}.npy"
        manifest["pieces"][language] = name
        manifest["files"][name] = write_array(output / name, counts)
    for file in (output / name for name in VOCABULARY_FILES):
        manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    for folder in ("mono", "parallel", "pieces"):  # what a killed worker was writing
        for file in (output / folder).rglob(".*.tmp-*"):
            file.unlink()
    write_json(output / MANIFEST, manifest)
    forget(output)
    return manifest


def summary(manifest: Mapping[str, Any]) -> str:
    """A table with a line per language and side of a pair, and a warning for each poorly covered language."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for kind in ("mono", "parallel"):
        for name, entry in manifest[kind].items():
            train, held_out = entry["train"], entry["held_out"]
            languages = train["by_language"]
            lines = train["lines"] // len(languages)
            for language, counts in languages.items():
                first = len(languages) == 1 or language == next(iter(languages))
                rows.append(
                    (
                        name if len(languages) == 1 else f"{name}: {language}",
                        f"{lines:,}",
                        f"{counts['tokens']:,}",
                        f"{counts['unknown'] / counts['tokens']:.2%}",
                        f"{counts['tokens'] / lines:.1f}",
                        f"{held_out['lines'] // len(languages):,}",
                        _dropped(entry) if first else "",
                    )
                )
                totals[language][0] += counts["unknown"]
                totals[language][1] += counts["tokens"]
    widths = [max(map(len, column)) for column in zip(*rows)]
    table = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])),
                row[-1],
            ]
        )
        for row in rows
    ]
    warnings = [
        f"warning: {language}: {unknown / tokens:.1%} of its tokens are unknown to the vocabulary; it was "
        "not made for it"
        for language, (unknown, tokens) in totals.items()
        if unknown > _MANY_UNKNOWN * tokens
    ]
    return "\n".join(line.rstrip() for line in [*table, *warnings])


def _records(build: Build, stream: Stream, split: str) -> list[dict[str, Any]]:
    folder = build.work.of(stream, "shards")
    return [read_json(path) for path in sorted(folder.glob(f"{split}-*.json"))]


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Shards of one split, and their sums."""
    by_language: dict[str, dict[str, int]] = defaultdict(lambda: {"tokens": 0, "unknown": 0})
    for record in records:
        for language, counts in record["by_language"].items():
            for key, count in counts.items():
                by_language[language][key] += count
    keys = ("documents", "lines", "tokens", "unknown")
    return {
        **{key: sum(record[key] for record in records) for key in keys},
        "by_language": dict(by_language),
        "shards": [
            {key: record[key] for key in ("name", "documents", "lines", "tokens", "index")}
            for record in records
        ],
    }


def _dropped(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items() if count)
