"""configs/pretrain/own.yaml trains on what a corpus holds: pairs and text, pairs alone, or text alone."""

import json
import shutil

import pytest
import yaml

from ernie_m.model.checkpoint.open import TRAINED_LENGTH
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.objective_mix import drop_objectives_without_text
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.utils.checksums import MANIFEST
from tests.helpers.checkpoints import change_config
from tests.launching import ROOT
from tests.pretrain.tiny_run import config, pretrain
from tests.toys import make_corpus, sentences, train_piece_model, write_lines

OWN = str(ROOT / "configs" / "pretrain" / "own.yaml")


@pytest.fixture(scope="module")
def texts(module_folder):
    """A folder with a vocabulary, English text, and pairs of English and German."""
    train_piece_model(module_folder / "piece.model")
    english = sentences(150, seed=1)
    write_lines(module_folder / "en.txt", english)
    write_lines(module_folder / "en-de.tsv", [f"{a}\t{b}" for a, b in zip(english, sentences(150, seed=2))])
    return module_folder


@pytest.mark.parametrize(
    "kinds, objectives",
    [
        (["mono", "parallel"], ["mmlm", "camlm", "btmlm"]),
        (["parallel"], ["camlm"]),
        (["mono"], ["mmlm"]),
    ],
)
def test_the_corpus_decides_the_objectives(texts, tmp_path, kinds, objectives):
    """A corpus with these kinds of text is trained with these objectives, and evaluated on its text."""
    inputs = {"mono": {"en": f"{texts}/en.txt"}, "parallel": {"en-de": f"{texts}/en-de.tsv"}}
    make_corpus(
        tmp_path / "corpus", texts / "piece.model", held_out=8, **{kind: inputs[kind] for kind in kinds}
    )
    output = pretrain(tmp_path / "corpus", tmp_path / "run", config=OWN, optimizer__steps=4)
    saved = yaml.safe_load((output / "config.yaml").read_text())["objectives"]
    assert sorted(ObjectiveConfig(**saved).names) == sorted(objectives)
    # MMLM alone comes first, where there is text for it.
    assert list(saved["mixing_ratios"]) == (["mmlm"] if "mono" in kinds else objectives)
    assert sorted(saved["later_mixing_ratios"] or saved["mixing_ratios"]) == sorted(objectives)
    scores = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["held_out"]
    assert ("mmlm" in scores, "retrieval" in scores) == ("mono" in kinds, "parallel" in kinds)
    # The same command goes on, although the saved configuration has fewer objectives than the file.
    pretrain(tmp_path / "corpus", tmp_path / "run", config=OWN, optimizer__steps=4)


@pytest.mark.parametrize(("before", "length", "longest"), [(32, 16, 32), (32, 40, 40), (None, 16, "no key")])
def test_the_longest_inputs_of_all_trainings(pretrained, tiny_corpus, tmp_path, before, length, longest):
    """Weights of which no length is known may have been trained on longer inputs."""
    start = shutil.copytree(pretrained / "full", tmp_path / "start")
    change_config(start, **{TRAINED_LENGTH: before})
    (start / MANIFEST).unlink()  # its checksums would refuse the change
    task = Pretraining(config(tiny_corpus, init__encoder=str(start), data__max_seq_len=length))
    files = task.collect_files(task.begin(1, None), {})
    assert files.config_json.get(TRAINED_LENGTH, "no key") == longest
    task.begin(1, start)  # a run that resumes
    assert task.trained_length == before


ALL_FOUR = {"mmlm": 1, "btmlm": 1, "tlm": 2, "camlm": 4}


@pytest.mark.parametrize(
    ("options", "kinds", "expected"),
    [
        # The objectives with text keep their proportions.
        ({"mixing_ratios": ALL_FOUR}, "text and pairs", {"mixing_ratios": ALL_FOUR}),
        ({"mixing_ratios": ALL_FOUR}, "pairs", {"mixing_ratios": {"tlm": 2, "camlm": 4}}),
        ({"mixing_ratios": ALL_FOUR}, "text", {"mixing_ratios": {"mmlm": 1}}),
        # Without `mixing_ratios`, `default_mixing_ratios` divides among the active objectives.
        ({}, "pairs", {"active": ["tlm", "camlm"]}),
        # A first part without text is left out.
        (
            {"mixing_ratios": {"mmlm": 1}, "later_mixing_ratios": {"mmlm": 1, "camlm": 4}},
            "pairs",
            {"mixing_ratios": {"camlm": 4}},
        ),
        # Shares of zero are nothing that remains: it stays, and the reader then says that there are no pairs.
        ({"mixing_ratios": {"mmlm": 0, "camlm": 1}}, "text", {"mixing_ratios": {"mmlm": 0, "camlm": 1}}),
        (
            {"mixing_ratios": {"mmlm": 1, "camlm": 1}, "later_mixing_ratios": {"mmlm": 0, "camlm": 1}},
            "text",
            {"mixing_ratios": {"mmlm": 1}},
        ),
    ],
)
def test_drop_objectives_without_data(options, kinds, expected):
    fitted = drop_objectives_without_text(
        ObjectiveConfig(**options), monolingual="text" in kinds, parallel="pairs" in kinds
    )
    expected = ObjectiveConfig(**expected)
    assert (fitted.names, fitted.mixing_ratios, fitted.later_mixing_ratios) == (
        expected.names,
        expected.mixing_ratios,
        {},
    )
