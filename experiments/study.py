"""A study: models that differ in one thing, trained with several seeds and measured alike.

A file of configs/experiments describes one; configs/experiments/table6.yaml is an example.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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

    Models of other studies are named <study>/<model>.

    Args:
        name: of the row.
        flags: of run_pretrain.py, by dotted key; they are added to the study's configuration.
        start: the model of the same seed whose weights it starts from; "": random weights.
        steps_as: the model of this study that has as many optimizer steps, for every seed; "": the flags
            decide.
        trained_in: the model of another study that this row shows: it is not trained here, and measured only
            if that study has no figures of it.
        revision: the commit that trained it, if this one cannot: some of its flags are gone; "": this one.
        about: what the model is, for the reader of the tables.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    steps_as: str = ""
    trained_in: str = ""
    revision: str = ""
    about: str = ""


@dataclass(frozen=True)
class Study:
    """One study.

    Args:
        name: of its file.
        title: the headline of its tables.
        corpus: a file of configs/corpus, without .yaml.
        pretrain: the configuration of run_pretrain.py that all models share.
        seeds: every model is trained with each of them.
        models: row -> model.
        measures: out of MEASURES.
        compare: pairs (a, b): the tables say whether a is above b.
        contrasts: label -> [[a, b], [c, d]]: the tables say whether a - b is above c - d.
        paper: measure -> model -> the score in the paper's table.
        curves: draw BTMLM's held-out perplexity over the steps instead of bars of scores.
        lines: draw lines of scores instead of bars: name of the line -> label on the axis -> model.
    """

    name: str
    title: str
    corpus: str
    pretrain: str
    seeds: list[int]
    models: dict[str, TrainedModel]
    measures: list[str] = field(default_factory=list)
    compare: list[list[str]] = field(default_factory=list)
    contrasts: dict[str, list[list[str]]] = field(default_factory=dict)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: bool = False
    lines: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> "Study":
        """Read configs/experiments/<name>.yaml.

        Raises:
            UserError: there is no such study, or a key or a name in it is wrong.
        """
        path = _file_of(name)
        values = read_yaml(path)
        required = {"title", "corpus", "pretrain", "seeds", "models"}
        allowed = required | {"measures", "compare", "contrasts", "paper", "curves", "lines"}
        missing = sorted(required - values.keys())
        unknown = sorted(values.keys() - allowed)
        wrong = missing + unknown
        if wrong:
            raise UserError(f"{path}: the key {wrong[0]!r} is missing or unknown")
        models: dict[str, TrainedModel] = {}
        for row, settings in values.pop("models").items():  # a model without settings has None
            models[row] = _read_model(path, row, settings or {}, above=models)
        study = cls(name, models=models, **values)
        for measure in study.measures:
            if measure not in MEASURES:
                raise UserError(f"{path}: measures: {measure} is not one of {', '.join(MEASURES)}")
        pairs_of_contrasts = itertools.chain.from_iterable(study.contrasts.values())
        references = {  # key -> the models that it names
            "compare": itertools.chain.from_iterable(study.compare),
            "contrasts": itertools.chain.from_iterable(pairs_of_contrasts),
            "lines": itertools.chain.from_iterable(line.values() for line in study.lines.values()),
        }
        for key, names in references.items():
            for model_name in names:
                if model_name not in models:
                    raise UserError(f"{path}: {key}: {model_name} is no model of the study")
        return study

    def figures_file(self, results: Path, name: str, seed: int) -> Path:
        """The file of a model's figures: of this study or, if only that is there, of the one that trained it.

        Args:
            results: the folder of figures; it has a folder for each study.
            name: of a model of this study, or UNTRAINED.
        """
        own_file = results / self.name / f"{folder_name(name, seed)}.json"
        model = self.models.get(name)
        if own_file.is_file() or model is None or not model.trained_in:
            return own_file
        study, _, trained_name = model.trained_in.rpartition("/")
        file_of_other = results / study / f"{folder_name(trained_name, seed)}.json"
        return file_of_other if file_of_other.is_file() else own_file


def folder_name(model: str, seed: int) -> str:
    """The name of the folder of a trained model."""
    return f"{model.replace(' ', '-')}-{seed}"


def _file_of(name: str) -> Path:
    """The file of a study. Raises a UserError if there is none."""
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise UserError(f"{name}: there is no study of this name; there are {names}")
    return path


def _read_model(path: Path, row: str, settings: Mapping, above: Mapping[str, TrainedModel]) -> TrainedModel:
    """The model of one entry of `models`.

    Args:
        path: the file of the study.
        row: the key of the entry.
        above: the models of the entries before it.

    Raises:
        UserError: a key is unknown, or a name in it is that of no model.
    """
    unknown = sorted(settings.keys() - {field.name for field in fields(TrainedModel)} - {"name"})
    if unknown:
        raise UserError(f"{path}: {row}: the key {unknown[0]!r} is unknown")
    model = TrainedModel(row, **settings)
    if model.steps_as and model.steps_as not in above:
        raise UserError(f"{path}: {row} has the steps of {model.steps_as}, which no line above it names")
    for verb, reference in (("starts from", model.start), ("is trained in", model.trained_in)):
        study, slash, name = reference.rpartition("/")  # <study>/<model>, or a model of this study
        if slash and name not in read_yaml(_file_of(study)).get("models", {}):
            raise UserError(f"{path}: {row} {verb} {reference}, but the study {study} has no model {name}")
    if model.start and "/" not in model.start and model.start not in above:
        raise UserError(f"{path}: {row} starts from {model.start}, which no line above it names")
    if model.trained_in and "/" not in model.trained_in:
        raise UserError(f"{path}: {row} is trained in {model.trained_in}: name another study's model")
    return model
