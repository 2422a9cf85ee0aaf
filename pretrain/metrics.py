"""The numbers of a run: sums since the last line of the log, made into a record, and a record in words."""

import math
import time
from typing import Any

from pretrain.config import OBJECTIVES
from training.engine import Step


class Window:
    """Sums over the steps since the last record. A checkpoint holds them: a resumed run has the same log.

    Args:
        state: of another window, to go on from; the clock starts anew.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.trained_tokens: float = state["trained_tokens"] if state else 0.0
        self._restart_clock()

    def add(self, step: Step) -> None:
        """Take in a step. A skipped one counts as skipped and adds nothing else."""
        if step.skipped:
            self.sums["skipped"] = self.sums.get("skipped", 0.0) + 1
            return
        values = {**step.sums, "steps": 1.0, "grad_norm": step.grad_norm, "loss": step.loss}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.trained_tokens += step.sums["tokens"]
        self._tokens_since += step.sums["tokens"]

    def state(self) -> dict[str, Any]:
        """What `Window(state)` takes up again."""
        return {"sums": dict(self.sums), "trained_tokens": self.trained_tokens}

    def close(self, step: int, lr: float) -> dict[str, Any]:
        """One record of the steps since the last one, and an empty window.

        Returns:
            step, lr, loss and grad_norm (means over steps; None if all were skipped), tokens (trained so
            far), tokens_per_second, skipped, and per objective loss (mean over masked tokens), perplexity and
            accuracy (over the steps that measured it); btmlm also copy_rate and repeat_rate.
        """
        sums, steps = self.sums, self.sums.get("steps", 0.0)
        record: dict[str, Any] = {
            "step": step,
            "lr": lr,
            "loss": sums["loss"] / steps if steps else None,
            "grad_norm": sums["grad_norm"] / steps if steps else None,
            "tokens": self.trained_tokens,
            "tokens_per_second": self._tokens_since / max(time.monotonic() - self._clock, 1e-9),
            "skipped": sums.get("skipped", 0.0),
        }
        for name in OBJECTIVES:
            if sums.get(f"{name}.count"):
                loss = sums[f"{name}.loss"] / sums[f"{name}.count"]
                record[name] = {"loss": loss, "perplexity": math.exp(min(loss, 50.0))}
                if sums[f"{name}.measured"]:
                    record[name]["accuracy"] = sums[f"{name}.correct"] / sums[f"{name}.measured"]
        if sums.get("pseudo"):
            for rate, count in (("copy_rate", "copied"), ("repeat_rate", "repeated")):
                record["btmlm"][rate] = sums[count] / sums["pseudo"]
        self.sums = {}
        self._restart_clock()
        return record

    def _restart_clock(self) -> None:
        self._clock, self._tokens_since = time.monotonic(), 0.0


def in_words(record: dict[str, Any], total_steps: int, eta: str) -> str:
    """A record as one line of the log."""
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    for name in OBJECTIVES:
        if name in record:
            found = record[name]
            accuracy = f", acc {100 * found['accuracy']:.1f}" if "accuracy" in found else ""
            parts.append(f"{name} {found['loss']:.4f} (ppl {found['perplexity']:.1f}{accuracy})")
    norm = "-" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    parts.append(f"grad {norm}, lr {record['lr']:.3g}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s, {eta} left")
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def scalars(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record with their place as name ("held_out/mmlm/de/perplexity"), for curves."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and key != "step":
            flat[f"{prefix}{key}"] = float(value)
    return flat
