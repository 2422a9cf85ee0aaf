"""The end of a build: the piece counts, the manifest, and a table of the corpus."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.corpus.stages import DROPPED, describe, id_dtype, pieces_file, write_array
from pretrain.corpus.work import TOKENS, VOCABULARY_FILES, WORK, StreamWork, read_json, write_json
from reader.corpus import FORMAT, MANIFEST, SPLITS
from utils.errors import UserError

_MANY_UNKNOWN = 0.05  # share of a language's tokens that is worth a warning


def finish(works: list[StreamWork], output: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write the piece counts and then the manifest; remove the work folder.

    Returns:
        The manifest.

    Raises:
        UserError: the filters left nothing of a stream.
    """
    vocab_size = works[0].vocab_size
    manifest: dict[str, Any] = {"format": FORMAT, **plan, "dtype": id_dtype(vocab_size).name}
    manifest |= {"mono": {}, "parallel": {}, "pieces": {}, "files": {}}
    pieces: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(vocab_size, np.int64))
    for work in works:
        kind, name = work.stream.folder.split("/")
        dropped = [sum(counts) for counts in zip(*work.all_counts(TOKENS))][len(SPLITS) :]
        entry: dict[str, Any] = {"dropped": dict(zip(DROPPED, dropped))}
        for split in SPLITS:
            records = [read_json(path) for path in sorted(work.folder("shards").glob(f"{split}-*.json"))]
            entry[split] = _total(records)
            for record in records:
                manifest["files"] |= record["files"]
                if split == "train":
                    for language, counts in zip(
                        work.stream.languages, np.load(pieces_file(work, record["name"]))
                    ):
                        pieces[language] += counts
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
    for name in VOCABULARY_FILES:
        manifest["files"][name] = describe(output / name)
    for folder in ("mono", "parallel", "pieces"):  # temporary files of killed workers
        for file in (output / folder).rglob(".*.tmp-*"):
            file.unlink()
    write_json(output / MANIFEST, manifest)
    shutil.rmtree(output / WORK, ignore_errors=True)
    return manifest


def summary(manifest: Mapping[str, Any]) -> str:
    """A table with a row per language and side of a pair, and a warning for each poorly covered language."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for name, entry in (*manifest["mono"].items(), *manifest["parallel"].items()):
        languages = entry["train"]["by_language"]
        lines, held_out = (entry[split]["lines"] // len(languages) for split in SPLITS)
        left_out = _left_out(entry)
        for language, counts in languages.items():
            tokens, unknown = counts["tokens"], counts["unknown"]
            label = name if len(languages) == 1 else f"{name}: {language}"
            shares = f"{unknown / tokens:.2%}", f"{tokens / lines:.1f}"
            rows.append((label, f"{lines:,}", f"{tokens:,}", *shares, f"{held_out:,}", left_out))
            left_out = ""  # once for a pair
            totals[language] += (unknown, tokens)
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


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The shards of one split and their sums."""
    by_language: dict[str, dict[str, int]] = defaultdict(lambda: {"tokens": 0, "unknown": 0})
    for record in records:
        for language, counts in record["by_language"].items():
            for key, count in counts.items():
                by_language[language][key] += count
    sums = ("documents", "lines", "tokens", "unknown")
    return {
        **{key: sum(record[key] for record in records) for key in sums},
        "by_language": dict(by_language),
        "shards": [{key: record[key] for key in ("name", *sums[:3], "index")} for record in records],
    }


def _left_out(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items() if count)
