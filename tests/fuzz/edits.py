"""Changes that know a format: what they make is well formed, and wrong further in."""

import json
import pickletools
import struct
from random import Random
from typing import Any

_ODD = (None, True, False, -1, 0, 1, 3, 1 << 31, 1 << 63, 10**30, 1.5, -0.0, 1e308, float("nan"),
        float("inf"), "", " ", "a", "0", "a\nb", "\ud800", "\0", "\u2028", "x" * 300, "../x", "/", "%s", "²",
        [], {}, [[]], [0], {"": 0}, {"a": {"a": 1}})  # fmt: skip
_HOLE = "@hole@"
_DEPTHS = (10, 500, 3000, 50_000)


def json_edit(rng: Random, data: bytes) -> bytes:
    """One value of a JSON text replaced, taken out, doubled, swapped, wrapped or renamed."""
    try:
        tree = [json.loads(data.decode("utf-8-sig"))]
    except (ValueError, RecursionError):
        return data
    places = list(_places(tree))
    holder, key = rng.choice(places)
    other, name = rng.choice(places)
    kind = rng.randrange(8)
    filling = None
    if kind <= 2:
        holder[key] = rng.choice(_ODD)
    elif kind == 3 and holder is not tree:
        del holder[key]
    elif kind == 4:
        holder[key] = other[name] if rng.random() < 0.5 else [holder[key]] * rng.choice((1, 2, 100))
    elif kind == 5 and isinstance(holder, dict):
        holder[rng.choice(("", "a", "\ud800", f"{key} ", "__metadata__", "__array__"))] = holder.pop(key)
    elif kind == 6 and isinstance(holder[key], int | float):
        holder[key] += rng.choice((-1, 1, 0.5, 1 << 32))
    else:
        depth = rng.choice(_DEPTHS)
        brackets = rng.choice((("[", "]"), ('{"a":', "}")))
        filling = rng.choice((brackets[0] * depth + "1" + brackets[1] * depth, "9" * 5000, "-0", "1E400"))
        holder[key] = _HOLE
    try:
        text = json.dumps(tree[0], ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):  # it holds itself, or is deep
        return data
    if filling is not None:
        text = text.replace(json.dumps(_HOLE), filling, 1)
    return text.encode("utf-8", "surrogatepass")


def _places(tree: Any):
    """(holder, key or number) of every value; at most some thousands."""
    waiting, count = [tree], 0
    while waiting and count < 3000:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            count += 1
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def json_line_edit(rng: Random, data: bytes) -> bytes:
    """`json_edit` of one line."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    lines[i] = json_edit(rng, lines[i])
    return b"\n".join(lines)


def safetensors_edit(rng: Random, data: bytes) -> bytes:
    """`json_edit` of the header; its length is put right."""
    length = int.from_bytes(data[:8], "little")
    header = json_edit(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


_OPCODES = (b"0", b"1", b"2", b"(", b")", b"]", b"}", b"\x8f", b"N", b"\x88", b"K\x05", b"J\xff\xff\xff\xff",
            b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"\x90", b"\x91", b"R", b"b",
            b"\x81", b"Q", b"h\x00", b"q\x00", b"\x94", b"\x8c\x01a", b"C\x02ab",
            b"G" + struct.pack(">d", float("nan")),
            b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"I01\n", b"L99999999999L\n", b"cnumpy\ndtype\n",
            b"ccollections\nOrderedDict\n", b"cnumpy.core.multiarray\n_reconstruct\n", b".")  # fmt: skip


def pickle_edit(rng: Random, data: bytes) -> bytes:
    """One operation of a pickle taken out, doubled, swapped, or put in."""
    try:
        starts = [place for _, _, place in pickletools.genops(data)]
    except Exception:  # of a pickle that was changed before
        return data
    ends = [*starts[1:], starts[-1] + 1]
    parts = [data[start:end] for start, end in zip(starts, ends)]
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(4)
    if kind == 0:
        del parts[i]
    elif kind == 1:
        parts.insert(j, parts[i] * rng.choice((1, 1, 2, 500)))
    elif kind == 2:
        parts[i], parts[j] = parts[j], parts[i]
    else:
        parts.insert(i, rng.choice(_OPCODES) * rng.choice((1, 1, 1, 3, 2000)))
    return b"".join(parts) + data[ends[-1] :]


def protobuf_edit(rng: Random, data: bytes) -> bytes:
    """One field of a message taken out, doubled, moved, or its content changed; lengths are put right."""
    fields = list(_fields(data))
    if not fields:
        return data
    i = rng.randrange(len(fields))
    if rng.random() < 0.5:  # one that is not one of the many pieces
        rare = [k for k, (tag, *_) in enumerate(fields) if tag != fields[0][0]]
        i = rng.choice(rare or [i])
    tag, kind, content = fields[i]
    what = rng.randrange(4)
    if what == 0:
        del fields[i]
    elif what == 1:
        fields.insert(rng.randrange(len(fields)), fields[i])
    elif what == 2 and kind == 2:
        changed = bytearray(content)
        if rng.random() < 0.4:
            changed = bytearray(protobuf_edit(rng, content))
        for _ in range(rng.choice((1, 3, 30)) if changed else 0):
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            del changed[rng.randrange(len(changed) + 1) :]
        fields[i] = tag, kind, bytes(changed)
    elif kind == 0:
        fields[i] = tag, kind, _varint(rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 127, 1 << 31, (1 << 64) - 1)))
    elif kind in (1, 5):
        fields[i] = tag, kind, rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * len(content)
    return b"".join(
        _varint(tag) + (_varint(len(content)) if kind == 2 else b"") + content
        for tag, kind, content in fields
    )


def _fields(data: bytes):
    """(tag, wire type, content) of each field, as far as the message is one."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            start = at
            _, at = _read_varint(data, at)
        elif kind == 2:
            length, start = _read_varint(data, at)
            at = start + length
        elif kind in (1, 5):
            start, at = at, at + (8 if kind == 1 else 4)
        else:
            return
        if at > len(data):
            return
        yield tag, kind, data[start:at]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at
    return value, len(data) + 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
