"""The work folder of a build. It records what is finished, so that a killed build continues.

<output>/.build/plan.json                        options and inputs; a build continues only with the same
<output>/.build/<stream>/scan-00000.json         a source that is scanned: counts of its units
<output>/.build/<stream>/scan/00000-000000       a unit: counts, hashes of its lines, keys of its documents
<output>/.build/<stream>/duplicates/000-00000    what to leave out, for one range of the keys
<output>/.build/<stream>/tokens-00000.json       a source that is tokenized: counts of its units
<output>/.build/<stream>/tokens/00000-000000     a unit: its ids
<output>/.build/<stream>/shards/train-00000.json a shard that is written: counts and checksums
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.corpus.inputs import Stream
from pretrain.corpus.options import BuildOptions
from reader.corpus import MANIFEST, read_manifest
from training.guard import only_run_in
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_file

WORK = ".build"
SCAN, TOKENS = "scan", "tokens"  # the two passes over the text
VOCABULARY_FILES = ("piece.model", "vocab.txt")


class KeySet(NamedTuple):
    """One 64-bit key for each line of a stream, or for each document of it.

    Args:
        number: of the set in each unit's file.
        kind: line or document.
        rows: number of its keys, over all units.
    """

    number: int
    kind: str
    rows: int


@dataclass
class StreamWork:
    """What workers need to know of a stream, and the paths of its results.

    Args:
        number: of the stream.
        output: folder of the corpus; absolute, because workers may run in another folder.
        units: number of units of each source. This and the next are known after the scan.
        key_sets: where duplicates are looked for.
        held_out_below: a document or pair with a smaller hash is held out.
        held_out_side: the side of a pair that is hashed for it.
    """

    number: int
    stream: Stream
    output: Path
    options: BuildOptions
    vocab_size: int
    units: list[int] = field(default_factory=list)
    key_sets: list[KeySet] = field(default_factory=list)
    held_out_below: int = 0
    held_out_side: int = 0

    def folder(self, stage: str) -> Path:
        """The folder of a stage's results."""
        return self.output / WORK / self.stream.folder / stage

    def unit_path(self, stage: str, source: int, number: int) -> Path:
        """The result of a unit."""
        return self.folder(stage) / f"{source:05d}-{number:06d}"

    def unit_paths(self, stage: str) -> list[Path]:
        """The results of all units in reading order."""
        return [
            self.unit_path(stage, source, number)
            for source, count in enumerate(self.units)
            for number in range(count)
        ]

    def counts(self, stage: str, source: int) -> list[list[int]] | None:
        """The counts of all units of a source; None if the stage has not done them all."""
        return read_json(self.folder(f"{stage}-{source:05d}.json"))

    def all_counts(self, stage: str) -> list[list[int]]:
        """The counts of all units in reading order, once the stage has done them."""
        sources = range(len(self.stream.sources))
        return [counts for source in sources for counts in self.counts(stage, source)]

    def write_counts(self, stage: str, source: int, counts: list[list[int]]) -> None:
        """Record that the stage has done all units of a source."""
        write_json(self.folder(f"{stage}-{source:05d}.json"), counts)


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
            f"{output}: holds a corpus made otherwise ({'; '.join(changed[:3])}); give another --output, or "
            "--overwrite true"
        )
    return manifest


@contextmanager
def claim(output: Path, plan: Mapping[str, Any]) -> Iterator[None]:
    """Lock the output folder for this build, new or resumed.

    Raises:
        UserError: the folder holds something else or a build with another plan, or another process is
            building there.
    """
    work = output / WORK
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not work.exists())):
        raise UserError(
            f"{output}: exists and is neither empty nor an unfinished build; give another --output"
        )
    with only_run_in(work):
        started = read_json(work / "plan.json")
        changed = differences(started, plan) if started is not None else []
        if changed:
            raise UserError(
                f"{output}: an unfinished build with other inputs or options is there "
                f"({'; '.join(changed[:3])}); run the same command as before, or start afresh with "
                "--overwrite true"
            )
        write_json(work / "plan.json", plan)
        yield


def delete_corpus(output: Path) -> None:
    """Delete a corpus or an unfinished build, and nothing else.

    Raises:
        UserError: the folder holds something else, or another process is building there.
    """
    if not output.exists():
        return
    ours = (output / MANIFEST).exists() or (output / WORK).exists()
    if not output.is_dir() or (any(output.iterdir()) and not ours):
        raise UserError(f"{output}: neither a corpus nor an unfinished build; --overwrite does not delete it")
    if (output / WORK).exists():
        with only_run_in(output / WORK):
            pass
    # The manifest goes first, so that nobody takes the rest for a corpus.
    (output / MANIFEST).unlink(missing_ok=True)
    for name in ("mono", "parallel", "pieces", "blocks", WORK):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in VOCABULARY_FILES:
        (output / name).unlink(missing_ok=True)
