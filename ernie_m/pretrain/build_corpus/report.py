"""What a build says at the end: a table of the corpus, a few pairs, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.build import left_out
from ernie_m.reader.corpus import SPLITS, Corpus, CorpusPairs, long_pairs
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.logging import in_columns

_MANY_UNKNOWN = 0.05  # a greater share of unknown tokens in a language is worth a warning
_EXAMPLES = 3  # how many pairs of each two languages are printed
_WIDTH = 100  # the longest printed line, in characters
_PLACES = 16  # at how many places of a stream the sides of pairs are compared
_PAIRS = 128  # how many consecutive pairs are compared at each place
_FEWEST_PAIRS = 40  # fewer pairs tell nothing
_TOLERATED = 0.1  # the share of the places at which the sides need not fit
# On 14 pairs of languages the lengths of translations correlate with 0.56 to 0.98, of shifted lines with at
# most 0.25.
_LEAST_CORRELATION = 0.3


def summary(manifest: Mapping[str, Any]) -> list[str]:
    """Return a table with a row per language or side, and a warning per poorly covered language."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    sums: dict[str, Counter[str]] = defaultdict(Counter)  # language -> its tokens, and the unknown ones
    for name, entry in [*manifest["mono"].items(), *manifest["parallel"].items()]:
        train, held_out = (entry[split] for split in SPLITS)
        sides = len(train["by_language"])
        lines = train["lines"] // sides  # the manifest counts the two sides of a pair as two lines
        for language, counts in train["by_language"].items():
            sums[language].update(counts)
            tokens = counts["tokens"]
            rows.append(
                (
                    name if sides == 1 else f"{name}: {language}",
                    f"{lines:,}",
                    f"{tokens:,}",
                    f"{counts['unknown'] / tokens:.2%}",
                    f"{tokens / lines:.1f}",
                    f"{held_out['lines'] // sides:,}",
                    left_out(entry["dropped"]),
                )
            )
    width = max(len(title) for title, *_ in rows)
    table = in_columns([[title.ljust(width), *cells] for title, *cells in rows]).split("\n")
    for language, counts in sums.items():
        share = counts["unknown"] / counts["tokens"]
        if share > _MANY_UNKNOWN:
            error = f"{share:.1%} of its tokens are unknown to the vocabulary; it was not made for it"
            table.append(f"warning: {language}: {error}")
    return table


def pair_report(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """Return the number of pairs are too long.

    Of every two languages a few, and a warning if their sides do not fit.
    """
    report = [long_pairs(corpus.parallel, length) for length in (128, 256, 512) if corpus.parallel]
    for languages, pairs in corpus.parallel.items():
        name = "-".join(languages)
        # Some pairs from the beginning to the end, evenly spaced.
        examples = np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs)), dtype=int)
        for number in examples.tolist():
            for language, ids in zip(languages, pairs[number]):
                report.append(f"{name} {number + 1:,} {language}: {tokenizer.decode(ids.tolist())[:_WIDTH]}")
        fits = sides_fit(pairs)
        misfits = fits.count(False)
        if misfits > len(fits) * _TOLERATED:
            report.append(
                f"warning: {name}: at {misfits} of {len(fits)} places that were looked at the sides have "
                "unrelated lengths; is a line missing in one file, or are they no translations?"
            )
    return report


def sides_fit(pairs: CorpusPairs) -> list[bool]:
    """Return whether consecutive pairs look like translations at sampled positions, by the lines' lengths.

    Files that have slipped by a line still have equally many lines, but their lengths do not correlate.
    """
    size = min(_PAIRS, len(pairs))
    if size < _FEWEST_PAIRS:
        return []
    fits = []
    starts = np.linspace(0, len(pairs) - size, min(_PLACES, len(pairs) // size), dtype=int)
    for start in starts.tolist():
        # Lengths are compared by their logarithms, so that a long pair does not outweigh all others.
        lengths = np.log([[len(side) for side in pairs[start + number]] for number in range(size)])  # [N, 2]
        have_spread = (lengths.std(axis=0) > 0).all()  # lengths that are all equal have no correlation
        fits.append(bool(have_spread and np.corrcoef(lengths.T)[0, 1] > _LEAST_CORRELATION))
    return fits
