"""The output directory of a run: lock, fingerprint, checkpoints, and resuming.

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
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import distributed
from ernie_m.training.checkpoint import (
    SavedRun,
    read_last_checkpoint,
    read_state,
    remove_old_checkpoints,
    write_checkpoint,
)
from ernie_m.training.log import Evaluation
from ernie_m.utils.checksums import check_format_version, matches_digest, write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    atomic_dir,
    read_json,
    remove,
    remove_leftovers,
    translate_write_errors,
    write_json,
)
from ernie_m.utils.logging import logger
from ernie_m.utils.output_lock import check_fingerprint, lock_output, write_fingerprint

RUN = "run.json"
BEST = "best"
SELECTED = "selected.json"
_FORMAT = 1  # of selected.json
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

    # Resuming

    def resume(self, fingerprint: Mapping[str, Any]) -> SavedRun | None:
        """Read the checkpoint to resume from: the last complete one, or `resume_from`.

        Call this on every process.

        Returns:
            The checkpoint; None: the run starts at its first step.

        Raises:
            UserError: all checkpoints are corrupt, the checkpoint belongs to another run, or best/ does not
                contain the best step of the run.
        """
        saved = None if self.overwrite else read_last_checkpoint(self.steps_folder)
        if saved is None:
            if self.resume_from is None:
                return None
            saved = SavedRun(self.resume_from, *read_state(self.resume_from))
            saved.values["identity"] |= {
                key: value for key, value in fingerprint.items() if re.fullmatch(self.rules.may_differ, key)
            }
        elif self.resume_from is not None and self.resume_from.resolve() != saved.folder.resolve():
            logger.info("resuming from %s, not from %s", saved.folder, self.resume_from)
        check_fingerprint(saved.folder, saved.values["identity"], fingerprint, self.rules.ways_out)
        self._copy_best(saved)
        return saved

    def _copy_best(self, saved: SavedRun) -> None:
        """Copy best/ of the checkpoint's run into this directory.

        If best/ is later than the last evaluation in the training state, the run was killed just after
        selecting that step. The step will be selected again, so the trainer starts without a best step.

        Raises:
            UserError: best/ is missing, or contains a step other than that of the training state.
        """
        trainer = saved.values["trainer"]
        if trainer["best"] is None:
            return
        best = saved.folder.parent / BEST
        step = distributed.run_on_main(lambda: _parse_step(best))
        if step is not None and step > trainer["evaluated"]:
            logger.info("%s is from step %d; resuming from an earlier checkpoint", best, step)
            # -1, no evaluation: the step of the checkpoint is evaluated again as well.
            trainer.update(best=None, evaluated=-1)
            return
        ways_out = f" before {saved.folder.name}. Restore that model, or {self.rules.ways_out}"
        _check_best(best, step, trainer["best"]["step"], ways_out)
        distributed.run_on_main(lambda: _copy_folder(best, self.path / BEST))

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

    def save_best(self, files: ModelFiles | None) -> None:
        """Write the model of the best step to best/. Call this on every process; only process 0 has files."""
        write_checkpoint(self.path / BEST, files)

    def finish(self, best: Evaluation) -> None:
        """Write selected.json, which marks the run as finished. Call this on every process.

        Args:
            best: the evaluation of the best step.
        """
        path = self.path / SELECTED

        def write() -> None:
            write_json(path, {"format": _FORMAT, **asdict(best)})
            write_digest(path)

        distributed.run_on_main(write)

    def is_finished(self) -> bool:
        """Return whether the run is finished: whether selected.json exists."""
        return (self.path / SELECTED).is_file()

    def read_selected(self) -> Evaluation:
        """Read the evaluation of the best step from selected.json, and check that best/ contains this step.

        Raises:
            UserError: selected.json is corrupt, or best/ is missing, corrupt or of another step.
        """
        path = self.path / SELECTED
        if not matches_digest(path):
            raise UserError(f"{path}: corrupt file or checksum. Remove it and run the same command again")
        values = read_json(path)
        check_format_version(
            path, values.pop("format", None), _FORMAT, "start a new run from the weights in best/"
        )
        selected = Evaluation(**values)
        best = self.path / BEST
        step = distributed.run_on_main(lambda: _parse_step(best))
        ways_out = f"remove {path} and run the same command to resume from the newest checkpoint"
        _check_best(best, step, selected.step, f". Restore that model, or {ways_out}")
        return selected


def _check_best(best: Path, step: int | None, selected_step: int, ways_out: str) -> None:
    """Check that best/ contains the selected step.

    Args:
        step: the step in best/; None: best/ is missing.
        ways_out: end of the message: what the user can do.

    Raises:
        UserError: best/ is missing or contains another step.
    """
    if step != selected_step:
        error = "missing" if step is None else f"contains step {step}"
        raise UserError(f"{best}: {error}, but the run selected step {selected_step}{ways_out}")


def _parse_step(model: Path) -> int | None:
    """Return the training step of a stored model; None: the folder does not exist."""
    return open_checkpoint(model).settings.get("step") if model.is_dir() else None


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder atomically, replacing `target`, unless both are the same folder."""
    if source.resolve() != target.resolve():
        with atomic_dir(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
