"""Measure trainings that began from one model, and add their figures to its JSON.

    DATA=/where/the/data/is python -m experiments.starts --output docs/results/head_start/counted-1.json \\
        --layout output/layout --after "['all<=output/sentences', 'xnli<=output/nli', 'ner<=output/panx']"

A training on pairs called NAME gets the measures "tatoeba NAME" and "ntrex NAME": the translations that its
best model finds by cosine among Tatoeba's 1,000 and NTREX's 1,997 sentences; those of "tatoeba margin NAME"
and "ntrex margin NAME" are found by margin. XNLI and PAN-X have a measure of their own for English, which was
trained on. experiments/measure.py says what a figure is.
"""

from utils.environment import run

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.retrieval import found_by_cosine, found_by_margin
from experiments.measure import held_out, ner, write_figures, xnli
from experiments.real_data import data_folder
from experiments.study import named_folder
from inference.loading import load
from inference.tasks import TaskOptions, make
from reader.bitext import read_bitext
from training.records import METRICS
from utils.command_line import load_config
from utils.files import read_json
from utils.runtime import prepare


@dataclass
class StartsFlags:
    """What is measured."""

    output: str
    after: list[str]
    """name<=folder. The folder of "held_out" is that of run_pretrain.py, the model itself; of a name that
    begins with "xnli" or "ner" that of run_classifier.py or run_sequence_labeling.py; of others ("all"
    and the numbers of pairs that experiments/tables.py has) that of run_retrieval.py."""

    layout: str = ""
    """A folder with xnli/, which has the gold labels."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(StartsFlags, arguments, __doc__)
    data = data_folder()
    prepare(quiet=True)
    measures: dict[str, Any] = {}
    for item in flags.after:
        name, folder = named_folder("--after", item)
        if name == "held_out":
            measures[name] = held_out(folder / METRICS)
        elif name.startswith("xnli"):
            measures[name] = xnli(Path(flags.layout, "xnli"), folder / "predictions")
        elif name.startswith("ner"):
            measures[name] = ner(folder / "predictions")
        else:
            measures |= search(name, folder, data)
    add_figures(Path(flags.output), measures)


def add_figures(path: Path, measures: Mapping[str, Any]) -> None:
    """Add measures to the JSON of a model. English, which was trained on, gets a measure of its own."""
    figures = read_json(path) if path.is_file() else {}
    for measure, cells in measures.items():
        if "en" in cells:
            figures[f"{measure} en"] = {"en": cells["en"]}
            cells = {language: cell for language, cell in cells.items() if language != "en"}
        if cells:
            figures[measure] = cells
    write_figures(path, figures)


def search(name: str, folder: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Measure -> language -> two lists for its pairs: in how many directions each is found, and 2.

    Args:
        folder: the output of run_retrieval.py, whose languages are searched.
    """
    languages = read_json(folder / "retrieval.json")["tables"][0]["mean"].keys() - {"avg"}
    encode = make("encode", load(folder / "best"), TaskOptions())
    measures: dict[str, dict[str, Any]] = {}
    for language in sorted(languages):
        tatoeba = data / "retrieval/tatoeba-style-dev" / f"{language}-en.en"
        for test, english in (("tatoeba", tatoeba), ("ntrex", data / "pretrain/parallel-multiway/ntrex.en")):
            bitext = read_bitext(language, english.with_suffix(f".{language}"), english)
            src = encode.vectors(bitext.sentences)  # [N, H]
            tgt = encode.vectors(bitext.translations)
            for way, find in (("", found_by_cosine), (" margin", found_by_margin)):
                directions = find(src, tgt).tolist()
                cells = [directions, [2] * len(directions)]
                measures.setdefault(f"{test}{way} {name}", {})[language] = cells
    return measures


if __name__ == "__main__":
    run(main)
