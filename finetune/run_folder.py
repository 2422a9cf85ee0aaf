"""The output folder of a fine-tuning run: which run owns it, and from which step that run continues.

run.json           identity of the run: the flags that affect what is learned, digests of data and weights
step_N/, best/     checkpoints; with several seeds they are in seed_<n>/
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from finetune.flags import TrainingFlags
from model.checkpoint.read import Checkpoint, open_checkpoint
from model.checkpoint.step_folders import clear_leftovers
from model.checkpoint.training_state import load_training_state
from training import distributed
from training.checkpoint import newest_checkpoint
from training.guard import only_run_in
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_dir, read_json, remove, sha256_of, unwritable_is_a_user_error, write_json
from utils.logging import logger

RUN, SELECTED = "run.json", "selected.json"
_TRAINED = ("step_*", "best", "seed_*", SELECTED)
_REPORTED = ("results.*", "evaluation.*", "retrieval.*", "sweep.*", "predictions", "test_result*")


@contextmanager
def owned_by(flags: TrainingFlags, run: dict[str, Any]) -> Iterator[None]:
    """Lock --checkpoints for a run, and write run.json.

    Args:
        run: identity of the run, JSON values. The one of the main process counts.

    Raises:
        UserError: another run is active there, or the folder holds another run.
    """
    folder, fault = Path(flags.checkpoints), None
    with only_run_in(folder):
        if distributed.is_main():
            try:
                with unwritable_is_a_user_error(folder):
                    for place in (folder, *folder.glob("seed_*")):
                        clear_leftovers(place)
                    _claim(folder, run, flags)
            except UserError as error:
                fault = str(error)
        if fault := distributed.gather(fault)[0]:
            raise UserError(fault)
        yield


def _claim(folder: Path, run: dict[str, Any], flags: TrainingFlags) -> None:
    path, trained = folder / RUN, [found for pattern in _TRAINED for found in folder.glob(pattern)]
    advice = "choose another --checkpoints, or begin anew with --overwrite true, which removes that run"
    if flags.overwrite:
        for source in filter(None, (flags.init_checkpoint, flags.init_pretraining_params)):
            if Path(source).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"--overwrite true would remove {source}, which the run starts from")
        path.unlink(missing_ok=True)  # first: after a kill, the remains belong to no run
        for found in [*trained, *(path for pattern in _REPORTED for path in folder.glob(pattern))]:
            remove(found)
    elif trained:
        if not path.is_file():
            raise UserError(f"{folder} holds checkpoints of a run that left no {RUN} there; {advice}")
        if other := differences(read_json(path, advice), run):
            raise UserError(f"{folder} holds another run ({listed(other)}); {advice}")
        return
    write_json(path, run)


def listed(differences: Sequence[str]) -> str:
    """The first few differences in one line, with digests of 12 digits."""
    return "; ".join(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", one) for one in differences[:5])


def has_state(path: str | None) -> bool:
    """Whether training can resume from a checkpoint folder."""
    return path is not None and (Path(path) / "training_state").is_dir()


def state_of(step: str) -> dict[str, Any]:
    """Read the training state of the step folder that --init_checkpoint names."""
    saved = load_training_state(Path(step) / "training_state")
    if not {"run", "seed", "state"} <= saved.keys():
        raise UserError(
            f"{step}: the training_state there is of another program or version, so it cannot be resumed "
            "here; to start from its weights, name it with --init_pretraining_params"
        )
    return saved


def weights_of(flags: TrainingFlags, starts: Iterable[Checkpoint]) -> str:
    """Digest of the weights that training starts from. A step folder of ours has stored it.

    Args:
        starts: the checkpoints that the seeds start from; none: random weights.
    """
    if has_state(flags.init_checkpoint):
        saved = state_of(flags.init_checkpoint)
        if flags.seeds != ((seed := saved["seed"]),):
            raise UserError(f"{flags.init_checkpoint} is of --random_seed {seed}; give that one alone")
        return saved["run"]["weights"]
    different = {start.path: start for start in starts}.values()
    return ", ".join(map(digest_of_weights, different)) or "random"


def digest_of_weights(checkpoint: Checkpoint) -> str:
    """SHA-256 of the tensors, the same in every file format."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        array = checkpoint.tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str | None:
    """SHA-256 of the digests of the files, in the given order; None without files."""
    digests = "".join(map(sha256_of, paths))
    return hashlib.sha256(digests.encode()).hexdigest() if digests else None


def step_to_resume(
    folder: Path, run: dict[str, Any], init_checkpoint: str | None
) -> tuple[Path, dict[str, Any]] | None:
    """Return the step folder from which a seed continues, and its training state; None to start anew.

    It is the newest whole step in `folder`, or, if there is none, --init_checkpoint.

    Raises:
        UserError: no step in `folder` is whole, --init_checkpoint belongs to another run, or the processes
            see different folders.
    """
    newest = newest_checkpoint(folder)
    if newest and init_checkpoint and newest[0].resolve() != Path(init_checkpoint).resolve():
        logger.info("--init_checkpoint %s is not used: %s is continued", init_checkpoint, newest[0])
    if newest or not has_state(init_checkpoint):
        return newest
    named = state_of(init_checkpoint)
    if other := differences(*({**one, "random_seed": None} for one in (named["run"], run))):
        raise UserError(
            f"{init_checkpoint} is of a run with other settings ({listed(other)}); to resume give the same "
            "ones, to start a new run from its weights use --init_pretraining_params"
        )
    return Path(init_checkpoint), named


def bring_best(folder: Path, step: Path, best_step: int) -> bool:
    """Make sure that `folder/best` holds the best step so far; copy it from the folder of `step` if needed.

    Returns:
        False if it is not there: the run selected a later step before it was killed, and will again.
    """
    source, target = step.parent / "best", folder / "best"
    there = source.is_dir() and open_checkpoint(source).settings.get("step") == best_step
    if distributed.is_main() and there and source.resolve() != target.resolve():
        with atomic_dir(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    return distributed.gather(there)[0]
