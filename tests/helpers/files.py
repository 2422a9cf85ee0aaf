"""Files: what a folder holds, a changed bit, and a full disk, for Python and for libraries in C."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_last_bit(path: Path) -> None:
    """Change the lowest bit of the last byte of a file."""
    _flip(path, -1)


def flip_middle_bit(path: Path) -> None:
    """Change the lowest bit of the byte in the middle of a file."""
    _flip(path, path.stat().st_size // 2)


def _flip(path: Path, location: int) -> None:
    content = bytearray(path.read_bytes())
    content[location] ^= 1
    path.write_bytes(content)


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """In this context no file can become larger than `size` bytes: a write beyond that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder: Path) -> list[str]:
    """The names of what lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def write_file(path: Path, content: str | bytes) -> Path:
    """Write bytes, or text in UTF-8, to a file, whose folder is made if need be; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_files(folder: Path, contents: dict[str, str | bytes]) -> Path:
    """Write files below a folder, by name, as `read_files` reads them; return the folder."""
    for name, content in contents.items():
        write_file(folder / name, content)
    return folder
