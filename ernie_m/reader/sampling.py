"""Temperature sampling of languages and language pairs, determined by a seed and a position per stream.

A stream is the text of a language or of a language pair. Each draw samples a stream by temperature and takes
its next item. The items of a stream are permuted in every epoch. Streams are sampled by a counter-based
random generator and items by a keyed permutation, so that a run resumes from the positions alone, and any
number of processes can share the draws of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_m.utils.errors import UserError

_ROUNDS = 8  # rounds of the permutation; even, so that both halves keep their sizes
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio; its multiples are evenly distributed
_MASK64 = (1 << 64) - 1


def apply_temperature(sizes: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Compute the sampling probabilities of languages, p_l ~ n_l^alpha.

    XLM-R uses alpha 0.3 for languages, InfoXLM 0.7 for language pairs.

    Args:
        sizes: the name l of a language or a language pair -> its amount of text n_l.

    Returns:
        Each name -> p_l; the probabilities sum to 1.

    Raises:
        UserError: the amounts are empty, or one is not positive.
    """
    if not sizes:
        raise UserError("no streams to sample from. Add text to the corpus")
    empty = [name for name, amount in sizes.items() if not amount > 0]  # also true for nan
    if empty:
        raise UserError(f"nothing to sample from {', '.join(empty)}")
    weights = {name: float(amount) ** alpha for name, amount in sizes.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def permute(positions: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the item at each position of a stream, whose items are permuted differently in each epoch.

    A Feistel network permutes the numbers below a power of two that is at least `size`. It is applied
    repeatedly until the result is below `size` (cycle walking). So no permutation is stored.

    Args:
        positions: int64 [n]; position // size is the epoch.
        sizes, keys: int64 and uint64 [n], the number of items and the key of each position's stream.
    """
    sizes = sizes.astype(np.uint64)
    epochs, values = np.divmod(positions.astype(np.uint64), sizes)  # the values are positions in the epoch
    keys = _mix(keys + _mix(epochs + np.uint64(1)))  # a different key in each epoch
    # The bits of the greatest item, at least one for each half. frexp is exact below 2^53; a stream has fewer
    # items.
    greatest = (sizes - np.uint64(1)).astype(np.float64)
    _, bits = np.frexp(greatest)
    bits = np.maximum(bits, 2).astype(np.uint64)
    values = _apply_feistel_network(values, keys, bits)
    outside = np.flatnonzero(values >= sizes)
    while outside.size:
        values[outside] = _apply_feistel_network(values[outside], keys[outside], bits[outside])
        outside = outside[values[outside] >= sizes[outside]]
    return values.astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """n consecutive draws of a `Sampler`.

    Attributes:
        stream: int64 [n], the index of the stream in `Sampler.names`.
        item: int64 [n], the index of the item in the stream.
        reverse: bool [n], whether the second side of a pair comes first; true with probability 1/2.
    """

    stream: np.ndarray
    item: np.ndarray
    reverse: np.ndarray


class Sampler:
    """Sampler of monolingual or of parallel text.

    All processes have the same sampler, and each uses a part of the draws of a step.

    Args:
        items: stream -> number of items (blocks of a language, sentence pairs). Streams are indexed in this
            order.
        amounts, alpha: the arguments of `apply_temperature`: stream -> its tokens or pairs, and the exponent.
        purpose: a name; samplers with different purposes are independent.

    Attributes:
        names: the names of the streams.
        sizes: the number of items of each stream, int64 [streams].
        probabilities: the sampling probability of each stream, float64 [streams].
        draws: the number of draws so far.
        positions: the number of draws of each stream, int64 [streams].

    Raises:
        UserError: the items or the amount of a stream are not positive.
    """

    def __init__(
        self, items: Mapping[str, int], amounts: Mapping[str, float], alpha: float, seed: int, purpose: str
    ):
        apply_temperature(items, alpha=1.0)  # raises an error if a stream is empty
        probabilities = apply_temperature(amounts, alpha)
        self.names = list(items)
        self.sizes = np.array([items[name] for name in self.names], np.int64)
        self.probabilities = np.array([probabilities[name] for name in self.names])
        self.draws = 0
        self.positions = np.zeros(len(self.names), np.int64)
        # The thresholds between streams for a uniform number. float64 [streams - 1]
        self._thresholds = np.cumsum(self.probabilities)[:-1]
        self._philox_key = _derive_key(seed, purpose)
        keys = [_derive_key(seed, f"{purpose}/{name}")[0] for name in self.names]
        self._stream_keys = np.array(keys, np.uint64)

    def draw(self, count: int) -> Draws:
        """Return the next `count` draws."""
        # Philox generates four words per counter value. Draw i uses those of counter i.
        philox = np.random.Philox(key=self._philox_key, counter=self.draws)
        words = philox.random_raw(4 * count).reshape(count, 4)  # uint64
        highest_bits = words[:, 0] >> np.uint64(11)  # 53 of 64, the precision of float64
        uniform = highest_bits * 2.0**-53  # in [0, 1)
        stream = np.searchsorted(self._thresholds, uniform, side="right")
        # The position in the stream: the number of earlier draws, including this call.
        position = self.positions[stream] + _count_earlier_equals(stream)
        item = permute(position, self.sizes[stream], self._stream_keys[stream])
        reverse = (words[:, 1] >> np.uint64(63)).astype(bool)  # its highest bit
        self.positions += np.bincount(stream, minlength=len(self.names))
        self.draws += count
        return Draws(stream, item, reverse)

    def state(self) -> dict[str, Any]:
        """Return the state for `restore` as JSON values; the state is equal on all processes."""
        return {"draws": self.draws, "positions": dict(zip(self.names, self.positions.tolist()))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a result of `state`, saved with the same text and seed and any number of processes."""
        self.draws = int(state["draws"])
        self.positions = np.array([state["positions"][name] for name in self.names], np.int64)


def _derive_key(seed: int, purpose: str) -> np.ndarray:
    """Derive the key of a Philox generator from a seed and the name of its purpose, uint64 [2]."""
    return np.random.SeedSequence([seed, *purpose.encode()]).generate_state(2, np.uint64)


def _count_earlier_equals(values: np.ndarray) -> np.ndarray:
    """Return, for each element, the number of earlier elements that are equal to it, int64 [n]."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    # Equal elements are adjacent now, in their original order, so the count is the distance from the first.
    first_equals = np.searchsorted(in_order, in_order)
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - first_equals
    return counts


def _apply_feistel_network(values: np.ndarray, keys: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Apply a Feistel network, a keyed permutation of the numbers below 2^bits. All arrays are uint64 [n].

    Each round replaces the high half with its XOR with a hash of the low half, and swaps the halves.
    """
    one = np.uint64(1)
    high_bits = bits // np.uint64(2)
    low_bits = bits - high_bits
    for round_ in range(1, _ROUNDS + 1):
        high = values >> low_bits
        low = values & ((one << low_bits) - one)
        round_key = np.uint64((round_ * _GOLDEN) & _MASK64)
        noise = _mix(low + keys + round_key) >> (np.uint64(64) - high_bits)  # of `high_bits` bits
        values = (low << high_bits) | (high ^ noise)
        high_bits, low_bits = low_bits, high_bits
    return values


def _mix(words: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64, a bijection of 64-bit words: uint64 [n] -> uint64 [n]."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
