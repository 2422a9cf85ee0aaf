"""Copies micro-batches to the device, computes their loss, and formats log lines of losses and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device_transfer import upload
from ernie_m.model.lm_head import MaskedLMLoss, PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.pretrain.packing import HostBatch, MicroBatch, PackedTokens, Stage1
from ernie_m.training.log import Interval

DeviceBatch = MicroBatch[PackedBatch, Tensor]


def list_sum_names() -> list[str]:
    """Return the names of the logged values that a step sums over micro-batches and processes."""
    names = [f"{name}.{what}" for name in OBJECTIVES for what in ("loss", "count", "correct")]
    return [
        *names,
        "tokens",
        *(what for name in OBJECTIVES for what in get_objective_class(name).further_sums),
    ]


def to_device(batches: Sequence[HostBatch], weights: Mapping[str, float] | None = None) -> list[DeviceBatch]:
    """Copy micro-batches to the device in one transfer. Call this under autocast.

    Args:
        weights: objective -> weight of each of its losses in the total loss; None: 1. In training, the weight
            is the mixing ratio divided by the number of the objective's losses in the whole step, so that the
            weighted losses of the step sum to mixing ratio x mean loss.
    """
    for_device: list[Any] = []  # the results, still with arrays
    for batch in batches:
        changes: dict[str, Any] = {"inputs": _make_inputs(batch.inputs)}
        if batch.stage1 is not None:
            changes["stage1"] = Stage1(**vars(batch.stage1) | {"inputs": _make_inputs(batch.stage1.inputs)})
        # A masked token counts by its objective. Objectives with a loss of their own are weighted as a whole,
        # in `compute_batch_loss`.
        if weights is not None:
            word_weights = np.zeros(len(batch.target_ids))
            for objective in batch.rows.keys() - batch.groups.keys():
                word_weights[batch.rows[objective]] = weights[objective]
            changes |= {"weights": weights, "word_weights": word_weights}
        if not len(batch.targets):
            # Paddle has no gradients of products without rows, so use any token if none is masked.
            changes["targets"] = np.zeros(1, np.int64)
        for_device.append(replace(batch, **changes))
    return upload(for_device)


def _make_inputs(packed: PackedTokens) -> PackedBatch:
    """Make the encoder's input from packed tokens, with NumPy arrays that `upload` copies to the device."""
    has_languages = (packed.language_ids != NO_LANGUAGE).any()
    language_ids = packed.language_ids if has_languages else None
    return PackedBatch.from_packed(packed.input_ids, packed.layout, packed.position_ids, language_ids)


def compute_batch_loss(model: PreTrainingModel, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor | int]]:
    """Compute the loss of a micro-batch, which may mix objectives.

    The pseudo-tokens of BTMLM sequences must have been generated (`PseudoTokenGenerator.fill_placeholders`).

    Returns:
        The weighted sum of all losses; and for each objective, such as camlm, the unweighted sum of its
        losses ("camlm.loss"), the number of correct predictions ("camlm.correct") and the number of losses
        ("camlm.count").
    """
    # One pass encodes the sequences of all objectives, and keeps the states of the targets alone.
    states = model.encode(batch.inputs, batch.targets)  # [M, H]
    total, losses, correct = compute_word_loss(model, batch, states)  # scalar, [W], bool [W]
    losses = losses.astype("float64")
    correct = correct.astype("float64")

    # The total has the masked tokens already; objectives with a loss of their own add theirs. The log gets
    # unweighted sums, which can be compared between mixing ratios.
    sums: dict[str, Tensor | int] = {}
    for objective, rows in batch.rows.items():
        if objective in batch.groups:
            own_states = paddle.gather(states, rows)
            own_loss = get_objective_class(objective).loss
            own_losses, own_correct = own_loss(model, own_states, batch.groups[objective])  # [n] each
            total = total + batch.weights.get(objective, 1.0) * own_losses.sum()
            losses_of_part = own_losses.detach().astype("float64")
            correct_of_part = own_correct.astype("float64")
        else:
            losses_of_part = paddle.gather(losses, rows)
            correct_of_part = paddle.gather(correct, rows)
        sums[f"{objective}.loss"] = losses_of_part.sum()
        sums[f"{objective}.correct"] = correct_of_part.sum()
        sums[f"{objective}.count"] = losses_of_part.shape[0]
    return total, sums


def compute_word_loss(model: PreTrainingModel, batch: DeviceBatch, states: Tensor) -> MaskedLMLoss:
    """Compute the masked-LM loss of the masked tokens of a micro-batch.

    Args:
        states: last hidden states at `batch.targets`, [M, H].
    """
    # Other targets follow. A batch without targets has one state, which is ignored.
    words = batch.target_ids.shape[0]
    if words < states.shape[0]:
        states = states[:words]
    return model.lm_head.loss(states, batch.target_ids, batch.word_weights)


def make_record(interval: Interval) -> dict[str, Any]:
    """Make the entry of metrics.jsonl for the steps of a log interval.

    Its keys are step, lr (of the last step), loss and grad_norm (means over the steps; None if all steps were
    skipped), tokens (trained so far), tokens_per_second, skipped; and per objective the loss (mean over
    masked tokens), perplexity and accuracy; for btmlm also copy_rate and repeat_rate.
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
        f"{record['tokens_per_second']:,.0f} tokens/s, {remaining} left",
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
            lines += get_objective_class(name).format_evaluation(
                list(scores[name].values())
            )  # one per language or pair
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
