"""Studies: their files, the published tables, and one study from text to tables."""

import gzip
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import run, tables
from experiments.scores import Scores
from experiments.study import STUDIES, Study
from tests.experiments.conftest import config_of
from tests.helpers.small_corpus import ROOT, sentences, write_lines
from tests.launching import clean_environment
from utils.errors import UserError

NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_of_every_study_are_keys_of_a_configuration(name, tmp_path, monkeypatch):
    """The command line of each model gives a configuration of run_pretrain.py, with the model's flags."""
    # For `steps_as` it would read a corpus, which is not there.
    monkeypatch.setattr(run.StudyRuns, "steps", lambda self, name, seed: 7000 + seed)
    study = Study.read(name)
    runs = run.StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    trained_here = [model for model in study.models.values() if not model.trained_in and not model.revision]
    for model, seed in itertools.product(trained_here, study.seeds):
        config = config_of(runs.pretraining(model, seed))
        if model.steps_as:
            assert config.optimizer.tokens == 0
            assert config.optimizer.steps == 7000 + seed
        else:
            assert config.optimizer.tokens > 0
        assert config.run.seed == (100 + seed if model.start else seed)
        if "objectives.active" in model.flags:
            assert set(config.objectives.names) == set(model.flags["objectives.active"])


def test_what_a_study_does_not_have():
    with pytest.raises(UserError, match="--at_once 0: it must be at least 1"):
        run.main(["table6", "--at_once", "0"])
    with pytest.raises(UserError, match="--models: nobody is not one of "):
        run.main(["table6", "--models", "[nobody]"])
    with pytest.raises(UserError, match="--seeds: 4 is not one of "):
        run.main(["table6", "--seeds", "[1, 4]"])


@pytest.mark.parametrize("name", NAMES)
def test_the_published_tables_are_those_of_the_figures(name):
    study = Study.read(name)
    page = tables.RESULTS / f"{name}.md"
    if not page.is_file():
        assert not list((tables.RESULTS / name).glob("*.json"))
        return
    figures = tables.read_figures(study, tables.RESULTS)
    assert page.read_text(encoding="utf-8") == f"# {study.title}\n\n{tables.as_text(study, figures)}"


def test_the_mean_gain_from_btmlm_in_the_results_is_that_of_the_figures():
    """Over three amounts of pairs and three seeds, with the standard error of these nine differences."""
    study = Study.read("less_pairs")
    figures = tables.read_figures(study, tables.RESULTS)
    cells = []
    for way in ("plain", "centred", "centred margin"):
        for measure in (f"retrieval 300 {way}".replace(" plain", ""), f"held out {way}"):
            scores = Scores(figures, measure)
            gains = []
            for (with_btmlm, without), seed in itertools.product(study.compare, study.seeds):
                gains.append(scores.mean(with_btmlm, seed) - scores.mean(without, seed))
            assert len(gains) == 9
            cells.append(f"{np.mean(gains):+.1f} ± {np.std(gains, ddof=1) / 3:.1f}")
    row = f"| mean gain of the nine pairs of models | {' | '.join(cells)} |\n"
    assert row in (ROOT / "docs/results.md").read_text(encoding="utf-8")


ALL_PAIRS = ("tatoeba all", "ntrex all")
FEW_PAIRS = ("tatoeba 3754", "ntrex 3754")
LABELS = ("ner en", "ner", "xnli en", "xnli")
README_ROW = {" trained longer": ALL_PAIRS, "": (*FEW_PAIRS, *LABELS)}
# The page of a table, and what its rows show: the ending of a model's name -> measures. With few pairs the
# models are those of a corpus that has no others.
ROWS = (
    ("README.md", README_ROW),
    ("README_zh.md", README_ROW),
    ("docs/pretraining.md", {"": (*ALL_PAIRS, *FEW_PAIRS, "tatoeba 1002", "ntrex 1002")}),
    ("docs/pretraining.md", {" trained longer": (*ALL_PAIRS, *FEW_PAIRS)}),
    ("docs/pretraining.md", {"": (*LABELS, "xnli after pairs", "kinds 64 en", "kinds 64")}),
)


@pytest.fixture(scope="module")
def head_start_cell():
    """head_start_cell(model, measure) -> the mean with its error, from the committed figures."""
    figures = tables.read_figures(Study.read("head_start"), tables.RESULTS)
    return lambda model, measure: tables.score_cell(figures, model, Scores(figures, measure))


@pytest.mark.parametrize(("page", "measures_of_row"), ROWS)
@pytest.mark.parametrize("model", ["random weights", "head start", "pre-trained"])
def test_the_tables_of_the_head_start_are_those_of_the_figures(page, measures_of_row, model, head_start_cell):
    cells = []
    for ending, measures in measures_of_row.items():
        for measure in measures:
            _, _, pairs = measure.partition(" ")
            name = model
            if pairs in ("3754", "1002") and model != "random weights":
                name = f"{model} {pairs} pairs"
            cells.append(head_start_cell(name + ending, measure))
    assert f" | {' | '.join(cells)} |\n" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "pretrain"),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, color: red}", "'color'"),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: , b: {start: c}}}",
            "b: c is no model of a line above",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {color: red}}}",
            "'color'",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {steps_as: b}, b: }}",
            "a: b is no model of a line above",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {start: tiny/b}}}",
            "a: tiny/b is no model",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {start: other/b}}}",
            "other.yaml",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: , b: {trained_in: a}}}",
            "b is trained in a, not another study",
        ),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, measures: [bleu]}", "bleu is not one"),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, compare: [[a, b]]}", "a is no model"),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, contrasts: {x: [[a, b], [a, b]]}}",
            "a is no model",
        ),
    ],
)
def test_a_mistake_in_a_study_is_named(text, message, tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(text)
    monkeypatch.setattr("experiments.study.STUDIES", tmp_path)
    with pytest.raises(UserError, match=message):
        Study.read("tiny")
    with pytest.raises(UserError, match="other: there is no study of this name; there are tiny"):
        Study.read("other")


def test_a_study_without_a_corpus_is_not_trained_here(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    with pytest.raises(UserError, match="head_start.yaml: it has no corpus"):
        run.main(["head_start"])


def make_data(folder):
    """A folder with the files of real data that the study tiny reads, made of random words."""
    pairs = [f"THE {src}\t{tgt}" for src, tgt in zip(sentences(300, 1), sentences(300, 2))]
    for language in ("en", "de", "fr", "tr"):
        write_compressed(folder / f"pretrain/mono/{language}.txt.gz", sentences(300, len(language)))
    for language in ("de", "fr", "tr"):
        write_compressed(folder / f"pretrain/parallel/en-{language}.tsv.gz", pairs)
    multi_way = folder / "pretrain/parallel-multiway"
    retrieval = folder / "retrieval/tatoeba-style-dev"
    for path in (multi_way, retrieval, folder / "nli"):
        path.mkdir(parents=True)
    for seed, language in enumerate(("en", "de", "fr", "tr")):
        write_lines(multi_way / f"ntrex.{language}", sentences(20, 20 + seed))
        for side in (language, "en"):
            write_lines(retrieval / f"{language}-en.{side}", sentences(12, 30 + seed))
    labels = ("neutral", "entailment", "contradiction")
    rows = [f"{pair}\t{labels[i % 3]}" for i, pair in enumerate(pairs[:30])]
    for name in ("train-en", "xnli-dev-en", "xnli-dev-de"):
        write_lines(folder / "nli" / f"{name}.tsv", rows)
    return folder


def write_compressed(path, lines):
    """Write lines to a .gz file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


TINY = {
    "model.hidden_size": 16,
    "model.num_hidden_layers": 2,
    "optimizer.tokens": 9000,
    "optimizer.batch_size": 8,
    "run.eval_steps": 4,
    "run.save_steps": 2,
}
STUDY = {  # the file tiny.yaml
    "title": "Tiny",
    "corpus": "en-de-fr-tr",
    "pretrain": "configs/pretrain/real4.yaml",
    "seeds": [1],
    "models": {"a": {"flags": TINY}, "b": {"start": "a", "flags": TINY}},
    "measures": ["retrieval", "xnli"],
    "compare": [["b", "a"]],
}
# Runs a study whose file and results are in other folders: the first two arguments.
DRIVER = """
import sys
from pathlib import Path
from experiments import run, study, tables
study.STUDIES, tables.RESULTS = map(Path, sys.argv[1:3])
run.main(sys.argv[3:])
"""


@pytest.mark.slow
def test_a_study_from_text_to_tables(tmp_path):
    """The command is killed when model a is finished. Its jobs end with it, and the same command goes on."""
    results = tmp_path / "results"
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny.yaml").write_text(json.dumps(STUDY))
    words = [sys.executable, "-c", DRIVER, tmp_path / "studies", results, "tiny"]
    words += ["--output", tmp_path / "output"]
    options = {
        "cwd": ROOT,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "env": clean_environment(DATA=str(make_data(tmp_path / "data")), VOCAB_SIZE="150"),
    }
    driver = subprocess.Popen(words, **options)
    while not (results / "tiny" / "a-1.json").is_file() and driver.poll() is None:
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    finished = subprocess.run(words, **options)
    assert finished.returncode == 0, finished.stdout
    assert "a-1 figures" not in finished.stdout, "the finished model was measured again"
    names = {path.name for path in (results / "tiny").iterdir()}
    assert names == {"a-1.json", "b-1.json", "untrained-1.json"}
    figures = json.loads((results / "tiny" / "b-1.json").read_text())
    assert {"retrieval 300", "xnli", "held_out"} <= {*figures}
    assert {"retrieval 300 centred", "retrieval 1000 centred margin", "layers", "named"} <= {*figures}
    assert list(figures["xnli"]) == ["de", "en"]
    assert "b - a" in (results / "tiny.md").read_text()
