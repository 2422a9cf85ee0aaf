"""The records of pre-training: losses of the objectives, and the held-out evaluation, as lines of the log."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m.pretrain.objectives import OBJECTIVES, class_of
from ernie_m.training.log import Interval

# What a step adds up over micro-batches and processes, per objective and in all.
_OF_OBJECTIVE = ("loss", "count", "correct")
SUMS = [f"{name}.{what}" for name in OBJECTIVES for what in _OF_OBJECTIVE]
SUMS += ["tokens", *(what for name in OBJECTIVES for what in class_of(name).further_sums)]


def record_of(interval: Interval) -> dict[str, Any]:
    """The record of some steps, JSON values.

    It holds step, lr (of the last step), loss and grad_norm (means over the steps; None if all were skipped),
    tokens (trained since the beginning of the run), tokens_per_second, skipped, and per objective loss (mean
    over masked tokens), perplexity and accuracy; for btmlm also copy_rate and repeat_rate.
    """
    sums = interval.sums
    steps = sums["steps"]
    record: dict[str, Any] = {
        "step": interval.steps,
        "lr": interval.step.lr,
        "loss": sums["loss"] / steps if steps else None,
        "grad_norm": sums["grad_norm"] / steps if steps else None,
        "tokens": interval.tokens,
        "tokens_per_second": interval.tokens_per_second,
        "skipped": float(sums["skipped"]),
    }
    for name in OBJECTIVES:
        values = class_of(name).record(sums)
        if values:
            record[name] = values
    return record


def line_of(record: Mapping[str, Any], total_steps: int, remaining: str, tokens_of_pass: int) -> str:
    """A record as one line of the log.

    Args:
        tokens_of_pass: the number of tokens of the text that the run reads. The tokens trained so far,
            divided by it, are the mean number of passes over the text; a language that is sampled more is
            read more often.
    """
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    parts += [class_of(name).line(record[name]) for name in OBJECTIVES if name in record]
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts += [
        f"grad {norm}, lr {record['lr']:.3g}",
        f"{record['tokens_per_second']:,.0f} tokens/s, {remaining} left",
        f"{record['tokens'] / tokens_of_pass:.2f} passes over the corpus",
    ]
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def summary(scores: Mapping[str, Any]) -> list[str]:
    """A held-out evaluation as lines of the log: means over languages or pairs, retrieval at every layer.

    Args:
        scores: as `ernie_m.pretrain.evaluate.Evaluator.run` returns them.
    """
    lines = []
    for name in OBJECTIVES:
        if scores.get(name):
            lines += class_of(name).summary(list(scores[name].values()))  # one for each language or pair
    if "retrieval" in scores:
        layers = 100 * np.mean(list(scores["retrieval"].values()), axis=0)  # [L + 1]
        listed = " ".join(f"{accuracy:.1f}" for accuracy in layers)
        counts = scores["candidates"].values()
        fewest = min(counts)
        most = max(counts)
        span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines.append(
            f"retrieval accuracy among {span} sentences from the embeddings to the top layer: {listed} %"
        )
    return [f"[held-out] {line}" for line in lines]
