"""The labelled files of a run. Reader processes import this file, so it does not import Paddle."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader.batching import Batches, GlobalBatch
from reader.classification import expand


@dataclass(frozen=True)
class EvalFile:
    """The file of one language that matches a pattern such as `dev.%s.tsv`, and its items."""

    pattern: str
    language: str
    path: Path
    data: Sequence[Any]


def open_files(
    patterns: str, languages: Sequence[str] | None, flag: str, read: Callable[[Path], Sequence[Any]]
) -> list[EvalFile]:
    """Read all files of the patterns of one flag, in the order of the patterns, then of the languages.

    Raises:
        UserError: a pattern has `%s` but there are no languages, or the reverse, or a file is wrong.
    """
    expanded = expand(patterns, languages, flag)
    return [
        EvalFile(pattern, language, path, read(path))
        for pattern, by_language in expanded.items()
        for language, path in by_language.items()
    ]


def stream(parts: Sequence[Batches]) -> Iterator[tuple[int, GlobalBatch]]:
    """Yield the global batches of several data sets one after the other, with the number of the data set."""
    for number, batches in enumerate(parts):
        for global_batch in batches.stream():
            yield number, global_batch
