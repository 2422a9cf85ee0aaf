"""Measure trainings that began from one model, and add their figures to its JSON.

    DATA=/where/the/data/is python -m experiments.starts --output docs/results/starts/pre-trained-1.json \\
        --layout output/layout --after "['all<=output/pairs', 'xnli<=output/nli', 'ner<=output/panx']"

Of a folder of run_retrieval.py come "tatoeba" and "ntrex" with the name that stands before "<=": the
translations that its best model finds among Tatoeba's 1,000 and among the 1,997 sentences of NTREX, by cosine
and, in "tatoeba margin" and "ntrex margin", by margin. XNLI's and PAN-X's have a measure of their own for
English, which was trained on. experiments/measure.py says what a figure is.
"""

from utils.environment import run

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.retrieval import found_by_cosine, found_by_margin
from experiments.measure import held_out, ner, xnli
from inference.loading import load
from inference.tasks import TaskOptions, make
from reader.bitext import Sentences
from training.records import METRICS
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.runtime import prepare


@dataclass
class StartsFlags:
    """What is measured."""

    output: str
    layout: str = ""
    """A folder with xnli/, which has the gold labels."""

    after: list[str] = field(default_factory=list)
    """name<=folder of run_retrieval.py; measure<=folder of run_classifier.py (a measure that begins with
    xnli) or run_sequence_labeling.py; held_out<=folder of run_pretrain.py, the model itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(StartsFlags, arguments, __doc__)
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    prepare(quiet=True)
    measures: dict[str, Any] = {}
    evaluations = []
    for item in flags.after:
        name, arrow, folder = item.partition("<=")
        if not (name and arrow and folder):
            raise UserError(f"--after '{item}': give name<=folder")
        predictions = Path(folder, "predictions")
        if Path(folder, "retrieval.json").is_file():
            measures |= search(name, Path(folder), Path(os.environ["DATA"]))
        elif Path(folder, METRICS).is_file():
            evaluations = held_out(Path(folder, METRICS))
        elif name.startswith("xnli"):
            measures[name] = xnli(Path(flags.layout, "xnli"), predictions)
        else:
            measures[name] = ner(predictions)
    add_figures(Path(flags.output), measures, evaluations)


def add_figures(
    path: Path, measures: Mapping[str, Mapping[str, Any]], evaluations: Sequence[Mapping] = ()
) -> None:
    """Add measures to the JSON of a model. English, which was trained on, gets a measure of its own.

    Args:
        evaluations: the held-out ones of its pre-training.
    """
    figures = read_json(path) if path.is_file() else {}
    if evaluations:
        figures["held_out"] = evaluations
    for measure, cells in measures.items():
        figures[measure] = {language: cell for language, cell in cells.items() if language != "en"}
        if "en" in cells:
            figures[f"{measure} en"] = {"en": cells["en"]}
    with atomic_file(path, "w") as file:
        json.dump(figures, file, separators=(",", ":"))
        file.write("\n")


def search(name: str, folder: Path, data: Path) -> dict[str, dict[str, Any]]:
    """The measures of a training on pairs: language -> the directions in which each is found, and 2 for each.

    Args:
        folder: the output of run_retrieval.py, whose languages are searched.
    """
    encode = make("encode", load(folder / "best"), TaskOptions())
    languages = read_json(folder / "retrieval.json")["tables"][0]["mean"].keys() - {"avg"}
    measures: dict[str, dict[str, Any]] = {}
    for language in sorted(languages):
        tatoeba = data / "retrieval/tatoeba-style-dev" / f"{language}-en.en"
        for test, english in (("tatoeba", tatoeba), ("ntrex", data / "pretrain/parallel-multiway/ntrex.en")):
            src = encode.vectors([*Sentences(english.with_suffix(f".{language}")).texts()])  # [N, H]
            tgt = encode.vectors([*Sentences(english).texts()])
            for way, find in (("", found_by_cosine), (" margin", found_by_margin)):
                directions = find(src, tgt).tolist()
                cells = [directions, [2] * len(directions)]
                measures.setdefault(f"{test}{way} {name}", {})[language] = cells
    return measures


if __name__ == "__main__":
    run(main)
