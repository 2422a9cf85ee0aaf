"""Do the sides of a parallel corpus belong together? A warning where they seem not to, and pairs to look at.

Files that have slipped by a line still have equally many lines. But then line i fits another line of the
other side better than line i. Translations have similar lengths, and they share rare pieces: numbers, names
and borrowed words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from reader.corpus import Corpus, Pairs
from reader.tokenization import Tokenizer

_BLOCKS, _BLOCK = 16, 128  # places of a stream that are looked at, and consecutive pairs at each
_FEWEST = 40  # pairs that can tell anything
_SHIFTS = (-2, -1, 1, 2)
_WIDTH = 100  # characters of a shown line

_TOLERATED = 0.1  # share of the places that may not fit

# On 14 pairs of languages the lengths of translations correlate with 0.56 to 0.98, of shifted lines with at
# most 0.25. Translations share at least twice as much as shifted lines do.
_CORRELATED, _SHARE_MORE = 0.3, 1.5

Lines = Sequence[np.ndarray]


def report(corpus: Corpus, tokenizer: Tokenizer, shown: int) -> list[str]:
    """For every pair of languages: `shown` of its pairs as text, and a warning if they do not fit."""
    lines = []
    for languages, pairs in corpus.parallel.items():
        name = "-".join(languages)
        for number in np.linspace(0, len(pairs) - 1, min(shown, len(pairs)), dtype=int).tolist():
            for language, ids in zip(languages, pairs[number]):
                lines.append(f"{name} {number + 1:,} {language}: {tokenizer.decode(ids)[:_WIDTH]}")
        if warning := _warning(pairs):
            lines.append(f"warning: {name}: {warning}")
    return lines


def _warning(pairs: Pairs) -> str:
    size = min(_BLOCK, len(pairs))
    if size < _FEWEST:
        return ""
    starts = np.unique(np.linspace(0, len(pairs) - size, min(_BLOCKS, -(-len(pairs) // size)), dtype=int))
    shifts = [best_shift(*zip(*(pairs[start + i] for i in range(size)))) for start in starts.tolist()]
    bad = [shift for shift in shifts if shift != 0]
    if len(bad) <= len(shifts) * _TOLERATED:
        return ""
    where = f"at {len(bad)} of {len(shifts)} places that were looked at the sides"
    shift = max(set(bad), key=bad.count)
    if shift is None:
        return f"{where} have unrelated lengths and share no numbers or names; are they translations?"
    return f"{where} fit better if one of them moves by {abs(shift)}; is a line missing, or one too many?"


def best_shift(first: Lines, second: Lines) -> int | None:
    """The shift at which consecutive lines fit: 0 for translations, None if they fit at no shift.

    Args:
        first, second: ids of the lines. At shift s line i of `first` belongs to line i + s of `second`.
    """
    rarity = [_rarity(side) for side in (first, second)]
    correlation, shared = {}, {}
    for shift in (0, *_SHIFTS):
        a, b = first[max(0, -shift) :], second[max(0, shift) :]
        rows = list(zip(a, b))  # as long as the shorter one
        correlation[shift] = _correlation(rows)
        shared[shift] = float(np.mean([_shared(*row, *rarity) for row in rows]))
    for shift in (0, *_SHIFTS):
        others = np.mean([shared[other] for other in shared if other != shift])
        if correlation[shift] > max(_CORRELATED, max(correlation.values()) - 0.1):
            return shift
        if shared[shift] > _SHARE_MORE * others and shared[shift] == max(shared.values()):
            return shift
    return None


def _correlation(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    lengths = np.log([[len(a), len(b)] for a, b in rows])  # [N, 2]
    return float(np.corrcoef(lengths.T)[0, 1]) if (lengths.std(axis=0) > 0).all() else 0.0


def _rarity(lines: Lines) -> dict[int, float]:
    """A weight for each piece: 0 for a piece that every line has."""
    counts = Counter(piece for line in lines for piece in set(line.tolist()))
    return {piece: float(np.log(len(lines) / count)) for piece, count in counts.items()}


def _shared(
    a: np.ndarray, b: np.ndarray, rarity_a: Mapping[int, float], rarity_b: Mapping[int, float]
) -> float:
    """The share of the pieces of two lines that both have, by weight. From 0 to 1."""
    mine, theirs = set(a.tolist()), set(b.tolist())
    both = sum(min(rarity_a[piece], rarity_b[piece]) for piece in mine & theirs)
    return both / max(sum(map(rarity_a.get, mine)), sum(map(rarity_b.get, theirs)), 1e-9)
