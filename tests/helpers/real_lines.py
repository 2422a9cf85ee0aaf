"""Real text in the 15 languages of XNLI."""

import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]


def real_lines(data_dir: Path, count: int) -> Iterator[str]:
    """Yield the first `count` lines of each language."""
    for language in LANGUAGES:
        with gzip.open(data_dir / f"pretrain/mono/{language}.txt.gz", "rt", encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in islice(file, count))
