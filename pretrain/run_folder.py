"""The folder of a run: what is in it, whether a checkpoint belongs to the run, and the run's records."""

import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.checkpoint.step_folders import clear_leftovers
from pretrain.config import FREE, FRESH, FROM_ENCODER, OBJECTIVES, SCRATCH, PretrainConfig
from training import distributed
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_file, remove, sync_file, unwritable_is_a_user_error
from utils.logging import Progress, logger

if TYPE_CHECKING:
    from training.engine import Step

CHECKPOINTS, METRICS, FULL, ENCODER = "checkpoints", "metrics.jsonl", "full", "encoder"
SETTINGS = "config.yaml"
HELD_OUT = "held_out"  # a record's key
_SAMPLES = 3  # sentences with pseudo-tokens in the log


def clear_run_folder(output: Path) -> None:
    """Clear what killed processes left. Every process calls this before it looks for a checkpoint."""
    if distributed.is_main():
        with unwritable_is_a_user_error(output):
            clear_leftovers(output)
            clear_leftovers(output / CHECKPOINTS)
    distributed.barrier()


def remove_old_run(config: PretrainConfig) -> None:
    """With `run.overwrite`, remove the run in `run.output`.

    Raises:
        UserError: `init` names a part of the run that would be removed, or a file cannot be removed.
    """
    output = Path(config.run.output)
    names = [CHECKPOINTS, METRICS, FULL, ENCODER, SETTINGS] if config.run.overwrite else []
    for source in {config.init.encoder, config.init.lm_head} - {SCRATCH, FRESH, FROM_ENCODER}:
        if any(Path(source).resolve().is_relative_to((output / name).resolve()) for name in names):
            raise UserError(f"run.overwrite would remove {source}, which init names; choose another output")
    if not distributed.is_main():
        return
    found = [name for name in names if (output / name).exists()]
    with unwritable_is_a_user_error(output):
        for name in found:
            remove(output / name)
    if found:
        logger.warning("run.overwrite: removed the run that was in %s (%s)", output, ", ".join(found))


def check_same_run(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides what the model learns: the configuration except `FREE`, vocabulary and corpus.

    Args:
        folder: of the checkpoint.
        saved: the configuration and the digests of its run.
        now: those of this run, as `Trainer.identity`.

    Raises:
        UserError: they differ; names the keys, or both corpora.
    """
    instead = "choose another run.output, or begin anew with --run.overwrite true"
    found = differences(saved["config"], now["config"])
    changed = [line for line in found if line.partition(":")[0] not in FREE]
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
        ours, theirs = (run["digests"][what] for run in (now, saved))
        if ours != theirs:
            old, new = (run["config"]["data"]["corpus"] for run in (saved, now))
            raise UserError(
                f"{folder} was trained on another {what}: that of {old} had the digest {theirs[:12]}, "
                f"that of data.corpus {new} has {ours[:12]}: give the corpus of the run, {instead}"
            )


class Journal:
    """The records of a run: metrics.jsonl and lines of the log. For a `with` statement.

    Every process makes one; the main process writes.

    Args:
        output: the folder of the run; gets metrics.jsonl.
        done: completed steps. Records of later steps are dropped, because they will be written again.
        total: steps of the run.
        state: from the checkpoint that the run continues from.

    Attributes:
        evaluated: the step of the last evaluation; -1: there was none.
    """

    def __init__(self, output: Path, done: int, total: int, state: dict[str, Any] | None = None):
        self.path, self.total = output / METRICS, total
        state = state or {"window": {"sums": {}, "trained_tokens": 0.0}, "evaluated": -1}
        # Sums over the steps since the last record. Checkpoints hold them, so a resumed run has the same log.
        self.sums: Counter[str] = Counter(state["window"]["sums"])
        self.trained_tokens: float = state["window"]["trained_tokens"]
        self.evaluated: int = state["evaluated"]
        self._clock, self._tokens_before = time.monotonic(), self.trained_tokens
        if distributed.is_main():
            dropped = cut_back(self.path, done, self.evaluated)
            if dropped and not done:
                logger.warning(
                    "%s: no checkpoint: the run begins at step 0, and the %d records of %s are dropped",
                    output, dropped, METRICS,
                )  # fmt: skip
        self.bar = Progress(total, "pre-training", initial=done, unit="steps", lines=False)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def add(self, step: "Step") -> None:
        """Add a step. A skipped step counts as skipped and adds nothing else."""
        values = {**step.sums, "steps": 1.0, "grad_norm": step.grad_norm, "loss": step.loss}
        if step.skipped:
            values = {"skipped": 1.0}
        self.sums.update(values)
        self.trained_tokens += values.get("tokens", 0.0)
        self.bar.update()

    def write_line(self, at: int, lr: float, evaluations: int = 0) -> None:
        """Write a record of the steps since the last line, up to step `at`, whose learning rate is `lr`.

        The line of the log also has the remaining time with the `evaluations` to come.

        The record holds step, lr, loss and grad_norm (means over steps; None if all were skipped), tokens
        (trained so far), tokens_per_second, skipped, and per objective loss (mean over masked tokens),
        perplexity and accuracy; btmlm also copy_rate and repeat_rate.
        """
        sums, steps, now = self.sums, self.sums["steps"], time.monotonic()
        record: dict[str, Any] = {
            "step": at,
            "lr": lr,
            "loss": sums["loss"] / steps if steps else None,
            "grad_norm": sums["grad_norm"] / steps if steps else None,
            "tokens": self.trained_tokens,
            "tokens_per_second": (self.trained_tokens - self._tokens_before) / max(now - self._clock, 1e-9),
            "skipped": float(sums["skipped"]),
        }
        for name in OBJECTIVES:
            if count := sums[f"{name}.count"]:
                loss, accuracy = sums[f"{name}.loss"] / count, sums[f"{name}.correct"] / count
                perplexity = math.exp(min(loss, 50.0))
                record[name] = {"loss": loss, "perplexity": perplexity, "accuracy": accuracy}
        if sums["pseudo"] and "btmlm" in record:  # a sentence of [UNK] alone has no targets
            record["btmlm"]["copy_rate"] = sums["copied"] / sums["pseudo"]
            record["btmlm"]["repeat_rate"] = sums["repeated"] / sums["pseudo"]
        self.sums, self._clock, self._tokens_before = Counter(), now, self.trained_tokens
        self._write(record, [in_words(record, self.total, self.bar.eta(evaluations))])

    def write_evaluation(self, at: int, result: dict[str, Any] | None) -> None:
        """Write the held-out evaluation after step `at`. None means that it was interrupted."""
        if result is not None:
            self.evaluated = at
            self._write({"step": at, HELD_OUT: result}, summary(result))

    def write_finished(self) -> None:
        """Say that the run is finished, and repeat the last held-out evaluation."""
        logger.info("the run is finished: all %d steps are done, and its models are exported", self.total)
        results = [record[HELD_OUT] for record, _ in _records(self.path) if record and HELD_OUT in record]
        for line in summary(results[-1]) if results else ():
            logger.info("%s", line)

    def state(self) -> dict[str, Any]:
        """For the checkpoint. Everything that was written is synced to disk first."""
        if distributed.is_main() and self.path.is_file():
            sync_file(self.path)
        window = {"sums": dict(self.sums), "trained_tokens": self.trained_tokens}
        return {"window": window, "evaluated": self.evaluated}

    def _write(self, record: dict[str, Any], lines: list[str]) -> None:
        if not distributed.is_main():
            return
        for line in lines:
            logger.info("%s", line)
        with unwritable_is_a_user_error(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def in_words(record: dict[str, Any], total_steps: int, eta: str) -> str:
    """A record as one line of the log."""
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    for name in OBJECTIVES:
        if found := record.get(name):
            rates = f"ppl {found['perplexity']:.1f}, acc {100 * found['accuracy']:.1f}"
            parts.append(f"{name} {found['loss']:.4f} ({rates})")
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts.append(f"grad {norm}, lr {record['lr']:.3g}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s, {eta} left")
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def summary(result: dict[str, Any]) -> list[str]:
    """A held-out evaluation as lines of the log: means over languages or pairs, retrieval at every layer."""
    lines = []
    for kind in ("mmlm", "tlm", "camlm"):
        if values := list(result.get(kind, {}).values()):
            perplexity, accuracy = _geometric(values, "perplexity"), np.mean([v["accuracy"] for v in values])
            lines.append(
                f"{kind}: perplexity {perplexity:.2f} (geometric mean), accuracy {100 * accuracy:.2f} %"
            )
    if values := list(result.get("btmlm", {}).values()):
        if measured := [v for v in values if "perplexity" in v]:
            seen, unseen = (_geometric(measured, key) for key in ("perplexity", "perplexity_without"))
            lines.append(f"btmlm: perplexity {seen:.2f}, without the pseudo-tokens {unseen:.2f}")
        rates = ("precision", "frequent_precision", "copy_rate", "repeat_rate")
        found, frequent, copied, repeated = (100 * np.mean([v[rate] for v in values]) for rate in rates)
        lines.append(
            f"btmlm: pseudo-tokens in the translation {found:.2f} % (the most frequent words: "
            f"{frequent:.2f} %), copied {copied:.2f} %, repeated {repeated:.2f} %"
        )
        samples = [sample for v in values for sample in v["samples"][:1]]
        lines += [f"pseudo-tokens of {sample}" for sample in samples[:_SAMPLES]]
    if "retrieval" in result:
        layers = 100 * np.mean(list(result["retrieval"].values()), axis=0)  # [L + 1]
        shown = " ".join(f"{value:.1f}" for value in layers)
        lines.append(f"retrieval accuracy from the embeddings to the top layer: {shown} %")
    return [f"[held-out] {line}" for line in lines]


def _geometric(values: list[dict[str, float]], key: str) -> float:
    return math.exp(np.mean([math.log(value[key]) for value in values]))


def cut_back(path: Path, step: int, evaluated: int) -> int:
    """Drop the records that will be written again, and lines that a kill or a full disk cut short.

    Args:
        path: of metrics.jsonl, which need not exist.
        step: drop records of later steps.
        evaluated: drop evaluations after this step.

    Returns:
        The number of dropped records.
    """
    records = _records(path)
    kept = [
        line + b"\n"
        for record, line in records
        if record and record["step"] <= (evaluated if HELD_OUT in record else step)
    ]
    if records:
        with atomic_file(path) as file:
            file.writelines(kept)
    return len(records) - len(kept)


def _records(path: Path) -> list[tuple[dict[str, Any] | None, bytes]]:
    """Each line and its record; None if a kill or a failing disk cut it short."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [(_record(line), line) for line in lines if line.strip()]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
