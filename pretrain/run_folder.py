"""The folder of a run: its files, how they are removed, and whether a checkpoint belongs to the run."""

from pathlib import Path
from typing import Any

from model.checkpoint.step_folders import clear_leftovers
from pretrain.config import FREE, RunConfig
from utils.config import differences
from utils.errors import UserError
from utils.files import remove, unwritable_is_a_user_error
from utils.logging import logger
from utils.runtime import is_main

CHECKPOINTS, METRICS, FULL, ENCODER = "checkpoints", "metrics.jsonl", "full", "encoder"
SETTINGS = "config.yaml"


def open_run_folder(run: RunConfig) -> None:
    """Remove what a killed process left in `run.output` and, with `run.overwrite`, the run in it.

    Call it once while holding the lock of the folder. Then set `run.overwrite` to false, so that the saved
    configuration does not ask for it again.

    Raises:
        UserError: a file cannot be removed.
    """
    output = Path(run.output)
    if not is_main():
        return
    names = [CHECKPOINTS, METRICS, FULL, ENCODER, SETTINGS] if run.overwrite else []
    found = [name for name in names if (output / name).exists()]
    with unwritable_is_a_user_error(output):
        clear_leftovers(output)
        clear_leftovers(output / CHECKPOINTS)
        for name in found:
            remove(output / name)
    if found:
        logger.warning("run.overwrite: removed the run that was in %s (%s)", output, ", ".join(found))


def check_same_run(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides what the model learns: the configuration except `FREE`, vocabulary and corpus.

    Args:
        folder: of the checkpoint.
        saved: the configuration and the digests of its run. Checkpoints of an earlier version have no
            digests.
        now: those of this run, as `Trainer.identity`.

    Raises:
        UserError: they differ; names the keys, or both corpora.
    """
    instead = "choose another run.output, or begin anew with --run.overwrite true"
    changed = [
        line
        for line in differences(saved["config"], now["config"])
        # keys of an earlier version no longer decide anything
        if line.partition(":")[0] not in FREE and not line.endswith("-> (absent)")
    ]
    if changed:
        longer = (
            ". To train a finished model further, begin a new run: another run.output, --init.encoder "
            f"{folder.parents[1] / FULL} --init.lm_head encoder, and another run.seed, or it reads the same "
            "text again"
        )
        of_length = any(line.startswith(("optimizer.steps:", "optimizer.tokens:")) for line in changed)
        raise UserError(
            f"{folder} was made with another configuration ({'; '.join(changed)}): go on with that one, "
            f"{instead}{longer if of_length else ''}"
        )
    for what in ("vocabulary", "corpus"):
        ours, theirs = now["digests"][what], saved.get("digests", now["digests"])[what]
        if ours != theirs:
            old, new = (run["config"]["data"]["corpus"] for run in (saved, now))
            raise UserError(
                f"{folder} was trained on another {what}: that of {old} had the digest {theirs[:12]}, "
                f"that of data.corpus {new} has {ours[:12]}: give the corpus of the run, {instead}"
            )
