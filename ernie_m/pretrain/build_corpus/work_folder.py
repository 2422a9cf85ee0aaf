"""The work folder of a build. It records what is finished, so that a killed build continues.

<output>/.build/plan.json                        options and inputs; a build continues only with the same
<output>/.build/<stream>/scan-00000.json         a source that is scanned: counts of its units
<output>/.build/<stream>/scan/00000-000000       a unit: counts, hashes of its lines
<output>/.build/<stream>/duplicates/00000        the lines to leave out, for one range of the hashes
<output>/.build/held_out.npy                     the held-out texts; always made again
<output>/.build/<stream>/tokens-00000.json       a source that is tokenized: counts of its units
<output>/.build/<stream>/tokens/00000-000000     a unit: its ids
<output>/.build/<stream>/shards/train-00000.json a shard that is written: counts and checksums

Each of these but the plan and the held-out texts has a checksum beside it, NAME.digest. A build that is
continued makes damaged results again.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ernie_m.pretrain.build_corpus.inputs import Stream
from ernie_m.pretrain.build_corpus.options import BuildOptions
from ernie_m.reader.corpus import read_manifest
from ernie_m.training.claim import check_identity, claim_file, only_run_in
from ernie_m.utils.checksums import MANIFEST, is_whole
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_json, write_json

WORK = ".build"
PLAN = "plan.json"
# The two passes over the text.
SCAN = "scan"
TOKENS = "tokens"
VOCABULARY_FILES = ("piece.model", "vocab.txt")


@dataclass
class StreamWork:
    """What workers need to know of a stream, and the paths of its results.

    Args:
        number: the number of the stream.
        output: folder of the corpus; absolute, because workers may run in another folder.
        vocab_size: V.
        units_per_source: number of units of each source. This and the following are known after the scan.
        lines: number of lines or pairs of the stream.
        held_out_below: a document or pair with a smaller hash is held out.
        held_out_side: the side of a pair that is hashed for it.
        keeps_all: whether lines are trained on although their text is held out elsewhere.
    """

    number: int
    stream: Stream
    output: Path
    options: BuildOptions
    vocab_size: int
    units_per_source: list[int] = field(default_factory=list)
    lines: int = 0
    held_out_below: int = 0
    held_out_side: int = 0
    keeps_all: bool = False

    def folder(self, stage: str) -> Path:
        """The folder of a stage's results."""
        return self.output / WORK / self.stream.folder / stage

    def unit_path(self, stage: str, source: int, number: int) -> Path:
        """The result of a unit."""
        return self.folder(stage) / f"{source:05d}-{number:06d}"

    def unit_paths(self, stage: str) -> list[Path]:
        """The results of all units in reading order."""
        paths = []
        for source, count in enumerate(self.units_per_source):
            paths += [self.unit_path(stage, source, number) for number in range(count)]
        return paths

    def counts_file(self, stage: str, source: int) -> Path:
        """The file with the counts of all units of a source; it exists once the stage has done them."""
        return self.folder(f"{stage}-{source:05d}.json")

    def is_done(self, stage: str, source: int) -> bool:
        """Whether a stage has done a source, and all of its results are as they were written."""
        counts_file = self.counts_file(stage, source)
        if not is_whole(counts_file):
            return False
        units = len(read_json(counts_file))
        return all(is_whole(self.unit_path(stage, source, number)) for number in range(units))

    def counts(self, stage: str) -> list[list[list[int]]]:
        """The counts of each unit of each source in reading order, once the stage has done them.

        What a unit's counts are is the stage's matter: `scan_unit` and `tokenize_unit` return them.
        """
        return [read_json(self.counts_file(stage, source)) for source in range(len(self.stream.sources))]


def finished_manifest(output: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest in `output` if it was made with this plan; None if there is no manifest.

    Raises:
        UserError: the corpus was made from other inputs or with other options.
    """
    if not (output / MANIFEST).exists():
        return None
    manifest = read_manifest(output)
    made_with = {key: manifest.get(key) for key in plan}
    check_identity(output, made_with, plan, "give another --output, or --overwrite true")
    return manifest


@contextmanager
def claimed(output: Path, plan: Mapping[str, Any]) -> Iterator[None]:
    """Lock the output folder for this build, new or resumed.

    Raises:
        UserError: the folder holds something else or a build with another plan, or another process is
            building there.
    """
    work = output / WORK
    if not _is_free(output) and not work.exists():
        raise UserError(f"{output}: is neither empty nor an unfinished build; give another --output")
    with only_run_in(work):
        claim_file(work / PLAN, plan, "run the same command as before, or start afresh with --overwrite true")
        yield


def delete_corpus(output: Path) -> None:
    """Delete a corpus or an unfinished build, and nothing else.

    The next build writes the vocabulary files anew, perhaps from these very files, so they stay. The work
    folder stays, too: by it `claimed` sees that a build may write here, whatever else is in the folder.

    Raises:
        UserError: the folder holds something else, or another process is building there.
    """
    if _is_free(output):
        return
    manifest = output / MANIFEST
    # A model has a file of this name, too, but without "pieces". The file is searched for this word and not
    # parsed, because a corpus whose manifest is damaged is deleted, too.
    is_corpus = manifest.is_file() and b'"pieces"' in manifest.read_bytes()
    if not (output / WORK).exists() and not is_corpus:
        raise UserError(f"{output}: neither a corpus nor an unfinished build; --overwrite does not delete it")
    with only_run_in(output / WORK):
        # These two come first, in case this is killed halfway. Without a manifest, no command takes the rest
        # for a corpus. With an empty plan, which no build has, no build continues the rest.
        manifest.unlink(missing_ok=True)
        write_json(output / WORK / PLAN, {})
        # Training with an earlier version left the folder `blocks`.
        for name in ("mono", "parallel", "pieces", "blocks", f"{WORK}/mono", f"{WORK}/parallel"):
            shutil.rmtree(output / name, ignore_errors=True)
        (output / WORK / PLAN).unlink()


def _is_free(output: Path) -> bool:
    """Whether a path does not exist, or is an empty folder."""
    if not output.exists():
        return True
    return output.is_dir() and not any(output.iterdir())
