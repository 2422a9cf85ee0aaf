"""The end of a build: the piece counts, the manifest, and a table of the corpus."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from pretrain.corpus.build import CorpusBuild
from pretrain.corpus.inputs import Stream
from pretrain.corpus.passes import DROPPED, id_dtype
from pretrain.corpus.shards import describe, pieces_file, write_array
from pretrain.corpus.work import VOCABULARY_FILES, delete_work, read_json, write_json
from reader.corpus import FORMAT, MANIFEST, SPLITS
from utils.errors import UserError

_MANY_UNKNOWN = 0.05  # share of a language's tokens that is worth a warning


def finish(build: CorpusBuild, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write the piece counts and then the manifest; remove the work folder.

    Returns:
        The manifest.

    Raises:
        UserError: the filters left nothing of a stream.
    """
    output, vocab_size = build.work.output, build.tokenizer.vocab_size
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **plan,
        "dtype": id_dtype(vocab_size).name,
        "mono": {},
        "parallel": {},
        "pieces": {},
        "files": {},
    }
    pieces: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(vocab_size, np.int64))
    for number, stream in enumerate(build.streams):
        dropped = [sum(counts) for counts in zip(*build.token_counts(number))][len(SPLITS) :]
        entry: dict[str, Any] = {"dropped": dict(zip(DROPPED, dropped))}
        for split in SPLITS:
            records = _records(build, stream, split)
            entry[split] = _total(records)
            for record in records:
                manifest["files"] |= record["files"]
                counts = np.load(pieces_file(build.work.of(stream, "shards"), record["name"]))
                for language, count in zip(stream.languages, counts if split == "train" else ()):
                    pieces[language] += count
        kind, name = stream.folder.split("/")
        if not entry["train"]["shards"]:
            raise UserError(
                f"{name}: nothing is left of its text (left out: {_left_out(entry)}); loosen the filters or "
                "leave it out"
            )
        manifest[kind][name] = entry
    for language, counts in sorted(pieces.items()):
        name = f"pieces/{language}.npy"
        manifest["pieces"][language] = name
        manifest["files"][name] = write_array(output / name, counts.dtype, len(counts), [counts])
    for file in (output / name for name in VOCABULARY_FILES):
        manifest["files"][file.name] = describe(file)
    for folder in ("mono", "parallel", "pieces"):  # temporary files of killed workers
        for file in (output / folder).rglob(".*.tmp-*"):
            file.unlink()
    write_json(output / MANIFEST, manifest)
    delete_work(output)
    return manifest


def summary(manifest: Mapping[str, Any]) -> str:
    """A table with a row per language and side of a pair, and a warning for each poorly covered language."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, entry in (*manifest["mono"].items(), *manifest["parallel"].items()):
        languages = entry["train"]["by_language"]
        sides = len(languages)
        lines, held_out = (entry[split]["lines"] // sides for split in SPLITS)
        for number, (language, counts) in enumerate(languages.items()):
            tokens, unknown = counts["tokens"], counts["unknown"]
            rows.append(
                (
                    name if sides == 1 else f"{name}: {language}",
                    f"{lines:,}",
                    f"{tokens:,}",
                    f"{unknown / tokens:.2%}",
                    f"{tokens / lines:.1f}",
                    f"{held_out:,}",
                    _left_out(entry) if number == 0 else "",
                )
            )
            totals[language][0] += unknown
            totals[language][1] += tokens
    widths = [max(map(len, column)) for column in zip(*rows)]
    table = []
    for first, *cells, last in rows:
        cells = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        table.append("  ".join([first.ljust(widths[0]), *cells, last]).rstrip())
    warnings = [
        f"warning: {language}: {unknown / tokens:.1%} of its tokens are unknown to the vocabulary; it was "
        "not made for it"
        for language, (unknown, tokens) in totals.items()
        if unknown > _MANY_UNKNOWN * tokens
    ]
    return "\n".join([*table, *warnings])


def _records(build: CorpusBuild, stream: Stream, split: str) -> list[dict[str, Any]]:
    folder = build.work.of(stream, "shards")
    return [read_json(path) for path in sorted(folder.glob(f"{split}-*.json"))]


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The shards of one split and their sums."""
    by_language: dict[str, dict[str, int]] = defaultdict(lambda: {"tokens": 0, "unknown": 0})
    for record in records:
        for language, counts in record["by_language"].items():
            for key, count in counts.items():
                by_language[language][key] += count
    keys, of_shard = (
        ("documents", "lines", "tokens", "unknown"),
        ("name", "documents", "lines", "tokens", "index"),
    )
    return {
        **{key: sum(record[key] for record in records) for key in keys},
        "by_language": dict(by_language),
        "shards": [{key: record[key] for key in of_shard} for record in records],
    }


def _left_out(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items() if count)
