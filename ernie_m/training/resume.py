"""Resuming a run: from which checkpoint, and which state of the training loop is saved and restored."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ernie_m.training.best_checkpoint import copy_best
from ernie_m.training.checkpoint import SavedRun, read_last_checkpoint, read_state
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, Meter
from ernie_m.training.output_dir import OutputDir
from ernie_m.utils.logging import logger
from ernie_m.utils.output_lock import check_fingerprint


@dataclass
class LoopState:
    """The state of the training loop that a checkpoint has besides the engine's.

    Attributes:
        position: position in the training data, `StepData.position`; None: at the beginning.
        evaluated_step: last step after which the model was evaluated; -1: none.
        best: evaluation of the best step so far; None: none.
        meter: sums of the current log interval.
    """

    position: Any = None
    evaluated_step: int = -1
    best: Evaluation | None = None
    meter: Meter = field(default_factory=Meter)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, which `restore` reads."""
        return {
            "position": self.position,
            "evaluated": self.evaluated_step,
            "best": self.best and asdict(self.best),
            "window": dict(self.meter.sums),  # since the last log line
            "tokens": self.meter.tokens,
        }


def find_saved_run(folder: OutputDir, fingerprint: Mapping[str, Any]) -> SavedRun | None:
    """Read the checkpoint to resume from: the last complete one, or `OutputDir.resume_from`.

    Call this on every process.

    Returns:
        The checkpoint; None: the run starts at its first step.

    Raises:
        UserError: all checkpoints are corrupt, the checkpoint belongs to another run, or best/ does not
            contain the best step of the run.
    """
    other = folder.resume_from
    saved = None if folder.overwrite else read_last_checkpoint(folder.steps_folder)
    if saved is None:
        if other is None:
            return None
        saved = SavedRun(other, *read_state(other))
        saved.values["identity"] |= {
            key: value for key, value in fingerprint.items() if re.fullmatch(folder.rules.may_differ, key)
        }
    elif other is not None and other.resolve() != saved.folder.resolve():
        logger.info("resuming from %s, not from %s", saved.folder, other)
    check_fingerprint(saved.folder, saved.values["identity"], fingerprint, folder.rules.ways_out)
    copy_best(saved, folder.path, folder.rules.ways_out)
    return saved


def restore(saved: SavedRun, engine: Engine) -> LoopState:
    """Restore the engine from a checkpoint, and return the state of the loop.

    The loop continues with the counters that it saved, so that no text is read twice or left out.
    """
    engine.load_state_dict({**saved.values["engine"], "optimizer": saved.arrays})
    state = saved.values["trainer"]  # from `LoopState.to_json`
    best = None if state["best"] is None else Evaluation(**state["best"])
    return LoopState(state["position"], state["evaluated"], best, Meter(state["window"], state["tokens"]))
