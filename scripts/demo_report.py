"""What the demo reports: translations found, a table of a row per start, a picture of both."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle

from evaluation.encode import encode
from evaluation.retrieval import choose_on_half
from finetune.report import in_columns
from model.checkpoint.folder import load_from
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.tokenization import Tokenizer
from scripts.sample.languages import CODES

Rows = Mapping[str, Mapping[str, float]]  # start -> language -> per cent

COLOURS = {"scratch": "#bbbbbb", "mmlm": "#ccbb44", "full": "#4477aa"}


def translations_found(sample: Path, shape: Path, seed: int, weights: Path | None = None) -> dict[str, float]:
    """How often the nearest sentence, by cosine of the means over tokens, is the translation.

    The layer is chosen on one half of the sentences; the other half is reported, the mean of both directions.

    Args:
        sample: the sample set, for its vocabulary and its sentences to retrieve.
        shape: ernie_config.json.
        seed: of the random weights.
        weights: an encoder's folder; None leaves the random weights.

    Returns:
        language -> per cent, of all but English.
    """
    paddle.seed(seed)
    model, tokenizer = ErnieMModel(ErnieMConfig.from_json(shape)), Tokenizer.from_folder(sample)
    if weights:
        load_from(model, weights)

    def vectors(path: Path) -> np.ndarray:
        ids = tokenizer.encode_batch(path.read_text(encoding="utf-8").splitlines())
        return encode(model, [np.array([tokenizer.cls_id, *line, tokenizer.sep_id]) for line in ids])

    found = {}
    for code in CODES[1:]:
        src, tgt = (vectors(sample / "retrieval" / f"{code}-en.{side}") for side in (code, "en"))
        found[code] = 100 * float(choose_on_half(src, tgt).mean)
    return found


def mean(row: Mapping[str, float]) -> float:
    """Over the languages that are not English, with two decimals."""
    return round(float(np.mean([value for code, value in row.items() if code != "en"])), 2)


def table(rows: Rows) -> str:
    """A line per start, a column per language, then the mean over those that are not English."""
    codes = list(next(iter(rows.values())))
    lines = [["", *codes, "mean"]]
    lines += [
        [start, *(f"{row[code]:.1f}" for code in codes), f"{mean(row):.1f}"] for start, row in rows.items()
    ]
    return in_columns(lines)


def draw(zero_shot: Rows, retrieval: Rows, path: Path) -> Path:
    """Bars per language, one for each start; chance as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2)
    for axis, rows in ((upper, zero_shot), (lower, retrieval)):
        for place, (start, row) in enumerate(rows.items()):
            left = np.arange(len(row)) + (place - 1) * 0.27
            bars = axis.bar(left, list(row.values()), width=0.26, color=COLOURS[start], label=start)
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_xticks(np.arange(len(row)), list(row))
        axis.set(ylabel="per cent", ylim=(0, 108))
    upper.axhline(100 / 3, color="#cc6677", linewidth=1, label="chance")
    upper.set_title("Accuracy after fine-tuning on English only")
    lower.set_title("Translations found, to and from English")
    upper.legend(fontsize=8, ncols=4)
    figure.savefig(path, dpi=120)
    return path
