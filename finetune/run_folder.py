"""The output folder of a fine-tuning run: which run owns it, and from which step that run continues.

    run.json           identity of the run: the flags that affect what is learned, digests of data and weights
    flags.yaml         all flags
    step_N/, best/     checkpoints; with several seeds they are in seed_<n>/

The same command in the same folder continues from the newest whole step. The folder of another run is
refused.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from finetune.flags import TrainingFlags
from model.checkpoint.folder import load_training_state, read_weights
from model.checkpoint.step_folders import clear_leftovers
from model.config import ErnieMConfig
from reader.tokenization import Tokenizer
from training import distributed
from training.checkpoint import newest_checkpoint
from training.guard import only_run_in
from utils.args import to_yaml
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_dir, atomic_file, read_json, remove, sha256_of, unwritable_is_a_user_error
from utils.logging import logger

RUN, SELECTED = "run.json", "selected.json"
_TRAINED = ("step_*", "best", "seed_*")  # the results of training
_WRITTEN = (
    *_TRAINED, SELECTED, "results.*", "retrieval.*", "flags.yaml", "predictions", "test_result*",
)  # fmt: skip
_MOST_DIFFERENCES = 5


def identity(
    task: str, settings: Mapping[str, Any], config: ErnieMConfig, tokenizer: Tokenizer, **digests: str | None
) -> dict[str, Any]:
    """What makes two runs the same: settings that affect what is learned, digests of data and weights."""
    model = {"model": config.to_dict(), "vocabulary": tokenizer.digest}
    return {"task": task, **settings, **model, **digests}


@contextmanager
def owned_by(flags: TrainingFlags, run: dict[str, Any]) -> Iterator[None]:
    """Lock --checkpoints for a run, and write run.json and flags.yaml.

    Args:
        run: identity of the run, JSON values. The one of the main process counts.

    Raises:
        UserError: another run is active there, the folder holds another run, or --overwrite would remove the
            weights to start from.
    """
    folder, fault = Path(flags.checkpoints), None
    with only_run_in(folder):
        if distributed.is_main():
            try:
                with unwritable_is_a_user_error(folder):
                    for place in (folder, *folder.glob("seed_*")):
                        clear_leftovers(place)
                    _claim(folder, run, flags)
                    with atomic_file(folder / "flags.yaml", "w") as file:
                        file.write(to_yaml(flags))
            except UserError as error:
                fault = str(error)
        if fault := distributed.gather(fault)[0]:
            raise UserError(fault)
        yield


def _claim(folder: Path, run: dict[str, Any], flags: TrainingFlags) -> None:
    if flags.overwrite:
        for source in filter(None, (flags.init_checkpoint, flags.init_pretraining_params)):
            if Path(source).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"--overwrite true would remove {source}, which the run starts from")
        (folder / RUN).unlink(missing_ok=True)  # first: after a kill, the remains belong to no run
        for path in [path for pattern in _WRITTEN for path in folder.glob(pattern)]:
            remove(path)
    elif any(path for pattern in _TRAINED for path in folder.glob(pattern)):
        advice = (
            "choose another --checkpoints, or begin anew with --overwrite true, which removes what that run "
            "left there"
        )
        if not (folder / RUN).is_file():
            raise UserError(f"{folder} holds checkpoints of a run that left no {RUN} there; {advice}")
        if other := differences(read_json(folder / RUN, advice), run):
            raise UserError(f"{folder} holds another run ({listed(other)}); {advice}")
        return
    with atomic_file(folder / RUN, "w") as file:
        json.dump(run, file, indent=2, ensure_ascii=False)


def listed(differences: Sequence[str]) -> str:
    """The first few differences in one line, with digests of 12 digits."""
    shown = [re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", one) for one in differences[:_MOST_DIFFERENCES]]
    if (more := len(differences) - len(shown)) > 0:
        shown.append(f"and {more} more")
    return "; ".join(shown)


def has_state(path: str | None) -> bool:
    """Whether training can resume from a checkpoint folder."""
    return path is not None and (Path(path) / "training_state").is_dir()


def state_of(step: str) -> dict[str, Any]:
    """Read the training state of the step folder that --init_checkpoint names.

    Raises:
        UserError: it is damaged, or a fine-tuning run did not write it.
    """
    try:
        saved = load_training_state(Path(step) / "training_state")
    except UserError as error:
        raise UserError(f"{error}; resume from another step folder") from error
    if not {"run", "seed", "state"} <= saved.keys():
        raise UserError(
            f"{step}: the training_state there is of another program or version, so it cannot be resumed "
            "here; to start from its weights, name it with --init_pretraining_params"
        )
    return saved


def weights_of(flags: TrainingFlags, seeds: Sequence[int]) -> str:
    """Digest of the weights that training starts from. A step folder of ours has stored it.

    Raises:
        UserError: the seed of --init_checkpoint is not among `seeds`, or the weights cannot be read.
    """
    source = flags.init_checkpoint or flags.init_pretraining_params
    if has_state(flags.init_checkpoint):
        saved, source = state_of(flags.init_checkpoint), flags.init_pretraining_params
        if saved["seed"] not in seeds:
            raise UserError(
                f"{flags.init_checkpoint} is of --random_seed {saved['seed']}, which is not among "
                f"{', '.join(map(str, seeds))}"
            )
        if len(seeds) == 1:  # otherwise the other seeds start from the beginning
            return saved["run"]["weights"]
    if not source:
        return "random"
    sources = dict.fromkeys(source.replace("%d", str(seed)) for seed in seeds)
    return ", ".join(digest_of_weights(source) for source in sources)


def digest_of_weights(path: str) -> str:
    """SHA-256 of the tensors, the same in every file format."""
    digest, weights = hashlib.sha256(), read_weights(path).weights
    for name in sorted(weights):
        array = weights[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str | None:
    """SHA-256 of the digests of the files, in the given order; None without files."""
    digests = "".join(map(sha256_of, paths))
    return hashlib.sha256(digests.encode()).hexdigest() if digests else None


def step_to_resume(
    folder: Path, run: dict[str, Any], seed: int, init_checkpoint: str | None
) -> tuple[Path, dict[str, Any]] | None:
    """Return the step folder from which a seed continues, and its training state; None to start anew.

    It is the newest whole step in `folder`, or --init_checkpoint if that is a later step of this seed.

    Raises:
        UserError: no step in `folder` is whole, --init_checkpoint belongs to another run, or the processes
            see different folders.
    """
    newest = newest_checkpoint(folder)
    if has_state(init_checkpoint) and (named := state_of(init_checkpoint))["seed"] == seed:
        if other := differences(*({**one, "random_seed": None} for one in (named["run"], run))):
            raise UserError(
                f"{init_checkpoint} is of a run with other settings ({listed(other)}); to resume give the "
                "same ones, to start a new run from its weights use --init_pretraining_params"
            )
        if newest is None or newest[1]["engine"]["steps"] < named["engine"]["steps"]:
            return Path(init_checkpoint), named
        if newest[0].resolve() != Path(init_checkpoint).resolve():
            logger.info("%s is further on than --init_checkpoint %s", newest[0], init_checkpoint)
    return newest


def bring_best(folder: Path, step: Path, best_step: int | None) -> bool:
    """Make sure that `folder/best` holds the best step so far; copy it from the folder of `step` if needed.

    A run that was killed may have selected a step after its last checkpoint. The resumed run reaches that
    step and selects it again.

    Returns:
        False if the best step is not there, so that the selection has to start anew.
    """
    if best_step is None:
        return True
    source, target = step.parent / "best", folder / "best"
    there = source.is_dir() and read_weights(source).extra.get("step") == best_step
    if distributed.is_main() and there and source.resolve() != target.resolve():
        with atomic_dir(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    if not (there := distributed.gather(there)[0]):
        logger.warning("%s is not that of step %d, the best so far: selection starts anew", source, best_step)
    return there
