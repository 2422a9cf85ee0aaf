"""A study: models that differ in one thing, trained with several seeds and measured alike.

A file of configs/experiments describes one; configs/experiments/table6.yaml is an example.
"""

import itertools
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

    Models of other studies are named <study>/<model>.

    Args:
        name: of the row.
        flags: of run_pretrain.py, by dotted key; they are added to the study's configuration.
        start: the model of the same seed whose weights it starts from; "": random weights.
        steps_as: the model of this study that has as many optimizer steps, for every seed; "": the flags
            decide.
        trained_in: the model of another study whose figures this row shows: it is not trained here.
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
        pretrain: the configuration of run_pretrain.py that all models share.
        seeds: every model is trained with each of them.
        models: row -> model.
        corpus: a file of configs/corpus, without .yaml; "": experiments/run.py cannot train the models.
        measures: out of MEASURES.
        compare: pairs (a, b): the tables say whether a is above b.
        contrasts: label -> [[a, b], [c, d]]: the tables say whether a - b is above c - d.
        paper: measure -> model -> the score in the paper's table.
    """

    name: str
    title: str
    pretrain: str
    seeds: list[int]
    models: dict[str, TrainedModel]
    corpus: str = ""
    measures: list[str] = field(default_factory=list)
    compare: list[list[str]] = field(default_factory=list)
    contrasts: dict[str, list[list[str]]] = field(default_factory=dict)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> "Study":
        """Read configs/experiments/<name>.yaml.

        Raises:
            UserError: there is no such study, or a key or a name in it is wrong.
        """
        path = STUDIES / f"{name}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
            raise UserError(f"{name}: there is no study of this name; there are {names}")
        values = read_yaml(path)
        models: dict[str, TrainedModel] = {}
        try:
            for row, settings in values.pop("models", {}).items():
                models[row] = TrainedModel(row, **(settings or {}))  # a model without settings has None
            study = cls(name, models=models, **values)
        except TypeError as error:  # names the key that is missing or unknown
            raise UserError(f"{path}: {error}") from error
        for number, model in enumerate(models.values()):
            for reference in (model.start, model.steps_as, model.trained_in):
                other, slash, referred = reference.rpartition("/")  # <study>/<model>, or a model of this one
                known = list(models)[:number]
                if slash:
                    known = read_yaml(STUDIES / f"{other}.yaml").get("models", {})
                if reference and referred not in known:
                    raise UserError(f"{path}: {model.name}: {reference} is no model of a line above it")
            if model.trained_in and "/" not in model.trained_in:
                raise UserError(f"{path}: {model.name} is trained in {model.trained_in}, not another study")
        pairs = [*study.compare, *itertools.chain.from_iterable(study.contrasts.values())]
        for model_name in itertools.chain(*pairs):
            if model_name not in models:
                raise UserError(f"{path}: {model_name} is no model of the study")
        for measure in study.measures:
            if measure not in MEASURES:
                raise UserError(f"{path}: measures: {measure} is not one of {', '.join(MEASURES)}")
        return study

    def figures_file(self, results: Path, name: str, seed: int) -> Path:
        """The file of a model's figures: this study's, unless it is missing and another trained the model.

        Args:
            results: the folder of figures; it has a folder for each study.
            name: of a model of this study, or UNTRAINED.
        """
        own_file = results / self.name / f"{folder_name(name, seed)}.json"
        trained_in = "" if name == UNTRAINED else self.models[name].trained_in
        if own_file.is_file() or not trained_in:
            return own_file
        study, _, trained_name = trained_in.rpartition("/")
        return results / study / f"{folder_name(trained_name, seed)}.json"


def folder_name(model: str, seed: int) -> str:
    """The name of the folder of a trained model."""
    return f"{model.replace(' ', '-')}-{seed}"


def named_folder(flag: str, item: str) -> tuple[str, Path]:
    """The name and the folder of name<=folder.

    Raises:
        UserError: one of them is missing; names the flag.
    """
    name, _, folder = item.partition("<=")
    if not (name and folder):
        raise UserError(f"{flag} '{item}': give name<=folder")
    return name, Path(folder)
