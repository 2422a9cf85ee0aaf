"""Packages of translated messages."""

import struct
import zipfile
from pathlib import Path

HEADER = "Content-Type: text/plain; charset=UTF-8\n"  # under the empty id


def mo_file(messages: dict[str, str]) -> bytes:
    """A .mo file, as GNU gettext describes it."""
    location = 28 + 16 * len(messages)
    tables: list[bytes] = []
    texts = b""
    for column in zip(*sorted(messages.items())):
        for text in column:
            data = text.encode()
            tables.append(struct.pack("<2I", len(data), location + len(texts)))
            texts += data + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, 0)
    return head + b"".join(tables) + texts


def wheel(path: Path, files: dict[str, bytes | str]) -> Path:
    """Write a wheel of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
