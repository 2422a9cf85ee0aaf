"""What a run reports: sums since the last line, metrics.jsonl, and the same numbers in words."""

import json
import math
import time
from pathlib import Path
from typing import Any

from pretrain.config import OBJECTIVES
from utils.engine import Step
from utils.files import atomic_file


class Window:
    """Sums over the steps since the last log line. Saved with a checkpoint: a resumed log is the same."""

    def __init__(self, state: dict[str, Any] | None = None):
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.trained_tokens: float = state["trained_tokens"] if state else 0.0
        self.started, self.tokens_here = time.monotonic(), 0.0

    def add(self, step: Step) -> None:
        """Take in a step. A skipped one counts as skipped and adds nothing else."""
        if step.skipped:
            self.sums["skipped"] = self.sums.get("skipped", 0.0) + 1
            return
        values = step.sums | {"steps": 1.0, "grad_norm": step.grad_norm, "loss": step.loss}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.trained_tokens += step.sums["tokens"]
        self.tokens_here += step.sums["tokens"]

    def state(self) -> dict[str, Any]:
        """What `Window(state)` takes up again; the clock starts anew."""
        return {"sums": self.sums, "trained_tokens": self.trained_tokens}

    def close(self, step: int, lr: float) -> dict[str, Any]:
        """One record of the steps since the last one, and an empty window.

        Returns:
            step, lr, loss and grad_norm (means over steps), tokens (trained so far), tokens_per_second,
            skipped, and
            per objective loss (mean over masked tokens), perplexity and accuracy (over the steps that
            measured it);
            btmlm also copy_rate and repeat_rate.
        """
        sums = self.sums
        steps = max(sums.get("steps", 0.0), 1.0)
        record: dict[str, Any] = {
            "step": step, "lr": lr, "loss": sums.get("loss", 0.0) / steps, "grad_norm": sums.get("grad_norm",
            0.0) / steps,
            "tokens": self.trained_tokens, "skipped": sums.get("skipped", 0.0),
            "tokens_per_second": self.tokens_here / max(time.monotonic() - self.started, 1e-9),
        }  # fmt: skip
        for name in OBJECTIVES:
            if sums.get(f"{name}.count"):
                loss = sums[f"{name}.loss"] / sums[f"{name}.count"]
                record[name] = {"loss": loss, "perplexity": math.exp(min(loss, 50.0))}
                if sums[f"{name}.measured"]:
                    record[name]["accuracy"] = sums[f"{name}.correct"] / sums[f"{name}.measured"]
        if sums.get("pseudo"):
            record["btmlm"] |= {
                "copy_rate": sums["copied"] / sums["pseudo"], "repeat_rate": sums["repeated"] /
                sums["pseudo"],
            }  # fmt: skip
        self.sums, self.started, self.tokens_here = {}, time.monotonic(), 0.0
        return record


def in_words(record: dict[str, Any], total_steps: int, eta: str) -> str:
    """One line of the log."""
    parts = [f"step {record['step']:,} of {total_steps:,}"]
    for name in OBJECTIVES:
        if name in record:
            accuracy = f", acc {100 * record[name]['accuracy']:.1f}" if "accuracy" in record[name] else ""
            parts.append(
                f"{name} {record[name]['loss']:.4f} (ppl {record[name]['perplexity']:.1f}{accuracy})"
            )
    parts.append(f"grad {record['grad_norm']:.2f}, lr {record['lr']:.3g}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s, {eta} left")
    if record["skipped"]:
        parts.append(f"{record['skipped']:.0f} steps skipped")
    return " | ".join(parts)


def scalars(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record with dotted names, for curves."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and key != "step":
            flat[f"{prefix}{key}"] = float(value)
    return flat


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def cut_back(path: Path, step: int) -> None:
    """Drop what was written after `step`: the run goes on from there and will write it again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line cut short when the process was killed; it is the last one
            break
        if record["step"] <= step:
            kept.append(line + "\n")
    with atomic_file(path, "w") as file:
        file.writelines(kept)
