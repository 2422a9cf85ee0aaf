"""Held-out numbers of pre-training runs over the tokens they were trained on: a table and a picture."""

import json
import math
from pathlib import Path

import numpy as np

from utils.files import atomic_file


def held_out(folder: Path) -> list[dict]:
    """The evaluations of a run: step, tokens trained on by then, and the numbers."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    trained = [(record["step"], record["tokens"]) for record in records if "tokens" in record]
    steps, tokens = zip(*trained)
    return [
        {"tokens": float(np.interp(record["step"], steps, tokens)), **record}
        for record in records
        if "held_out" in record
    ]


def perplexity_table(runs: dict[str, list[dict]]) -> str:
    """Held-out perplexity at the first and at the last evaluation, per objective and stream, in Markdown."""
    lines = []
    for kind in ("mmlm", "tlm", "camlm"):
        names = sorted({name for found in runs.values() for name in found[-1]["held_out"].get(kind, {})})
        lines += [f"| {kind} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for run_name, found in runs.items():
            first, last = (found[i]["held_out"][kind] for i in (0, -1))
            cells = [f"{first[name]['perplexity']:.1f} to {last[name]['perplexity']:.1f}" for name in names]
            lines.append(f"| {run_name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Held-out perplexity and retrieval over the tokens trained on, one line per run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def perplexity(kind: str):
        return lambda numbers: math.exp(
            np.mean([math.log(one["perplexity"]) for one in numbers[kind].values()])
        )

    def retrieval(numbers: dict) -> float:
        return 100 * float(np.mean(list(numbers["retrieval"].values()), axis=0).max())

    panels = {
        "MMLM perplexity, held out": perplexity("mmlm"),
        "TLM perplexity, held out": perplexity("tlm"),
        "retrieval accuracy of the best layer, held out (%)": retrieval,
    }
    strategies = list(dict.fromkeys(name.rpartition("-")[0] for name in runs))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 4.5))
    for axis, (title, value) in zip(axes, panels.items()):
        for name, found in runs.items():
            strategy = name.rpartition("-")[0]
            known = {line.get_label() for line in axis.get_lines()}
            axis.plot(
                [one["tokens"] / 1e6 for one in found],
                [value(one["held_out"]) for one in found],
                marker=".",
                color=f"C{strategies.index(strategy)}",
                label=None if strategy in known else strategy,
            )
        axis.set_title(title)
        axis.set_xlabel("million tokens trained on")
        if "perplexity" in title:
            axis.set_yscale("log")
    axes[0].legend()
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
