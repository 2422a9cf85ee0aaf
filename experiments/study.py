"""A study: models that differ in one thing, trained with several seeds and measured alike.

A file of configs/experiments describes one; configs/experiments/table6.yaml is an example.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.config import read_yaml
from utils.errors import UserError

STUDIES = Path("configs/experiments")
MEASURES = ("retrieval", "xnli", "ner")
UNTRAINED = "untrained"


@dataclass(frozen=True)
class TrainedModel:
    """One row of the tables.

    Args:
        flags: of run_pretrain.py, by dotted key; they are added to the study's configuration.
        start: the model of the same seed whose weights it starts from; "": random weights.
    """

    name: str
    flags: Mapping[str, Any]
    start: str = ""


@dataclass(frozen=True)
class Study:
    """One study.

    Args:
        name: of its file.
        corpus: a file of configs/corpus.
        pretrain: the configuration that all models share.
        compare: pairs (a, b): the tables say whether a is above b.
        paper: measure -> model -> the score in the paper's table.
        curves: draw BTMLM's held-out perplexity over the steps instead of bars of scores.
    """

    name: str
    title: str
    corpus: str
    pretrain: str
    seeds: list[int]
    models: dict[str, TrainedModel]
    measures: list[str] = field(default_factory=list)
    compare: list[list[str]] = field(default_factory=list)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: bool = False

    @classmethod
    def read(cls, name: str) -> "Study":
        """Read configs/experiments/<name>.yaml.

        UserError: there is no such study, or a key or a name in it is wrong.
        """
        path = STUDIES / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
            raise UserError(f"{name}: there is no study of this name; there are {known}")
        values = read_yaml(path)
        needed = {"title", "corpus", "pretrain", "seeds", "models"}
        allowed = needed | {"measures", "compare", "paper", "curves"}
        if wrong := sorted(needed - values.keys()) + sorted(values.keys() - allowed):
            raise UserError(f"{path}: the key {wrong[0]!r} is missing or unknown")
        models = {}
        for row, value in values.pop("models").items():
            value = value or {}
            if value.get("start") and value["start"] not in models:
                raise UserError(f"{path}: {row} starts from {value['start']}, which no line above it names")
            models[row] = TrainedModel(row, value.get("flags", {}), value.get("start", ""))
        study = cls(name, models=models, **values)
        if unknown := sorted({*study.measures} - {*MEASURES}):
            raise UserError(f"{path}: measures: {unknown[0]} is not one of {', '.join(MEASURES)}")
        if unknown := sorted({row for pair in study.compare for row in pair} - models.keys()):
            raise UserError(f"{path}: compare: {unknown[0]} is no model of the study")
        return study

    def runs(self) -> list[tuple[TrainedModel, int]]:
        """All (model, seed), each after the one that it starts from."""
        return [(model, seed) for model in self.models.values() for seed in self.seeds]
