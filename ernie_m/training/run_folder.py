"""The output folder of a run: who writes there, which run it holds, and where that run goes on.

    .lock            held by the command that writes there
    run.json         fine-tuning: the identity of the run, the settings and digests that decide its result
    step_N/          checkpoints: model, training state and identity
    best/            the model of the best step so far
    selected.json    the evaluation of the best step, beside it its digest; written when the run is finished
    metrics.jsonl    the records of the run

The step folders are in checkpoints/ (pre-training) or in the folder itself (fine-tuning). With several seeds,
each has all but run.json in seed_<n>/.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import distributed
from ernie_m.training.checkpoint import STATE, keep_last, newest_step, read_state, write_checkpoint
from ernie_m.training.claim import check_identity, claim_file, only_run_in
from ernie_m.training.log.evaluation import Evaluation
from ernie_m.utils.checksums import is_whole, write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    atomic_dir,
    clear_leftovers,
    read_json,
    remove,
    unwritable_is_a_user_error,
    write_json,
)
from ernie_m.utils.logging import logger

RUN = "run.json"
BEST = "best"
SELECTED = "selected.json"
# What fine-tuning leaves, as patterns of whole names. A folder with any of these holds a run.
TRAINED = (r"step_\d+(\.damaged)?", BEST, rf"{re.escape(SELECTED)}(\.digest)?", r"seed_\d+")
_KEYS = {"identity", "seed", "engine", "trainer"}  # the keys of a training state


@dataclass(frozen=True)
class FolderRules:
    """What differs between the run folders of pre-training and of fine-tuning.

    Attributes:
        ways_out: what a user can do about another run, the end of a message.
        contents: regular expressions for the whole names of everything that a run leaves in the folder, in
            the order in which overwriting removes it. Other files are the user's.
        steps_folder: the sub-folder of the step folders; "" is the folder itself.
    """

    ways_out: str
    contents: Sequence[str]
    steps_folder: str = ""


class SavedRun(NamedTuple):
    """The training state in a step folder.

    Attributes:
        folder: the step folder.
        arrays: the moments and master weights of `ernie_m.training.engine.Engine`.
        counters: the numbers of the engine, such as its steps.
        identity: the identity of the run.
        seed: the seed that was trained.
        trainer_state: where the run stood: see the attributes of `ernie_m.training.run.Trainer`.
    """

    folder: Path
    arrays: dict[str, np.ndarray]
    counters: dict[str, Any]
    identity: dict[str, Any]
    seed: int
    trainer_state: dict[str, Any]


class RunFolder:
    """The output folder of a run, or of one of its seeds.

    Args:
        path: made if it is missing.
        rules: the rules of the command.
        keep_checkpoints: the number of step folders that are kept.
        overwrite: begin anew. The run in the folder is removed when the new one has begun.
        sources: files and folders that the run reads, such as the weights that it starts from. Overwriting
            must not remove them.
        resume_from: a step folder, perhaps of another run folder, to go on from if there is none here.
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

    def of_seed(self, seed: int) -> "RunFolder":
        """The folder of one of several seeds. `overwrite` removes it together with the whole folder."""
        path = self.path / f"seed_{seed}"
        path.mkdir(parents=True, exist_ok=True)
        return RunFolder(path, self.rules, self.keep_checkpoints, resume_from=self.resume_from)

    # Who writes here, and which run the folder holds

    @contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """Keep other commands out, and clear what killed processes left. Call it on every process.

        Raises:
            UserError: another command writes here, or the folder cannot be written.
        """
        with ExitStack() as lock:

            def take() -> None:
                lock.enter_context(only_run_in(self.path))
                with unwritable_is_a_user_error(self.path):
                    for folder in {self.path, self.steps_folder, *self.path.glob("seed_*")}:
                        clear_leftovers(folder)

            distributed.on_main(take)
            yield self

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Compare the run with run.json if a run has left something here; otherwise write run.json.

        Args:
            identity: what the run is; the value of the main process counts.

        Raises:
            UserError: the folder holds another run, or one without run.json; or it cannot be written.
        """
        self.remove_old_run()

        def compare_or_write() -> None:
            path = self.path / RUN
            if not self._named(TRAINED):  # run.json may be of a command that stopped before its first step
                path.unlink(missing_ok=True)
            elif not path.is_file():
                raise UserError(
                    f"{self.path} holds checkpoints of a run that left no {RUN} there; {self.rules.ways_out}"
                )
            claim_file(path, identity, self.rules.ways_out)

        distributed.on_main(compare_or_write)

    def remove_old_run(self) -> None:
        """With `overwrite`, remove the run in the folder, once.

        It is called when the new run is about to train: one that cannot begin leaves the old one alone.

        Raises:
            UserError: one of `sources` would be removed, or a file cannot be removed.
        """
        if self.overwrite:
            distributed.on_main(self._remove_contents)
            self.overwrite = False

    def _remove_contents(self) -> None:
        """The work of `remove_old_run` on the main process."""
        contents = self._named(self.rules.contents)
        for source in self.sources:
            if any(Path(source).resolve().is_relative_to(path.resolve()) for path in contents):
                raise UserError(
                    f"overwrite would remove {source}, which the run reads; choose another folder for the run"
                )
        with unwritable_is_a_user_error(self.path):
            for path in contents:
                remove(path)
        if contents:
            names = ", ".join(path.name for path in contents)
            logger.warning("overwrite: removed the run that was in %s (%s)", self.path, names)

    def _named(self, patterns: Iterable[str]) -> list[Path]:
        """What has a name of one of the patterns, in their order."""
        contents = sorted(self.path.glob("*"))
        named = []
        for pattern in patterns:
            named += [path for path in contents if re.fullmatch(pattern, path.name)]
        return named

    # Where the run goes on

    def resume(self, identity: Mapping[str, Any]) -> SavedRun | None:
        """Find the step folder from which the run goes on. Call it on every process.

        It is the newest whole step folder, or else `resume_from`.

        Returns:
            None if the run begins with its first step.

        Raises:
            UserError: no step folder is whole; the one to go on from belongs to another run (the message says
                what differs); or best/ is not the best step of its run.
        """
        newest = None if self.overwrite else newest_step(self.steps_folder)
        if newest is not None:
            saved = _saved_run(*newest)  # the step folder, its arrays and its values
            if self.resume_from is not None and self.resume_from.resolve() != saved.folder.resolve():
                logger.info("%s is not used: the run goes on from %s", self.resume_from, saved.folder)
        elif self.resume_from is not None:
            saved = read_step(self.resume_from)
        else:
            return None
        check_identity(saved.folder, saved.identity, identity, self.rules.ways_out)
        return saved._replace(trainer_state=self._with_best(saved))

    def _with_best(self, saved: SavedRun) -> dict[str, Any]:
        """Copy best/, which is beside the step folder, into this folder.

        Returns:
            The state of the trainer. If best/ is of a step after the last evaluation that the state knows,
            the run was killed when it had selected that step. It will select it again, so the state is
            returned without a best step.

        Raises:
            UserError: best/ is missing, or was replaced. Another step would be selected without it.
        """
        if saved.trainer_state["best"] is None:
            return saved.trainer_state
        best = saved.folder.parent / BEST
        selected_step = saved.trainer_state["best"]["step"]
        step_of_best = distributed.on_main(lambda: _step_of(best))
        if step_of_best is not None and step_of_best > saved.trainer_state["evaluated"]:
            logger.info("%s is of step %d: the run goes on from before it", best, step_of_best)
            # -1, no evaluation: the step of the folder is evaluated again, too.
            return saved.trainer_state | {"best": None, "evaluated": -1}
        if step_of_best != selected_step:
            fault = "is not there" if step_of_best is None else f"is of step {step_of_best}"
            raise UserError(
                f"{best} {fault}, but the run selected step {selected_step} before {saved.folder.name}: put "
                f"that model back, or {self.rules.ways_out}"
            )
        distributed.on_main(lambda: _copy(best, self.path / BEST))
        return saved.trainer_state

    # What a run writes

    def save_step(
        self,
        step: int,
        files: ModelFiles | None,
        arrays: Mapping[str, Any] | None,
        values: Mapping[str, Any] | None,
    ) -> Path:
        """Write a step folder, and remove the oldest ones. The arguments are those of `write_checkpoint`."""
        folder = self.steps_folder / f"step_{step}"
        write_checkpoint(folder, files, arrays, values)
        if distributed.is_main():
            # `resume_from` may be one of the oldest. It stays, so that the same command can be given again.
            keep_last(self.steps_folder, self.keep_checkpoints, always=self.resume_from)
        return folder

    def save_best(self, files: ModelFiles | None) -> None:
        """Write best/. Call it on every process; only process 0 has files."""
        write_checkpoint(self.path / BEST, files)

    def finish(self, best: Evaluation) -> None:
        """Write selected.json: the run is finished. Call it on every process."""
        path = self.path / SELECTED

        def write() -> None:
            write_json(path, asdict(best))
            write_digest(path)

        distributed.on_main(write)

    def is_finished(self) -> bool:
        """Whether there is a selected.json."""
        return (self.path / SELECTED).is_file()

    def selected(self) -> Evaluation:
        """Read selected.json, and compare best/ with it.

        Raises:
            UserError: it is not as `finish` wrote it, or best/ is missing, damaged or of another step.
        """
        path = self.path / SELECTED
        if not is_whole(path):
            raise UserError(
                f"{path}: damaged, or the checksum beside it is; remove it, and the same command makes it "
                "again"
            )
        selected = Evaluation(**read_json(path))
        best = self.path / BEST
        step = distributed.on_main(lambda: _step_of(best))
        if step != selected.step:
            fault = "is not there" if step is None else f"is of step {step}"
            raise UserError(
                f"{best} {fault}, but the run selected step {selected.step}: put that model back, or remove "
                f"{path}, and the same command goes on from the newest checkpoint"
            )
        return selected


def has_state(path: Path) -> bool:
    """Whether training can go on from a checkpoint folder."""
    return (path / STATE).is_dir()


def read_step(folder: Path) -> SavedRun:
    """Read the training state of a step folder.

    Raises:
        UserError: it is missing, damaged, or of another revision.
    """
    return _saved_run(folder, *read_state(folder))


def _saved_run(folder: Path, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> SavedRun:
    """The training state that was read from a step folder.

    Raises:
        UserError: it is of another revision.
    """
    are_sections = all(isinstance(values.get(key), dict) for key in _KEYS - {"seed"})
    if values.keys() != _KEYS or not are_sections:
        raise UserError(
            f"{folder}: its {STATE} was written by another version of this project, which alone goes on with "
            "it. The weights load, convert and evaluate here as before, and a new run can start from them"
        )
    return SavedRun(
        folder,
        arrays,
        counters=values["engine"],
        identity=values["identity"],
        seed=values["seed"],
        trainer_state=values["trainer"],
    )


def _step_of(model: Path) -> int | None:
    """The step of a model that a run wrote; None if there is no folder."""
    return open_checkpoint(model).settings.get("step") if model.is_dir() else None


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, unless it is there already. The copy appears whole or not at all."""
    if source.resolve() != target.resolve():
        with atomic_dir(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
