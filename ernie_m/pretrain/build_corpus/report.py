"""The report of a corpus build: a table, sample pairs, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.build import format_dropped_counts
from ernie_m.reader.corpus import SPLITS, Corpus, CorpusPairs, describe_long_pairs
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.logging import format_columns

_MANY_UNKNOWN = 0.05  # a higher fraction of unknown tokens in a language causes a warning
_EXAMPLES = 3  # sample pairs per language pair
_WIDTH = 100  # maximum length of a printed line, in characters
_POSITIONS = 16  # number of positions in a stream at which sides are compared
_PAIRS = 128  # number of consecutive pairs compared at each position
_FEWEST_PAIRS = 40  # fewer pairs are not significant
_TOLERATED = 0.1  # the fraction of positions at which the sides need not fit
# For 14 language pairs, the lengths of translations correlate with 0.56 to 0.98, and those of shifted lines
# with at most 0.25.
_LEAST_CORRELATION = 0.3


def format_summary(manifest: Mapping[str, Any]) -> list[str]:
    """Format a table with a row per language or side, and a warning per language with many unknown tokens."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    sums: dict[str, Counter[str]] = defaultdict(Counter)  # language -> its tokens and unknown tokens
    for name, entry in [*manifest["mono"].items(), *manifest["parallel"].items()]:
        train, held_out = (entry[split] for split in SPLITS)
        sides = len(train["by_language"])
        lines = train["lines"] // sides  # the manifest counts both sides of a pair as lines
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
                    format_dropped_counts(entry["dropped"]),
                )
            )
    width = max(len(title) for title, *_ in rows)
    table = format_columns([[title.ljust(width), *cells] for title, *cells in rows]).split("\n")
    for language, counts in sums.items():
        share = counts["unknown"] / counts["tokens"]
        if share > _MANY_UNKNOWN:
            error = f"{share:.1%} of its tokens are unknown; the vocabulary does not cover this language"
            table.append(f"warning: {language}: {error}")
    return table


def format_pair_report(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """Format length statistics, sample pairs, and a warning if the sides of a language pair seem misaligned.

    The samples are evenly spaced.
    """
    report = [describe_long_pairs(corpus.parallel, length) for length in (128, 256, 512) if corpus.parallel]
    for languages, pairs in corpus.parallel.items():
        name = "-".join(languages)
        # Pairs from the beginning to the end, evenly spaced.
        examples = np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs)), dtype=int)
        for number in examples.tolist():
            for language, ids in zip(languages, pairs[number]):
                report.append(f"{name} {number + 1:,} {language}: {tokenizer.decode(ids.tolist())[:_WIDTH]}")
        fits = are_lengths_correlated(pairs)
        misfits = fits.count(False)
        if misfits > len(fits) * _TOLERATED:
            report.append(
                f"warning: {name}: at {misfits} of {len(fits)} sampled positions the sides have unrelated "
                "lengths. Check that the files are translations and no line is missing"
            )
    return report


def are_lengths_correlated(pairs: CorpusPairs) -> list[bool]:
    """Return, for sampled positions, whether the lengths of both sides of consecutive pairs correlate.

    The lengths of translations correlate; those of files that are misaligned by a line do not. [] if there
    are too few pairs.
    """
    size = min(_PAIRS, len(pairs))
    if size < _FEWEST_PAIRS:
        return []
    fits = []
    starts = np.linspace(0, len(pairs) - size, min(_POSITIONS, len(pairs) // size), dtype=int)
    for start in starts.tolist():
        # Compare logarithms of lengths, so that a long pair does not dominate.
        lengths = np.log([[len(side) for side in pairs[start + number]] for number in range(size)])  # [N, 2]
        have_spread = np.ptp(lengths, axis=0).all()  # the correlation of constant lengths is undefined
        fits.append(bool(have_spread and np.corrcoef(lengths.T)[0, 1] > _LEAST_CORRELATION))
    return fits
