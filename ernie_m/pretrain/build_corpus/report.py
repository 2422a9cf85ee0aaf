"""What a build says at the end: a table of the corpus, a few pairs, and warnings."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m.pretrain.build_corpus.build import left_out
from ernie_m.reader.corpus import SPLITS, Corpus, CorpusPairs, long_pairs
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.text_tables import in_columns

_MANY_UNKNOWN = 0.05  # a greater share of unknown tokens in a language is worth a warning
_EXAMPLES = 3  # how many pairs of each two languages are printed
_WIDTH = 100  # the longest printed line, in characters
_PLACES = 16  # at how many places of a stream the sides of pairs are compared
_PAIRS = 128  # how many consecutive pairs are compared at each place
_FEWEST_PAIRS = 40  # fewer pairs tell nothing
_TOLERATED = 0.1  # the share of the places at which the sides need not fit
# On 14 pairs of languages the lengths of translations correlate with 0.56 to 0.98, of shifted lines with at
# most 0.25. Translations share at least twice as much as shifted lines do.
_LEAST_CORRELATION = 0.3
_LEAST_RATIO = 1.5


def summary(manifest: Mapping[str, Any]) -> list[str]:
    """A table with a row per language and side of a pair, and a warning for each poorly covered language."""
    rows = [("text", "lines", "tokens", "unknown", "mean length", "held out", "left out")]
    tokens_of: Counter[str] = Counter()  # language -> number of tokens
    unknown_of: Counter[str] = Counter()  # language -> number of unknown tokens
    for name, entry in [*manifest["mono"].items(), *manifest["parallel"].items()]:
        train, held_out = SPLITS
        languages = entry[train]["by_language"]
        # The manifest counts the two sides of a pair as two lines.
        train_lines = entry[train]["lines"] // len(languages)
        held_out_lines = entry[held_out]["lines"] // len(languages)
        dropped = left_out(entry)
        for language, counts in languages.items():
            tokens = counts["tokens"]
            title = name if len(languages) == 1 else f"{name}: {language}"
            rows.append(
                (
                    title,
                    f"{train_lines:,}",
                    f"{tokens:,}",
                    f"{counts['unknown'] / tokens:.2%}",
                    f"{tokens / train_lines:.1f}",
                    f"{held_out_lines:,}",
                    dropped,
                )
            )
            dropped = ""  # a pair has two rows, and says only in the first what was left out
            tokens_of[language] += tokens
            unknown_of[language] += counts["unknown"]
    warnings = []
    for language, tokens in tokens_of.items():
        share = unknown_of[language] / tokens
        if share > _MANY_UNKNOWN:
            warnings.append(
                f"warning: {language}: {share:.1%} of its tokens are unknown to the vocabulary; it was "
                "not made for it"
            )
    return _aligned(rows) + warnings


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first and the last column flush left, the others flush right."""
    width = max(len(first) for first, *_ in rows)
    table = in_columns([[first.ljust(width), *middle] for first, *middle, _ in rows])
    return [f"{line}  {row[-1]}".rstrip() for line, row in zip(table.split("\n"), rows)]


def pair_report(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """How many pairs are too long; of every two languages a few, and a warning if their sides do not fit."""
    report = [long_pairs(corpus.parallel, length) for length in (128, 256, 512) if corpus.parallel]
    for languages, pairs in corpus.parallel.items():
        name = "-".join(languages)
        # Some pairs from the beginning to the end, evenly spaced.
        examples = np.linspace(0, len(pairs) - 1, min(_EXAMPLES, len(pairs)), dtype=int)
        for number in examples.tolist():
            for language, ids in zip(languages, pairs[number]):
                report.append(f"{name} {number + 1:,} {language}: {tokenizer.decode(ids)[:_WIDTH]}")
        places, misfits = _compare_sides(pairs)
        if misfits > places * _TOLERATED:
            report.append(
                f"warning: {name}: at {misfits} of {places} places that were looked at the sides have "
                "unrelated lengths and share no numbers or names; is a line missing in one file, or are they "
                "no translations?"
            )
    return report


def _compare_sides(pairs: CorpusPairs) -> tuple[int, int]:
    """The number of places at which the sides were compared, and of those at which they do not fit."""
    size = min(_PAIRS, len(pairs))
    if size < _FEWEST_PAIRS:
        return 0, 0
    places = min(_PLACES, len(pairs) // size)
    misfits = 0
    for start in np.linspace(0, len(pairs) - size, places, dtype=int).tolist():
        consecutive_pairs = [pairs[number] for number in range(start, start + size)]
        first_side = [first for first, _ in consecutive_pairs]
        second_side = [second for _, second in consecutive_pairs]
        if not fit(first_side, second_side):
            misfits += 1
    return places, misfits


def fit(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    """Whether consecutive lines, given as ids, look like translations of each other.

    Files that have slipped by a line still have equally many lines. But translations have similar lengths,
    and they share more rare pieces (numbers, names, borrowed words) than lines that were shifted do.
    """
    # Lengths are compared by their logarithms, so that a long pair does not outweigh all others.
    lengths = np.log([[len(a), len(b)] for a, b in zip(first, second)])  # [N, 2]
    have_spread = (lengths.std(axis=0) > 0).all()  # lengths that are all equal have no correlation
    if have_spread:
        correlation = np.corrcoef(lengths.T)[0, 1]  # between the lengths of both sides
        if correlation > _LEAST_CORRELATION:
            return True
    first_pieces = [set(line.tolist()) for line in first]
    second_pieces = [set(line.tolist()) for line in second]
    shifted = second_pieces[1:] + second_pieces[:1]  # beside each line stands the translation of the next
    rarity = _rarity(first_pieces, second_pieces)
    shared = _shared(first_pieces, second_pieces, rarity)
    return shared > _LEAST_RATIO * _shared(first_pieces, shifted, rarity)


def _rarity(first: Sequence[set[int]], second: Sequence[set[int]]) -> dict[int, float]:
    """A weight for each piece that both sides have: 0 for a piece of every line, more for a rare one."""
    # Piece -> number of lines that have it.
    first_counts = Counter(itertools.chain.from_iterable(first))
    second_counts = Counter(itertools.chain.from_iterable(second))
    rarity = {}
    for piece in first_counts.keys() & second_counts.keys():
        rarity[piece] = math.log(len(first) / max(first_counts[piece], second_counts[piece]))
    return rarity


def _shared(first: Sequence[set[int]], second: Sequence[set[int]], rarity: Mapping[int, float]) -> float:
    """How much the lines of two sides have in common: the sum of the weights of their common pieces."""
    weights = []
    for first_line, second_line in zip(first, second):
        weights += [rarity[piece] for piece in first_line & second_line]
    return sum(weights)
