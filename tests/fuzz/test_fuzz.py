"""A corrupt file is read, or refused by one line that names it, within 256 MiB of memory.

The environment variable FUZZ_EXAMPLES gives the number of corrupt files for each reader, drawn again in each
run; without it they are few and always the same.
"""

import os
import resource
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ernie_m.utils.errors import UserError
from tests.fuzz.damage import corrupted
from tests.fuzz.found import FAULTY_FILES
from tests.fuzz.readers import READERS

MEMORY = 256 << 20  # bytes of address space that a reader may add
EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 20)),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def short_command_line(monkeypatch) -> None:
    """Errors may repeat the command line, which pytest may have begun with any number of paths."""
    monkeypatch.setattr("sys.argv", ["ernie-m"])


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Within this context the process can get MEMORY more bytes; beyond them there is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refusals(name: str, path: Path, folder: Path) -> list[str]:
    """Read a file in each way that a reader has, and return the errors of those that refuse it.

    An error is one line, or one for each error, without control characters or surrogates; it names the file.
    """
    messages = []
    for read in READERS[name].reads:
        try:
            with bounded_memory():
                read(path)
        except UserError as error:
            message = str(error)
            # The errors of a file have a line each, indented below the first.
            categories = {unicodedata.category(character) for character in message.replace("\n  ", "")}
            assert 0 < len(message.strip()) < 3000, message
            assert not categories & {"Cc", "Cs", "Zl", "Zp"}, message  # control, surrogate, line separators
            assert path.name in message or str(folder) in message, message
            messages.append(message)
    return messages


def prepare(name: str, folder: Path) -> tuple[Path, list[bytes]]:
    """The path of the file that will be corrupted, and its valid contents."""
    path = folder / READERS[name].file
    path.parent.mkdir(parents=True, exist_ok=True)
    files = READERS[name].files
    if callable(files):
        files = files(folder)
    return path, [file.encode() if isinstance(file, str) else file for file in files]


@pytest.mark.parametrize("name", READERS)
def test_corrupt_file_is_read_or_rejected_in_one_line(name, tmp_path):
    path, files = prepare(name, tmp_path)

    @EXAMPLES
    @given(corrupted(files, READERS[name].edit, READERS[name].words))
    def check(data):
        path.write_bytes(data)
        refusals(name, path, tmp_path)

    check()


@pytest.mark.parametrize("name", FAULTY_FILES)
def test_reject_files_that_once_showed_a_bug(name, tmp_path):
    path, _ = prepare(name, tmp_path)
    for error, data in FAULTY_FILES[name].items():
        path.write_bytes(data)
        assert refusals(name, path, tmp_path), error


# What Git LFS puts instead of a file that it has not fetched.
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
# A part of a file, and files that come from a server: no repository has a pointer of these.
IN_NO_REPOSITORY = ("torch_pickle", "zip", "tar", "messages")


@pytest.mark.parametrize("name", [name for name in READERS if name not in IN_NO_REPOSITORY])
def test_name_git_lfs_pointers(name, tmp_path):
    """The command that fetches the file stands in the error of each way to read it."""
    path, _ = prepare(name, tmp_path)
    path.write_bytes(POINTER)
    messages = refusals(name, path, tmp_path)
    assert ["git lfs pull" in message for message in messages] == [True] * len(READERS[name].reads)


def test_a_reader_that_takes_too_much_memory_is_seen():
    with pytest.raises(MemoryError), bounded_memory():
        bytearray(16 * MEMORY)  # more than earlier tests of the process have freed
