"""The records of pre-training: losses of the objectives, and the held-out evaluation, as lines of the log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretrain.config import OBJECTIVES
from training.meter import Interval

# What a step adds up over micro-batches and processes, per objective and in all.
_OF_OBJECTIVE = ("loss", "count", "correct")
_OF_STEP = ("tokens", "pseudo", "copied", "repeated")
SUMS = [f"{objective}.{name}" for objective in OBJECTIVES for name in _OF_OBJECTIVE] + list(_OF_STEP)

_SAMPLES = 3  # sentences with pseudo-tokens in the log
# A run whose perplexity is above this share of that of the frequencies has learned little of the context.
_LEARNED = 0.5
_LARGEST_LOSS = 50.0  # of a perplexity; the exponential of a diverged run's loss would overflow


def perplexity(loss: float) -> float:
    """exp(loss) of a mean loss, at most exp(50)."""
    return math.exp(min(loss, _LARGEST_LOSS))


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
    for objective in OBJECTIVES:
        count = sums[f"{objective}.count"]
        if count:
            loss = sums[f"{objective}.loss"] / count
            accuracy = sums[f"{objective}.correct"] / count
            record[objective] = {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}
    # Sentences of [UNK] alone get pseudo-tokens but have no masked tokens, so no record of btmlm.
    if sums["pseudo"] and "btmlm" in record:
        record["btmlm"]["copy_rate"] = sums["copied"] / sums["pseudo"]
        record["btmlm"]["repeat_rate"] = sums["repeated"] / sums["pseudo"]
    return record


def line_of(record: Mapping[str, Any], total_steps: int, remaining: str, corpus_tokens: int) -> str:
    """A record as one line of the log.

    Args:
        corpus_tokens: those of the text that the run trains on; the tokens trained so far, divided by them,
            are the passes over it on average. A language that is sampled more is read more often.
    """
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    for objective in OBJECTIVES:
        if objective in record:
            values = record[objective]
            rates = f"ppl {values['perplexity']:.1f}, acc {100 * values['accuracy']:.1f}"
            parts.append(f"{objective} {values['loss']:.4f} ({rates})")
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts.append(f"grad {norm}, lr {record['lr']:.3g}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s, {remaining} left")
    parts.append(f"{record['tokens'] / corpus_tokens:.2f} passes over the corpus")
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def summary(scores: Mapping[str, Any]) -> list[str]:
    """A held-out evaluation as lines of the log: means over languages or pairs, retrieval at every layer.

    Args:
        scores: as `pretrain.evaluate.Evaluator.run` returns them.
    """
    lines = []
    for objective in ("mmlm", "tlm", "camlm"):
        results = list(scores.get(objective, {}).values())  # one for each language or pair
        if results:
            mean = _geometric_mean(results, "perplexity")
            accuracy = 100 * np.mean([result["accuracy"] for result in results])
            beside = ""
            if objective == "mmlm":
                of_frequencies = _geometric_mean(results, "frequency_perplexity")
                beside = f"; the frequencies of the pieces: {of_frequencies:.2f}"
            lines.append(
                f"{objective}: perplexity {mean:.2f} (geometric mean{beside}), accuracy {accuracy:.2f} %"
            )
    if scores.get("btmlm"):
        lines += _summary_of_btmlm(list(scores["btmlm"].values()))
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


def plateau(scores: Mapping[str, Any]) -> str | None:
    """A line with what to change if MMLM has learned little beyond the frequencies of the pieces, or None.

    A small model first learns how often each piece occurs, and much later what stands beside what.

    Args:
        scores: of a run that trains MMLM and has ended; see `summary`.
    """
    results = list(scores.get("mmlm", {}).values())
    if not results:
        return None
    mean = _geometric_mean(results, "perplexity")
    of_frequencies = _geometric_mean(results, "frequency_perplexity")
    if mean <= _LEARNED * of_frequencies:
        return None
    return (
        f"mmlm has learned little beyond the frequencies of the pieces: held-out perplexity {mean:.0f}, and "
        f"that of the frequencies {of_frequencies:.0f}. Train on more tokens (optimizer.tokens), take a "
        "smaller vocabulary, give new weights a head start (init.head_start), or begin with mmlm alone "
        "(objectives.later_shares, as in configs/pretrain/own.yaml)"
    )


def _summary_of_btmlm(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of BTMLM, given the result of each language pair."""
    lines = []
    with_perplexity = [result for result in results if "perplexity" in result]  # those with masked tokens
    if with_perplexity:
        mean = _geometric_mean(with_perplexity, "perplexity")
        without = _geometric_mean(with_perplexity, "perplexity_without")
        lines.append(f"btmlm: perplexity {mean:.2f}, without the pseudo-tokens {without:.2f}")
    rates = {
        rate: 100 * np.mean([result[rate] for result in results])
        for rate in ("precision", "frequent_precision", "copy_rate", "repeat_rate")
    }
    lines.append(
        f"btmlm: pseudo-tokens in the translation {rates['precision']:.2f} % (the most frequent words: "
        f"{rates['frequent_precision']:.2f} %), copied {rates['copy_rate']:.2f} %, "
        f"repeated {rates['repeat_rate']:.2f} %"
    )
    first_samples = [result["samples"][0] for result in results if result["samples"]]
    return lines + [f"pseudo-tokens of {sample}" for sample in first_samples[:_SAMPLES]]


def _geometric_mean(results: Sequence[Mapping[str, float]], key: str) -> float:
    return math.exp(np.mean([math.log(result[key]) for result in results]))
