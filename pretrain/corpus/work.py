"""The work folder of a build: what is finished stands there, so that a killed build goes on.

<output>/.build/plan.json                             options and inputs; a build goes on only with the same
<output>/.build/<stream>/scan/00000.json              a source that is scanned: its units, lines, documents
<output>/.build/<stream>/scan/00000-000000            counts of a unit, hashes of its lines
<output>/.build/<stream>/near/00000-000000            keys of its documents, band by band
<output>/.build/<stream>/{scan,near}-found/00000      the lines, documents to leave out, for one range of keys
<output>/.build/<stream>/tokens/00000-000000          a unit's ids
<output>/.build/<stream>/tokens.json                  all of a stream are there: their ids, what was left out
<output>/.build/<stream>/shards/train-00000.json      a shard that is written: counts and checksums
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.corpus.inputs import Stream
from reader.corpus import MANIFEST, read_manifest
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_file

FOLDER = ".build"
VOCABULARY_FILES = ("piece.model", "vocab.txt")


class Work:
    """Paths of what a build has done.

    Args:
        output: folder of the corpus.
    """

    def __init__(self, output: Path):
        self.output = output.absolute()  # workers need not run in the same folder
        self.folder = self.output / FOLDER

    def of(self, stream: Stream, stage: str) -> Path:
        """Where a stage keeps its results for a stream."""
        return self.folder / stream.folder / stage

    def scanned(self, stream: Stream, source: int) -> Path:
        """The record of a source that is scanned."""
        return self.of(stream, "scan") / f"{source:05d}.json"


def unit_path(folder: Path, source: int, number: int) -> Path:
    """A unit's result in the folder of a stage."""
    return folder / f"{source:05d}-{number:06d}"


def unit_paths(folder: Path, units: Sequence[int]) -> list[Path]:
    """All units of a stream in reading order, given the number of units of each source."""
    return [
        unit_path(folder, source, number) for source, count in enumerate(units) for number in range(count)
    ]


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people to read too, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(values, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any | None:
    """What `write_json` wrote; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def finished_manifest(output: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest that is in `output` already, made by this very plan; None where there is none.

    Raises:
        UserError: a corpus made from other inputs or with other options is there.
    """
    if not (output / MANIFEST).exists():
        return None
    manifest = read_manifest(output)
    changed = differences({key: manifest.get(key) for key in plan}, plan)
    if changed:
        raise UserError(
            f"{output}: holds a corpus made otherwise ({_few(changed)}); give another --output, or "
            "--overwrite true"
        )
    return manifest


@contextmanager
def claim(output: Path, plan: Mapping[str, Any]) -> Iterator[Work]:
    """Hold the output folder for this build alone, new or resumed.

    Raises:
        UserError: the folder holds something else, a build with another plan, or another process builds
            there.
    """
    work = Work(output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not work.folder.exists())):
        raise UserError(
            f"{output}: exists and is neither empty nor an unfinished build; give another --output"
        )
    work.folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(work)
    try:
        started = read_json(work.folder / "plan.json")
        changed = differences(started, plan) if started is not None else []
        if changed:
            raise UserError(
                f"{output}: an unfinished build with other inputs or options is there ({_few(changed)}); "
                "run the same command as before, or start afresh with --overwrite true"
            )
        write_json(work.folder / "plan.json", plan)
        yield work
    finally:
        os.close(lock)


def forget(output: Path) -> None:
    """Delete the work folder of a corpus that is finished."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)


def discard(output: Path) -> None:
    """Delete a corpus or an unfinished build, and nothing else.

    Raises:
        UserError: the folder holds something that is neither, or another process builds there.
    """
    if not output.exists():
        return
    ours = (output / MANIFEST).exists() or (output / FOLDER).exists()
    if not output.is_dir() or (any(output.iterdir()) and not ours):
        raise UserError(f"{output}: neither a corpus nor an unfinished build; --overwrite does not delete it")
    if (output / FOLDER).exists():
        os.close(_lock(Work(output)))
    # The manifest first: from then on nobody takes the rest for a corpus.
    (output / MANIFEST).unlink(missing_ok=True)
    for name in ("mono", "parallel", "pieces", "blocks", FOLDER):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in VOCABULARY_FILES:
        (output / name).unlink(missing_ok=True)


def _lock(work: Work) -> int:
    """Lock a work folder; the lock ends with its file being closed, or with the process."""
    lock = os.open(work.folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(
            f"{work.output}: another process is building there; wait for it or stop it"
        ) from error
    return lock


def _few(changed: list[str]) -> str:
    return "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
