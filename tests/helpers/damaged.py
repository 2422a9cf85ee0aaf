"""Files with a fault."""

from pathlib import Path


def flip_last_bit(path: Path) -> None:
    """Change the lowest bit of the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
