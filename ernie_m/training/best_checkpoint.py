"""The best checkpoint of a run: when a step is better, best/, and selected.json.

    best/            the model of the best step so far
    selected.json    the evaluation of the best step, with a digest; written when the run is finished

A task says which score selects (`Evaluation.selected_by`).
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import distributed
from ernie_m.training.checkpoint import SavedRun, write_checkpoint
from ernie_m.training.log import Evaluation
from ernie_m.utils.checksums import check_format_version, matches_digest, write_digest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, read_json, write_json
from ernie_m.utils.logging import logger

BEST = "best"
SELECTED = "selected.json"
_FORMAT = 1  # of selected.json


def is_better(evaluation: Evaluation, best: Evaluation | None) -> bool:
    """Return whether an evaluation selects its step: whether its score is higher than the best one so far."""
    if evaluation.selected_by is None:
        return False
    return best is None or best.selected_by is None or evaluation.selected_by > best.selected_by


def save_best(folder: Path, files: ModelFiles | None) -> None:
    """Write the model of the best step to best/ of a run. Call this on every process; process 0 has files."""
    write_checkpoint(folder / BEST, files)


def write_selected(folder: Path, best: Evaluation) -> None:
    """Write selected.json, which marks the run as finished. Call this on every process.

    Args:
        best: the evaluation of the best step.
    """
    path = folder / SELECTED

    def write() -> None:
        write_json(path, {"format": _FORMAT, **asdict(best)})
        write_digest(path)

    distributed.run_on_main(write)


def is_finished(folder: Path) -> bool:
    """Return whether a run is finished: whether selected.json exists."""
    return (folder / SELECTED).is_file()


def read_selected(folder: Path) -> Evaluation:
    """Read the evaluation of the best step from selected.json, and check that best/ contains this step.

    Raises:
        UserError: selected.json is corrupt, or best/ is missing, corrupt or of another step.
    """
    path = folder / SELECTED
    if not matches_digest(path):
        raise UserError(f"{path}: corrupt file or checksum. Remove it and run the same command again")
    values = read_json(path)
    check_format_version(
        path, values.pop("format", None), _FORMAT, "start a new run from the weights in best/"
    )
    selected = Evaluation(**values)
    best = folder / BEST
    step = distributed.run_on_main(lambda: _parse_step(best))
    ways_out = f"remove {path} and run the same command to resume from the newest checkpoint"
    _check_best(best, step, selected.step, f". Restore that model, or {ways_out}")
    return selected


def copy_best(saved: SavedRun, folder: Path, ways_out: str) -> None:
    """Copy best/ of the run of a checkpoint to the directory of a resumed run.

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
    ways_out = f" before {saved.folder.name}. Restore that model, or {ways_out}"
    _check_best(best, step, trainer["best"]["step"], ways_out)
    distributed.run_on_main(lambda: _copy_folder(best, folder / BEST))


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
