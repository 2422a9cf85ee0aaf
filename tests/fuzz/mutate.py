"""Inputs made of a pool of inputs: bytes, numbers, lines and pieces changed at random, all from one seed."""

import re
from collections.abc import Callable
from random import Random

MOST_BYTES = 1 << 17
_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1,
            1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, (1 << 62) + 1, (1 << 63) - 1, 1 << 63,
            (1 << 64) - 1)  # fmt: skip
_DECIMALS = (b"0", b"-1", b"1", b"00", b"2147483648", b"9223372036854775808", b"1" + b"0" * 30, b"9" * 5000,
             b"1e999", b"-0.0", b"NaN", b"1.5", "٣".encode(), "²".encode())  # fmt: skip
_PIECES = (b"\0", b"\n", b"\r\n", b"\r", b"\t", b" ", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"\\",
           b"{", b"[", b"]", b"}", b",", b":", "\u2028".encode(), "\u200d".encode(), "😀".encode(),
           b"\x1b[31m", b"\x02", b"/", b"../", b"%s", b"null", b"\\ud800", b"<", b">", b"&")  # fmt: skip
_REPEATS = (2, 3, 10, 300, 5000, 60_000)
_DECIMAL = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")

Change = Callable[[Random, bytearray], None]


class Mutator:
    """The inputs of one run on one reader: input i hangs on the seed, i and the pool, which may grow.

    The inputs of the pool come first, as they are.
    """

    def __init__(
        self,
        seed: str,
        pool: list[bytes],
        words: tuple[bytes, ...] = (),
        edit: Callable[[Random, bytes], bytes] | None = None,
    ):
        self.seed, self.pool, self.words, self.edit = seed, list(pool), words, edit
        self.given = len(pool)

    def make(self, index: int) -> bytes:
        """Input number `index`."""
        if index < self.given:
            return self.pool[index]
        rng = Random(f"{self.seed} {index}")
        data = rng.choice(self.pool)
        if self.edit is not None and rng.random() < 0.5:
            for _ in range(_few(rng)):
                data = self.edit(rng, data)
            if rng.random() < 0.7:
                return data[:MOST_BYTES]
        changed = bytearray(data)
        for _ in range(_few(rng)):
            rng.choice(_CHANGES)(rng, changed, self)
            del changed[MOST_BYTES:]
        return bytes(changed)

    def piece(self, rng: Random) -> bytes:
        return rng.choice(self.words if self.words and rng.random() < 0.5 else _PIECES)


def _few(rng: Random) -> int:
    """1 half of the time, 2 a quarter of it, ..., at most 8."""
    count = 1
    while count < 8 and rng.random() < 0.5:
        count += 1
    return count


def _span(rng: Random, data: bytearray) -> tuple[int, int]:
    """The start and end of a piece, mostly a short one."""
    start = rng.randrange(len(data) + 1)
    longest = rng.choice((1, 4, 16, 64, 1024, len(data)))
    return start, min(len(data), start + rng.randint(0, longest))


def _flip(rng: Random, data: bytearray, _) -> None:
    for _ in range(_few(rng)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_bytes(rng: Random, data: bytearray, _) -> None:
    start, end = _span(rng, data)
    data[start:end] = (
        rng.randbytes(end - start) if rng.random() < 0.7 else bytes([rng.randrange(256)]) * (end - start)
    )


def _cut(rng: Random, data: bytearray, _) -> None:
    place = rng.randrange(len(data) + 1)
    if rng.random() < 0.8:
        del data[place:]
    else:
        del data[:place]


def _remove(rng: Random, data: bytearray, _) -> None:
    start, end = _span(rng, data)
    del data[start:end]


def _repeat(rng: Random, data: bytearray, _) -> None:
    start, end = _span(rng, data)
    if end > start:
        times = min(rng.choice(_REPEATS), MOST_BYTES // (end - start))
        data[start:start] = bytes(data[start:end]) * times


def _move(rng: Random, data: bytearray, _) -> None:
    start, end = _span(rng, data)
    piece = bytes(data[start:end])
    if rng.random() < 0.5:
        del data[start:end]
    place = rng.randrange(len(data) + 1)
    data[place:place] = piece


def _insert(rng: Random, data: bytearray, mutator: Mutator) -> None:
    place = rng.randrange(len(data) + 1)
    piece = mutator.piece(rng)
    times = 1 if rng.random() < 0.8 else min(rng.choice(_REPEATS), MOST_BYTES // len(piece))
    data[place:place] = piece * times


def _number(rng: Random, data: bytearray, _) -> None:
    """An integer of 1, 2, 4 or 8 bytes; also sizes near that of the file."""
    size = rng.choice((1, 2, 4, 8))
    if len(data) < size:
        return
    place = rng.randrange(len(data) - size + 1)
    near = len(data) - place + rng.randint(-9, 9)
    value = rng.choice((rng.choice(_NUMBERS), near, rng.randrange(1 << 16))) % (1 << 8 * size)
    if rng.random() < 0.3:  # a little more or less than it was
        value = (int.from_bytes(data[place : place + size], "little") + rng.randint(-4, 4)) % (1 << 8 * size)
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "little", "big")))


def _decimal(rng: Random, data: bytearray, _) -> None:
    found = list(_DECIMAL.finditer(bytes(data[:MOST_BYTES])))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(_DECIMALS)


def _lines(rng: Random, data: bytearray, _) -> None:
    """A line taken out, doubled, or put elsewhere; or a cell of it."""
    mark = rng.choice((b"\n", b"\n", b"\t", b",", b"\x02"))
    parts = bytes(data).split(mark)
    if len(parts) < 2:
        return
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(4)
    if kind == 0:
        del parts[i]
    elif kind == 1:
        parts.insert(j, parts[i])
    elif kind == 2:
        parts[i], parts[j] = parts[j], parts[i]
    else:
        parts[i] = b""
    data[:] = mark.join(parts)


def _splice(rng: Random, data: bytearray, mutator: Mutator) -> None:
    other = rng.choice(mutator.pool)
    start, end = rng.randrange(len(other) + 1), rng.randrange(len(other) + 1)
    if rng.random() < 0.5:
        data[rng.randrange(len(data) + 1) :] = other[start:]
    else:
        place = rng.randrange(len(data) + 1)
        data[place:place] = other[min(start, end) : max(start, end)]


_CHANGES = (_flip, _set_bytes, _cut, _remove, _repeat, _move, _insert, _insert, _number, _number, _decimal,
            _lines, _splice)  # fmt: skip
