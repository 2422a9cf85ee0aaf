"""The work folder of a build. It records what is finished, so that a killed build continues.

<output>/.build/plan.json                        options and inputs; a build continues only with the same
<output>/.build/<stream>/scan-00000.json         a source that is scanned: counts of its units
<output>/.build/<stream>/scan/00000-000000       a unit: counts, hashes of its lines, keys of its documents
<output>/.build/<stream>/duplicates/000-00000    what to leave out, for one range of the keys
<output>/.build/<stream>/tokens-00000.json       a source that is tokenized: counts of its units
<output>/.build/<stream>/tokens/00000-000000     a unit: its ids
<output>/.build/<stream>/shards/train-00000.json a shard that is written: counts and checksums
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.corpus.inputs import Stream
from reader.corpus import MANIFEST, read_manifest
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_file, unwritable_is_a_user_error

_FOLDER = ".build"
VOCABULARY_FILES = ("piece.model", "vocab.txt")


class WorkFolder:
    """The paths in the work folder of a corpus.

    Args:
        output: folder of the corpus.
    """

    def __init__(self, output: Path):
        self.output = output.absolute()  # workers may run in another folder
        self.path = self.output / _FOLDER

    def of(self, stream: Stream, stage: str) -> Path:
        """The folder of a stage's results for a stream."""
        return self.path / stream.folder / stage

    def record(self, stream: Stream, stage: str, source: int) -> Path:
        """The file with the results of all units of a source; it exists once the stage has done them all."""
        return self.path / stream.folder / f"{stage}-{source:05d}.json"


def unit_path(folder: Path, source: int, number: int) -> Path:
    """A unit's result in the folder of a stage."""
    return folder / f"{source:05d}-{number:06d}"


def unit_paths(folder: Path, units: Sequence[int]) -> list[Path]:
    """All units of a stream in reading order, given the number of units of each source."""
    return [unit_path(folder, source, number) for source, n in enumerate(units) for number in range(n)]


def write_json(path: Path, values: Any) -> None:
    """Write readable JSON, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(values, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any | None:
    """What `write_json` wrote; None if the file does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def finished_manifest(output: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest in `output` if it was made with this plan; None if there is no manifest.

    Raises:
        UserError: the corpus was made from other inputs or with other options.
    """
    if not (output / MANIFEST).exists():
        return None
    manifest = read_manifest(output)
    changed = differences({key: manifest.get(key) for key in plan}, plan)
    if changed:
        raise UserError(
            f"{output}: holds a corpus made otherwise ({_first(changed)}); give another --output, or "
            "--overwrite true"
        )
    return manifest


@contextmanager
def claim(output: Path, plan: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """Lock the output folder for this build, new or resumed.

    Raises:
        UserError: the folder holds something else or a build with another plan, or another process is
            building there.
    """
    work = WorkFolder(output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not work.path.exists())):
        raise UserError(
            f"{output}: exists and is neither empty nor an unfinished build; give another --output"
        )
    with unwritable_is_a_user_error(work.path):
        work.path.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        started = read_json(work.path / "plan.json")
        changed = differences(started, plan) if started is not None else []
        if changed:
            raise UserError(
                f"{output}: an unfinished build with other inputs or options is there ({_first(changed)}); "
                "run the same command as before, or start afresh with --overwrite true"
            )
        write_json(work.path / "plan.json", plan)
        yield work


def delete_work(output: Path) -> None:
    """Delete the work folder of a finished corpus."""
    shutil.rmtree(output / _FOLDER, ignore_errors=True)


def delete_corpus(output: Path) -> None:
    """Delete a corpus or an unfinished build, and nothing else.

    Raises:
        UserError: the folder holds something else, or another process is building there.
    """
    if not output.exists():
        return
    ours = (output / MANIFEST).exists() or (output / _FOLDER).exists()
    if not output.is_dir() or (any(output.iterdir()) and not ours):
        raise UserError(f"{output}: neither a corpus nor an unfinished build; --overwrite does not delete it")
    if (output / _FOLDER).exists():
        with _locked(WorkFolder(output)):
            pass
    # The manifest goes first, so that nobody takes the rest for a corpus.
    (output / MANIFEST).unlink(missing_ok=True)
    for name in ("mono", "parallel", "pieces", "blocks", _FOLDER):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in VOCABULARY_FILES:
        (output / name).unlink(missing_ok=True)


@contextmanager
def _locked(work: WorkFolder) -> Iterator[None]:
    with open(work.path / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{work.output}: another process is building there; wait for it or stop it"
            ) from error
        yield  # closing the file ends the lock, and so does the end of the process


def _first(changed: list[str]) -> str:
    return "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
