"""The output directory of a run: lock, fingerprint and checkpoints.

    .lock            the lock of the command that writes to the directory
    run.json         fine-tuning: the fingerprint of the run: settings and digests that determine its result
    step_N/          a checkpoint (`ernie_m.training.checkpoint`)
    best/            the model of the best step so far
    selected.json    the evaluation of the best step, with a digest; written when the run is finished
    metrics.jsonl    the metrics of the run

Checkpoints are in checkpoints/ (pre-training) or in the directory itself (fine-tuning). With several seeds,
seed_<n>/ has all files except run.json.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import distributed
from ernie_m.training.best_checkpoint import BEST, SELECTED
from ernie_m.training.checkpoint import remove_old_checkpoints, write_checkpoint
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    remove,
    remove_leftovers,
    translate_write_errors,
)
from ernie_m.utils.logging import logger
from ernie_m.utils.output_lock import lock_output, write_fingerprint

RUN = "run.json"
# The outputs of fine-tuning, as patterns of whole names. A folder with any of these contains a run.
TRAINED = (r"step_\d+(\.corrupt)?", BEST, rf"{re.escape(SELECTED)}(\.digest)?", r"seed_\d+")


@dataclass(frozen=True)
class FolderRules:
    """The rules in which the output directories of pre-training and fine-tuning differ.

    Attributes:
        ways_out: advice about an output directory that contains another run, for messages.
        contents: regular expressions that match the whole names of a run's files, in the order in which
            overwriting removes them. Other files belong to the user.
        steps_folder: subfolder of the checkpoints; "": the directory itself.
        may_differ: regular expression of the keys of the fingerprint that may differ from those of the run in
            another directory that a run continues.
    """

    ways_out: str
    contents: Sequence[str]
    steps_folder: str = ""
    may_differ: str = ""


class OutputDir:
    """The output directory of a run, or of one of its seeds.

    Args:
        path: path of the directory, which is created if missing.
        rules: the rules of the command.
        keep_checkpoints: number of checkpoints to keep.
        overwrite: whether to start over, and remove the old run just before training.
        sources: files and folders that the run reads, such as initial weights, which overwriting must not
            remove.
        resume_from: checkpoint to resume from, possibly of another run, if this directory has none.
    """

    def __init__(
        self,
        path: Path,
        rules: FolderRules,
        keep_checkpoints: int,
        overwrite: bool = False,
        sources: Sequence[str] = (),
        resume_from: Path | None = None,
    ):
        self.path = path
        self.rules = rules
        self.keep_checkpoints = keep_checkpoints
        self.overwrite = overwrite
        self.sources = sources
        self.resume_from = resume_from
        self.steps_folder = path / rules.steps_folder

    def make_seed_dir(self, seed: int) -> "OutputDir":
        """Return the output directory of one of several seeds, the subfolder seed_<n>, and create it."""
        path = self.path / f"seed_{seed}"
        path.mkdir(parents=True, exist_ok=True)
        return OutputDir(path, self.rules, self.keep_checkpoints, resume_from=self.resume_from)

    # The lock and the fingerprint

    @contextmanager
    def lock(self) -> Iterator["OutputDir"]:
        """Lock the directory within a `with` block, and remove files of killed processes.

        Call this on every process.

        Raises:
            UserError: another command is using the directory, or the directory cannot be written.
        """
        with ExitStack() as lock:

            def acquire_lock() -> None:
                lock.enter_context(lock_output(self.path))
                for folder in {self.path, self.steps_folder, *self.path.glob("seed_*")}:
                    remove_leftovers(folder)

            distributed.run_on_main(translate_write_errors(self.path)(acquire_lock))
            yield self

    def check_or_write_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Write the fingerprint of a fine-tuning run to run.json, or compare it with that of an existing run.

        Args:
            fingerprint: settings and digests that determine the result, on the main process.

        Raises:
            UserError: the directory contains another run, or a run without run.json, or cannot be written.
        """
        self.remove_old_run()

        def compare_or_write() -> None:
            path = self.path / RUN
            # run.json may be of a command that stopped before its first step.
            if not self._find_files(TRAINED):
                path.unlink(missing_ok=True)
            elif not path.is_file():
                raise UserError(f"{self.path}: contains checkpoints but no {RUN}; {self.rules.ways_out}")
            write_fingerprint(path, fingerprint, self.rules.ways_out)

        distributed.run_on_main(compare_or_write)

    def remove_old_run(self) -> None:
        """Remove the old run in the directory, if `overwrite` is set.

        This is called just before training, so that a run that fails to start does not remove the old one.

        Raises:
            UserError: one of `sources` would be removed, or a file cannot be removed.
        """

        @translate_write_errors(self.path)
        def remove_contents() -> None:
            contents = self._find_files(self.rules.contents)
            for source in self.sources:
                if any(Path(source).resolve().is_relative_to(path.resolve()) for path in contents):
                    raise UserError(
                        f"overwrite would remove {source}, which the run reads. Choose "
                        "another output directory"
                    )
            for path in contents:
                remove(path)
            if contents:
                names = ", ".join(path.name for path in contents)
                logger.warning("overwrite: removed the run in %s (%s)", self.path, names)

        if self.overwrite:
            distributed.run_on_main(remove_contents)
            self.overwrite = False

    def _find_files(self, patterns: Iterable[str]) -> list[Path]:
        """Return the files whose whole names match one of the patterns, in the order of the patterns."""
        contents = sorted(self.path.glob("*"))
        return [path for pattern in patterns for path in contents if re.fullmatch(pattern, path.name)]

    # Outputs of a run

    def save_step(
        self,
        step: int,
        files: ModelFiles | None,
        arrays: Mapping[str, Any] | None,
        values: Mapping[str, Any] | None,
    ) -> Path:
        """Write the checkpoint of a step, and remove the oldest checkpoints. Call this on every process.

        Args:
            files, arrays, values: as in `write_checkpoint`.

        Returns:
            The path of the checkpoint.
        """
        folder = self.steps_folder / f"step_{step}"
        write_checkpoint(folder, files, arrays, values)
        if distributed.is_main():
            # `resume_from` may be one of the oldest. Keep it, so that the same command can be run again.
            remove_old_checkpoints(self.steps_folder, self.keep_checkpoints, protected_path=self.resume_from)
        return folder
