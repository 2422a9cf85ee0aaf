"""The folder of a run: what is in it, whose run it is, and how it is emptied for another one."""

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
CURVES, SETTINGS = "visualdl", "config.yaml"
_OF_A_RUN = (CHECKPOINTS, METRICS, FULL, ENCODER, CURVES, SETTINGS)


def open_run_folder(run: RunConfig) -> None:
    """Clear away what a killed process left in `run.output`; with `run.overwrite`, also the run in it.

    To be called once, by whoever holds the folder's lock; `run.overwrite` is false afterwards, so that the
    configuration that is saved with the run does not ask for it again.

    Raises:
        UserError: a file cannot be removed.
    """
    output, overwrite = Path(run.output), run.overwrite
    run.overwrite = False
    if not is_main():
        return
    with unwritable_is_a_user_error(output):
        clear_leftovers(output)
        clear_leftovers(output / CHECKPOINTS)
        found = [output / name for name in _OF_A_RUN if overwrite and (output / name).exists()]
        for path in found:
            remove(path)
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning("run.overwrite: removed the run that was in %s (%s)", output, names)


def check_same_run(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides what is learned: the configuration but for `FREE`, the vocabulary, the corpus.

    Args:
        folder: of the checkpoint.
        saved: `identity` of its run. Digests are missing in checkpoints of an earlier version.
        now: `identity` of this run.

    Raises:
        UserError: they differ; names the keys, or both corpora.
    """
    instead = "choose another run.output, or begin anew with --run.overwrite true"
    changed = [
        line
        for line in differences(saved["config"], now["config"])
        # keys of an earlier version decide nothing any more
        if line.partition(":")[0] not in FREE and not line.endswith("-> (absent)")
    ]
    if changed:
        raise UserError(
            f"{folder} was made with another configuration ({'; '.join(changed)}): go on with that one, "
            f"{instead}"
        )
    for what in ("vocabulary", "corpus"):
        ours, theirs = now["digests"][what], saved.get("digests", now["digests"])[what]
        if ours != theirs:
            corpora = [run["config"]["data"]["corpus"] for run in (saved, now)]
            raise UserError(
                f"{folder} was trained on another {what}: that of {corpora[0]} had the digest {theirs[:12]}, "
                f"that of data.corpus {corpora[1]} has {ours[:12]}: give the corpus of the run, {instead}"
            )


def identity(config: dict[str, Any], corpus: str, vocabulary: str) -> dict[str, Any]:
    """What `check_same_run` compares.

    Args:
        config: as `dataclasses.asdict` gives it.
        corpus, vocabulary: their digests.
    """
    return {"config": config, "digests": {"corpus": corpus, "vocabulary": vocabulary}}
