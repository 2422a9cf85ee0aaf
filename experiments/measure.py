"""Measure one model of a study, and write what its tables need as JSON.

    python -m experiments.measure --model DIR --corpus DIR --data DATA --layout DIR --output FILE \
        --measures "[retrieval, xnli, ner]"

--model is the output folder of run_pretrain.py, with `xnli/` and `ner/` below it if it was fine-tuned. For
every measure and language the file has [parts, wholes]: two lists with a number for every example. A score is
the sum of the parts divided by the sum of the wholes; its error comes from the examples
(experiments/scores.py).

    measure      part of an example                                     whole of an example
    retrieval    the directions in which its translation was found      2 (experiments/three_ways.py)
    xnli         1 if it is correct, otherwise 0                        1
    ner          twice its correct entities                             its predicted plus its gold entities

So the score of ner is F1.
"""

from utils.environment import run

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.metrics import entity_scores
from finetune.tagging import read_conll
from finetune.xtreme import predicted_classes
from training.records import read_records
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import atomic_file
from utils.runtime import prepare


@dataclass
class MeasureFlags:
    """What is measured."""

    model: str
    """The output folder of run_pretrain.py."""

    corpus: str
    """Layers and language means come from its held-out pairs."""

    data: str
    """A folder with retrieval/tatoeba-style-dev."""

    layout: str
    """A folder with xnli/ and ner/, which have the gold labels."""

    output: str
    measures: list[str]
    untrained: int | None = None
    """Measure the model's shape with random weights of this seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(MeasureFlags, arguments, __doc__)
    model = Path(flags.model)
    layout = Path(flags.layout)
    prepare()
    figures: dict[str, Any] = {}
    if "retrieval" in flags.measures:
        from experiments.retrieval import measure_retrieval  # imports Paddle, which --help does not need

        pairs = Path(flags.data, "retrieval", "tatoeba-style-dev")
        figures |= measure_retrieval(model / "full", Path(flags.corpus), pairs, flags.untrained)
    if flags.untrained is None:
        if "xnli" in flags.measures:
            figures["xnli"] = xnli(layout / "xnli", model / "xnli" / "predictions")
        if "ner" in flags.measures:
            figures["ner"] = ner(model / "ner" / "predictions")
        figures["held_out"] = held_out(model / "metrics.jsonl")
    write_figures(flags.output, figures)


def write_figures(path: str | os.PathLike, figures: Mapping[str, Any]) -> None:
    """Write the figures of a model as JSON, on one line because they have a number for every example."""
    with atomic_file(path, "w") as file:
        json.dump(figures, file, separators=(",", ":"))
        file.write("\n")


def xnli(layout: Path, predictions: Path) -> dict[str, list]:
    """Language -> [parts, wholes] of its examples: 1 if the prediction is correct, otherwise 0; and 1."""
    cells = {}
    for language, path in prediction_files(predictions).items():
        predicted, labels = predicted_classes(path, layout / "dev" / f"dev.{language}.tsv")
        parts = [int(name == label) for name, label in zip(predicted, labels)]
        wholes = [1] * len(parts)
        cells[language] = [parts, wholes]
    return cells


def ner(predictions: Path) -> dict[str, list]:
    """Language -> [parts, wholes] of its sentences, whose F1 is the sum of the parts over that of the wholes.

    The files of predictions have the gold labels, too.
    """
    cells = {}
    for language, path in prediction_files(predictions).items():
        scores = [entity_scores([sentence.gold], [sentence.predicted]) for sentence in read_conll(path)]
        parts = [2 * score.correct for score in scores]
        wholes = [score.gold + score.predicted for score in scores]
        cells[language] = [parts, wholes]
    return cells


def prediction_files(folder: Path) -> dict[str, Path]:
    """Language -> the file test.<language>.tsv.<epoch>.<step> of the best step.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.glob("test.*.tsv.*[0-9]"))  # beside each there is its readable form, .jsonl
    if not files:
        raise UserError(f"{folder}: no test.<language>.tsv there; the fine-tuning has not finished")
    return {path.name.split(".")[1]: path for path in files}


def held_out(metrics: Path) -> list[dict]:
    """The held-out evaluations of a run, from its metrics.jsonl: each the step, and objective -> figures.

    BTMLM's figures have samples of text, which are left out.
    """
    evaluations = []
    for record in read_records(metrics):
        if "held_out" not in record:
            continue
        evaluation = {"step": record["step"], **record["held_out"]}
        for figures_of_pair in evaluation.get("btmlm", {}).values():
            figures_of_pair.pop("samples", None)
        evaluations.append(evaluation)
    return evaluations


if __name__ == "__main__":
    run(main)
