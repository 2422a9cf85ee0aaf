"""The end of a build: the manifest, the piece counts, and a table of what there is."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from pretrain.corpus.build import Build
from pretrain.corpus.inputs import Stream
from pretrain.corpus.shards import pieces_file, write_array
from pretrain.corpus.tokenize import tokens_record
from pretrain.corpus.units import id_dtype
from pretrain.corpus.work import VOCABULARY_FILES, forget, read_json, write_json
from reader.corpus import FORMAT, MANIFEST, SPLITS
from utils.errors import UserError
from utils.files import sha256_of

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
