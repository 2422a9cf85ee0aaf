"""What the fields of a dataclass of options say."""

import importlib
from dataclasses import MISSING, dataclass, field, fields

import pytest

from ernie_m.utils.args import (
    PositiveInt,
    Range,
    UnitInterval,
    deciding_options,
    explanations,
    list_options,
    option,
)

OPTIONS = (
    ("ernie_m.commands.convert", "ConvertFlags"),
    ("ernie_m.commands.encode_vector", "EncodeVectorFlags"),
    ("ernie_m.commands.export", "ExportFlags"),
    ("ernie_m.commands.fit", "FitFlags"),
    ("ernie_m.commands.train", "TrainFlags"),
    ("ernie_m.inference.mine_pairs", "MiningOptions"),
    ("ernie_m.finetune.finetune_args", "FinetuneFlags"),
    ("ernie_m.finetune.retrieval.retrieval_args", "RetrievalFlags"),
    ("ernie_m.commands.predict", "PredictFlags"),
    ("ernie_m.commands.serve", "ServeFlags"),
    ("ernie_m.commands.launch", "LaunchFlags"),
    ("ernie_m.pretrain.config", "PretrainConfig"),
    ("ernie_m.pretrain.build_corpus.build_args", "BuildOptions"),
    ("ernie_m.pretrain.show_masks", "ShowFlags"),
    ("ernie_m.data.download_data_sets", "DataFlags"),
    ("ernie_m.data.download_weights", "WeightsFlags"),
    ("ernie_m.data.download_e5_small", "E5SmallFlags"),
    ("ernie_m.data.prepare", "PrepareFlags"),
    ("ernie_m.data.train_vocab", "VocabOptions"),
    ("ernie_m.data.download_text", "PublicTextFlags"),
    ("scripts.pretrain_demo", "PretrainDemoFlags"),
)


@dataclass
class Section:
    rate: UnitInterval = 0.5
    log_steps: PositiveInt = option(10, free=True)


@dataclass
class Options:
    section: Section = field(default_factory=Section)
    seeds: tuple[int, ...] = (1,)
    """Of everything random."""

    verbose: bool = option(False, no_effect="the log is complete")


@dataclass
class Inherited(Options):
    """The base class explains `seeds`, too."""

    seeds: tuple[int, ...] = (2,)
    """Of the order."""

    verbose: bool = True
    """Whether
    to say more."""


@pytest.mark.parametrize("module, name", OPTIONS)
def test_every_option_is_explained(module, name):
    """The string below the field is one sentence, except below a flag without effect."""
    cls = getattr(importlib.import_module(module), name)
    explained = explanations(cls)
    for key, described in list_options(cls).items():
        text = explained.get(key, "")
        assert described.metadata.get("no_effect") or (text.endswith(".") and ". " not in text), key


@pytest.mark.parametrize("module, name", OPTIONS)
def test_help_begins_with_what_one_needs(module, name):
    """Beside what is positional, at most three options."""
    options = list_options(getattr(importlib.import_module(module), name)).values()
    positional = [option for option in options if option.metadata.get("positional")]
    needed = [
        option
        for option in options
        if (option.metadata.get("needed") or option.default is option.default_factory is MISSING)
        and option not in positional
    ]
    assert len(needed) <= 3 and (needed or positional)


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "words"),
    [
        (Range(at_least=8, at_most=512), (8, 512), (7, 513), ">= 8 and <= 512"),
        (Range(above=0, below=1), (0.5,), (0, 1), "> 0 and < 1"),
        (Range(at_least=0), (0, 1e9), (-1,), ">= 0"),
    ],
)
def test_a_range(range_, inside, outside, words):
    assert all(number in range_ for number in inside)
    assert not any(number in range_ for number in outside)
    assert str(range_) == words


def test_what_decides_the_result():
    assert deciding_options(Options(seeds=(1, 2))) == {"section.rate": 0.5, "seeds": (1, 2)}


def test_the_string_below_a_field_explains_it():
    assert explanations(Options) == {"seeds": "Of everything random."}
    assert explanations(Inherited) == {"seeds": "Of the order.", "verbose": "Whether to say more."}
    assert [f.name for f in fields(Inherited)] == ["section", "seeds", "verbose"]
