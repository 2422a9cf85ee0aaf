"""Records and log lines of the losses and scores of pre-training."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.training import distributed
from ernie_m.training.log import Interval


def make_record(interval: Interval) -> dict[str, Any]:
    """Make the entry of metrics.jsonl for the steps of a log interval.

    Its keys are step, lr (of the last step), loss and grad_norm (means over the steps; None if all steps were
    skipped), tokens (trained so far), tokens_per_second, teraflops (TFLOP/s of the model in each process,
    `ernie_m.pretrain.pretraining.count_flops`), skipped; and per objective the loss (mean over
    masked tokens), perplexity and accuracy; for btmlm also copy_rate and repeat_rate.
    """
    sums = interval.sums
    steps = sums["steps"]
    flops_per_token = sums["flops"] / max(sums["tokens"], 1)  # avoid division by 0 if all steps are skipped
    record: dict[str, Any] = {
        "step": interval.steps,
        "lr": interval.step.lr,
        "loss": sums["loss"] / steps if steps else None,
        "grad_norm": sums["grad_norm"] / steps if steps else None,
        "tokens": interval.tokens,
        "tokens_per_second": interval.tokens_per_second,
        "teraflops": interval.tokens_per_second * flops_per_token / distributed.world_size() / 1e12,
        "skipped": float(sums["skipped"]),
    }
    for name in OBJECTIVES:
        values = get_objective_class(name).compute_metrics(sums)
        if values:
            record[name] = values
    return record


def format_record(record: Mapping[str, Any], total_steps: int, remaining: str, tokens_per_epoch: int) -> str:
    """Format an entry of metrics.jsonl as a log line.

    Args:
        record: result of `make_record`.
        total_steps: number of steps of the run.
        remaining: formatted remaining time.
        tokens_per_epoch: number of tokens of the training data, for the number of epochs so far.
    """
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    parts += [get_objective_class(name).format_metrics(record[name]) for name in OBJECTIVES if name in record]
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts += [
        f"grad {norm}, lr {record['lr']:.3g}",
        f"{record['tokens_per_second']:,.0f} tokens/s, {record['teraflops']:.3g} TFLOP/s, {remaining} left",
        f"{record['tokens'] / tokens_per_epoch:.2f} epochs",
    ]
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def format_evaluation(scores: Mapping[str, Any]) -> list[str]:
    """Format the scores of an evaluation as log lines: means over languages, retrieval at every layer.

    Args:
        scores: result of `ernie_m.pretrain.evaluate.Evaluator.run`.
    """
    lines = []
    for name in OBJECTIVES:
        if scores.get(name):
            # One result per language or pair.
            lines += get_objective_class(name).format_evaluation(list(scores[name].values()))
    if "retrieval" in scores:
        layers = 100 * np.mean(list(scores["retrieval"].values()), axis=0)  # [L + 1]
        listed = ", ".join(f"layer {layer} {accuracy:.1f}" for layer, accuracy in enumerate(layers))
        counts = scores["candidates"].values()
        chance = 100 * np.mean([1 / count for count in counts])
        fewest = min(counts)
        most = max(counts)
        span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines.append(f"retrieval accuracy@1 among {span} sentences (chance {chance:.1f} %): {listed} %")
    return [f"[held-out] {line}" for line in lines]
