"""Files with a fault."""

from pathlib import Path


def flip_last_bit(path: Path) -> None:
    """Change the lowest bit of the last byte of a file."""
    _flip(path, -1)


def flip_middle_bit(path: Path) -> None:
    """Change the lowest bit of the byte in the middle of a file."""
    _flip(path, path.stat().st_size // 2)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
