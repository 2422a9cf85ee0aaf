"""Corrupt files as hypothesis strategies: bytes changed at random, and changes that keep a file's format."""

import json
import pickletools
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hypothesis import strategies as st

MOST_BYTES = 1 << 17  # of a corrupt file
# Changes the content of a file so that it still has its format, or leaves it as it is.
Edit = Callable[[Random, bytes], bytes]

# What damage writes into a file: bytes, values of JSON, operations of pickles, words of YAML.
WORDS: dict[str, tuple] = {
    "bytes": (
        b"\0", b"\n", b"\r\n", b"\t", b" ", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"\\", b"{",
        b"[", b"]", b"}", b",", b":", b"\x1b[31m", b"\x02", b"../", b"null", b"\\ud800", b"<", b"&", b"-1",
        b"1e999", b"NaN", b"9" * 5000, "\u2028".encode(), "\u0663".encode(), b"\xff" * 8, bytes(8),
    ),
    "json": (
        None, True, -1, 0, 1, 3, 1 << 31, 1 << 63, 10**30, 1.5, float("nan"), float("inf"), "", " ", "a", "0",
        "a\nb", "\ud800", "\0", "\u2028", "x" * 300, "../x", "/", [], {}, [[]], {"": 0},
    ),
    "pickle": (
        b"0", b"2", b"(", b")", b"]", b"}", b"N", b"K\x05", b"J\xff\xff\xff\xff", b"\x85", b"\x87", b"t",
        b"l", b"d", b"a", b"e", b"s", b"u", b"R", b"b", b"\x81", b"Q", b"h\x00", b"q\x00", b"\x94",
        b"\x8c\x01a", b"C\x02ab", b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"I01\n", b"cnumpy\ndtype\n", b".",
        b"ccollections\nOrderedDict\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    ),
    "yaml": (
        b"&a ", b"*a", b"<<: ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!set ", b"? ", b"- ", b": ",
        b"!!python/object:x.y ", b"---\n", b"%YAML 9.9\n", b"2001-99-99", b"1:99:99", b".inf", b"{a: ",
        b"|\n",
    ),
}  # fmt: skip


@st.composite
def corrupted(draw: st.DrawFn, files: list[bytes], edit: Edit | None, words: tuple[bytes, ...] = ()) -> bytes:
    """One of `files` after one to four changes.

    Args:
        edit: makes half of the changes; the others are changes of bytes.
        words: what the format is made of. Half of the bytes that are written into a file are of these, and
            half of `WORDS["bytes"]`.
    """
    data = draw(st.sampled_from(files))
    random = draw(st.randoms(use_true_random=False))
    for _ in range(random.randint(1, 4)):
        if edit is not None and random.random() < 0.5:
            data = edit(random, data)
        else:
            data = change_bytes(random, data, random.choice((WORDS["bytes"], words or WORDS["bytes"])))
    return data[:MOST_BYTES]


def change_bytes(random: Random, data: bytes, pieces: tuple[bytes, ...]) -> bytes:
    """Make one change at a random offset: flip a bit, cut the file, remove, repeat, move or write bytes."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((1, 4, 16, 1024)))
    span = data[start:end]
    rest = data[end:]
    piece = random.choice(pieces)
    flipped = bytes(byte ^ (1 << random.randrange(8)) for byte in span[:1])  # empty at the end of the data
    repeated = span * random.choice((2, 300, 60_000 // max(len(span), 1)))
    changed = (  # what follows data[:start]
        flipped + span[1:] + rest,
        b"",  # cut
        rest,  # without the span
        repeated + rest,
        rest[: len(span)] + span + rest[len(span) :],  # swapped with what follows
        piece + span + rest,  # inserted
        piece + data[start + len(piece) :],  # overwritten
    )
    return data[:start] + random.choice(changed)


def edit_json(random: Random, data: bytes) -> bytes:
    """Remove, swap, rename or replace one value of a JSON text, possibly by one that is nested too deeply."""
    try:
        # In a list, so that the outermost value has a place.
        tree = [json.loads(data.decode("utf-8-sig"))]
        locations = list(_places(tree))
        holder, key = random.choice(locations)
        partner, partner_key = random.choice(locations)
        text_for_hole = ""
        change = ("remove", "swap", "rename", "replace by text", "replace")[random.randrange(5)]
        if change == "remove" and holder is not tree:
            del holder[key]
        elif change == "swap":
            value = holder[key]
            holder[key] = partner[partner_key]
            partner[partner_key] = value
        elif change == "rename" and isinstance(holder, dict):
            holder[random.choice(("", "a", "\ud800", f"{key} ", "__metadata__"))] = holder.pop(key)
        elif change == "replace by text":  # which json.dumps would not write
            lists = "[" * 50_000 + "]" * 50_000
            objects = '{"a":' * 500 + "1" + "}" * 500
            text_for_hole = random.choice((lists, objects, "9" * 5000, "1E400"))
            holder[key] = "@hole@"
        else:  # also where nothing can be removed or renamed
            holder[key] = random.choice(WORDS["json"])
        changed = json.dumps(tree[0], ensure_ascii=random.random() < 0.5)
    except (ValueError, RecursionError):  # already corrupt, or a swap has put a value into itself
        return data
    return changed.replace('"@hole@"', text_for_hole, 1).encode("utf-8", "surrogatepass")


def _places(holder: dict | list) -> Iterator[tuple[Any, Any]]:
    """Where every value is: the dict or list that holds it, and its key or index there."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def edit_json_line(random: Random, data: bytes) -> bytes:
    """Change one line of a file of JSON lines by `edit_json`."""
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    lines[index] = edit_json(random, lines[index])
    return b"\n".join(lines)


def edit_safetensors(random: Random, data: bytes) -> bytes:
    """Change the header by `edit_json`, and write its new length before it."""
    length = int.from_bytes(data[:8], "little")
    header = edit_json(random, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def edit_pickle(random: Random, data: bytes) -> bytes:
    """Remove, repeat or insert an operation of a pickle, or swap it with another."""
    try:
        starts = [location for _, _, location in pickletools.genops(data)]
    except Exception:  # already corrupt
        return data
    ends = [*starts[1:], starts[-1] + 1]  # the last operation, STOP, has one byte
    operations = [data[start:end] for start, end in zip(starts, ends)]
    i = random.randrange(len(operations))
    j = random.randrange(len(operations))
    change = ("remove", "repeat", "swap", "insert")[random.randrange(4)]
    if change == "remove":
        del operations[i]
    elif change == "repeat":
        operations.insert(j, operations[i] * random.choice((1, 2, 500)))
    elif change == "swap":
        operations[i], operations[j] = operations[j], operations[i]
    else:
        operations.insert(i, random.choice(WORDS["pickle"]) * random.choice((1, 3, 2000)))
    return b"".join(operations) + data[ends[-1] :]
