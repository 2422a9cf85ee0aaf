"""Studies: the order of the work, what is left after a stop, and the arithmetic of the tables."""

import gzip
import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from experiments import charts, tables
from experiments import run as runs
from experiments.scores import Scores, contrast_of
from experiments.study import STUDIES, Study, TrainedModel
from pretrain.shares import examples_of_step, shares
from tests.helpers.small_corpus import ROOT, sentences, write_lines
from tests.launching import clean_environment
from tests.pretrain.tiny_run import make_corpus
from utils.errors import UserError

NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))


@pytest.fixture
def study():
    models = {name: TrainedModel(name, {}, start) for name, start in (("a", ""), ("b", "a"), ("c", "a"))}
    return Study("made-up", "Made up", "none", "none.yaml", [1, 2, 3], models, ["xnli"], [["b", "a"]])


def made_figures(study, right, rows=400):
    """Figures in which a model is right in a share of the rows."""
    random = np.random.default_rng(3)
    found = {}
    for model, share in right.items():
        for seed in study.seeds:
            answers = (random.random(rows) < share).astype(int).tolist()
            cells = {language: [answers, [1] * rows] for language in ("en", "de", "fr")}
            found.setdefault(model, {})[seed] = {"xnli": cells, "held_out": []}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_flags_of_every_study_are_keys_of_a_configuration(name, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.StudyRun, "steps", lambda self, name, seed: 7000 + seed)
    study = Study.read(name)
    planned = runs.StudyRun(study, tmp_path, tmp_path, [])
    for model, seed in study.runs():
        if model.trained_in:
            continue
        config = runs.config_of(planned.pretraining(model, seed))
        if model.steps_as:
            assert (config.optimizer.tokens, config.optimizer.steps) == (0, 7000 + seed)
        else:
            assert config.optimizer.tokens > 0
        assert config.run.seed == (100 + seed if model.start else seed)
        active = config.objectives.active
        assert set(active) == set(model.flags.get("objectives.active", active))
    for wrong in ("--seeds=9", "--at_once=0"):
        with pytest.raises(UserError, match=r"--at_once must be 1 or more, and --seeds among \[1"):
            runs.main([name, wrong])
    with pytest.raises(UserError, match="--models: nobody is not one of "):
        runs.main([name, "--models", "nobody"])


@pytest.mark.parametrize("name", NAMES)
def test_the_published_tables_are_those_of_the_figures(name):
    study = Study.read(name)
    if not (page := tables.RESULTS / f"{name}.md").is_file():
        assert not list((tables.RESULTS / name).glob("*.json"))
        return
    figures = tables.read_figures(study, tables.RESULTS)
    assert page.read_text(encoding="utf-8") == f"# {study.title}\n\n{tables.as_text(study, figures)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "the key 'corpus' is missing or unknown"),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, color: red}", "'color' is missing or"),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: , b: {start: c}}}",
            "b starts from c, which",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {color: red}}}",
            "a: the key 'color' is unknown",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {steps_as: b}, b: }}",
            "a has the steps of b, which no line above",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {start: mine/b}}}",
            "a starts from mine/b, but the study mine has no model b",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: {start: ours/b}}}",
            "ours: there is no study of this name",
        ),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {a: , b: {trained_in: a}}}",
            "b is trained in a: name another study's model",
        ),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, measures: [bleu]}", "bleu is not one"),
        ("{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, compare: [[a, b]]}", "a is no model"),
        (
            "{title: x, corpus: x, pretrain: x, seeds: [1], models: {}, contrasts: {x: [[a, b], [a, b]]}}",
            "contrasts: a is no model",
        ),
    ],
)
def test_a_mistake_in_a_study_is_named(text, message, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr("experiments.study.STUDIES", tmp_path)
    with pytest.raises(UserError, match=message):
        Study.read("mine")
    with pytest.raises(UserError, match="there is no study of this name; there are mine"):
        Study.read("yours")


def test_a_stopped_study_goes_on(study, tmp_path, monkeypatch):
    """A start is trained again only if a model that needs it is missing; finished figures are kept."""
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    planned = runs.StudyRun(study, tmp_path, tmp_path, [1])

    def left():
        return [[job.name for job in jobs] for jobs in planned.chains()]

    everything = [[f"{name}-1", f"{name}-1 xnli", f"{name}-1 figures"] for name in "abc"]
    assert left() == everything
    finish(planned, "a")
    assert left() == [["a-1"], *everything[1:]]
    finish(planned, "b")
    assert left() == [["a-1"], everything[2]]
    finish(planned, "c")
    assert left() == []


SEQUENCES = {  # of a step, in the last part of the run: MMLM and BTMLM in all, TLM, CAMLM
    "camlm": (19, 0, 45),
    "camlm and tlm": (20, 22, 22),
    "half the camlm pairs": (19, 0, 22),
    "camlm plus tlm": (19, 45, 45),
    "camlm and a little tlm": (20, 6, 38),
    "camlm and tlm on the same pairs": (19, 45, 45),
    "less camlm and more monolingual text": (42, 0, 22),
    "tlm then camlm": (19, 0, 45),
    "camlm then tlm": (19, 45, 0),
    "camlm plus tlm at equal tokens": (19, 45, 45),
}


def test_the_sequences_of_the_mixes(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.StudyRun, "steps", lambda self, name, seed: 7000)
    study = Study.read("mix")
    planned = runs.StudyRun(study, tmp_path, tmp_path)
    assert [name for name, model in study.models.items() if not model.trained_in] == list(SEQUENCES)
    for name, sequences in SEQUENCES.items():
        config = runs.config_of(planned.pretraining(study.models[name], 1))
        for step in range(6990, 7000):
            share = shares(config.objectives, step, 7000)
            counts = examples_of_step(config.objectives, share, config.optimizer.batch_size, step)
            monolingual = counts["mmlm"] + counts.get("btmlm", 0)
            assert (monolingual, counts.get("tlm", 0), counts.get("camlm", 0)) == sequences, name


def test_models_of_another_study(study, tmp_path, monkeypatch):
    """One starts from weights of another study, and one was trained there and is only measured."""
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    study.models["d"] = TrainedModel("d", start="other/e f")
    study.models["g"] = TrainedModel("g", trained_in="other/e f")
    study.measures[:] = ["retrieval"]
    planned = runs.StudyRun(study, tmp_path, tmp_path, [1], ["d", "g"])
    weights = tmp_path / "other" / "e-f-1" / "full"
    with pytest.raises(
        UserError, match=f"{weights}: not there, but d needs it: first .* other --models 'e f'"
    ):
        planned.chains()
    weights.mkdir(parents=True)
    (trained, figures), (measured, untrained) = planned.chains()
    assert [job.name for job in (trained, figures, measured, untrained)] == [
        "d-1",
        "d-1 figures",
        "g-1 figures",
        "untrained-1 figures",
    ]
    assert trained.after == weights.parent / "encoder" / "model.safetensors"
    assert str(weights) in trained.command
    assert str(weights.parent) in measured.command and str(planned.result("g", 1)) in measured.command


def test_a_start_that_is_left_out_must_be_there(study, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    planned = runs.StudyRun(study, tmp_path, tmp_path, [1], ["b"])
    with pytest.raises(UserError, match="a-1/full: not there, but b needs it: first run .* made-up --models"):
        planned.chains()
    assert len(runs.StudyRun(study, tmp_path, tmp_path, [1], ["a"]).chains()) == 1
    (tmp_path / "made-up" / "a-1" / "full").mkdir(parents=True)
    assert [jobs[0].name for jobs in planned.chains()] == ["b-1"]


def test_as_many_steps_as_another_model(study, tmp_path, monkeypatch):
    """`steps_as` gives the steps that run_pretrain.py would work out from the other model's tokens."""
    monkeypatch.setattr("pretrain.reader._PROBE_SEQUENCES", 400)
    flags = {"optimizer.tokens": 150_000, "optimizer.batch_size": 8}
    study.models["a"] = TrainedModel("a", flags)
    study.models["b"] = TrainedModel("b", flags | {"optimizer.batch_size": 16}, steps_as="a")
    study = replace(study, pretrain="configs/pretrain/real4.yaml")
    planned = runs.StudyRun(study, tmp_path, tmp_path)
    planned.corpus = make_corpus(tmp_path)
    steps = planned.steps("a", 1)
    assert steps != planned.steps("a", 2)  # the seed draws the text
    command = planned.pretraining(study.models["b"], 1).command
    assert command[command.index("--optimizer.steps") + 1] == str(steps)
    assert runs.config_of(planned.pretraining(study.models["b"], 1)).optimizer.tokens == 0
    with pytest.raises(UserError, match="no finished corpus there"):
        runs.StudyRun(study, tmp_path, tmp_path).steps("a", 1)


def finish(planned, name):
    path = planned.result(name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_the_error_over_examples_is_that_of_a_bootstrap(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6}, rows=300)
    scores = Scores(figures, "xnli")
    random = np.random.default_rng(1)
    draws = random.integers(300, size=(4000, 300))
    right = {m: np.mean([figures[m][s]["xnli"]["de"][0] for s in study.seeds], axis=0) for m in "ab"}
    assert math.isclose(scores.example_error({"a": 1}), 100 * right["a"][draws].mean(1).std(), rel_tol=0.05)
    difference = (right["b"] - right["a"])[draws].mean(1).std()
    assert math.isclose(scores.example_error({"b": 1, "a": -1}), 100 * difference, rel_tol=0.05)


def test_f1_is_a_quotient_of_sums(study):
    cells = {"de": [[2, 0, 4], [4, 3, 5]]}
    scores = Scores({"a": {1: {"ner": cells}}}, "ner")
    assert scores.score("a", 1, "de") == 50.0
    # The influence of an example is, to first order, how far the score moves without it.
    without = [[values[:i] + values[i + 1 :] for values in cells["de"]] for i in range(3)]
    others = [Scores({"a": {1: {"ner": {"de": one}}}}, "ner") for one in without]
    moved = [50.0 - one.score("a", 1, "de") for one in others]
    assert np.sign(moved).tolist() == np.sign(scores.influence({"a": 1}, "de")).tolist()
    assert abs(scores.influence({"a": 1}, "de").sum()) < 1e-9


@pytest.mark.parametrize(
    ("b", "seeds", "word"),
    [(0.8, 3, "higher"), (0.5, 3, "cannot tell"), (0.2, 3, "lower"), (0.8, 1, "cannot tell")],
)
def test_a_comparison_says_what_can_be_told(study, b, seeds, word):
    study.seeds[seeds:] = []
    scores = Scores(made_figures(study, {"a": 0.5, "b": b}), "xnli")
    (difference,) = scores.differences(tables.rows_of(study))
    table = tables.difference_table([difference], "xnli", {"a": 75.7, "b": 75.8})
    assert f"| {word} | +0.1 |" in table
    assert ("±" in table) == ("±" in tables.score_table(scores)) == (seeds > 1)


def test_seeds_that_differ_widen_the_error(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6})
    alike = Scores(figures, "xnli").error("b")
    for seed, share in zip(study.seeds, (0.4, 0.6, 0.8)):
        figures["b"][seed] = made_figures(study, {"b": share})["b"][seed]
    assert Scores(figures, "xnli").error("b") > 3 * alike


def test_tables_and_chart_from_files(study, tmp_path):
    for model, by_seed in made_figures(study, {"untrained": 0.3, "a": 0.5, "b": 0.6}).items():
        for seed, found in by_seed.items():
            perplexity = {"de": {"perplexity": 10.0 * seed}}
            found["held_out"] = [{"step": 1, "mmlm": perplexity}]
            if model == "b":
                rates = {"precision": 0.1 * seed, "frequent_precision": 0, "copy_rate": 0.5, "repeat_rate": 1}
                found["held_out"][0]["btmlm"] = {"de-en": rates}
            (tmp_path / study.name).mkdir(exist_ok=True)
            (tmp_path / study.name / f"{model}-{seed}.json").write_text(json.dumps(found))
    tables.write(study, tmp_path, tmp_path)
    text = (tmp_path / f"{study.name}.md").read_text()
    assert text.startswith("# Made up\n") and "**XNLI, accuracy (%)**" in text
    assert text.endswith(f"| b | {(10 * 20 * 30) ** (1 / 3):.1f} |  |  |  |  | 20.0 | 0.0 | 50.0 | 100.0 |\n")
    assert (tmp_path / f"{study.name}.png").read_bytes().startswith(b"\x89PNG")


def measured_three_ways(shares):
    """Figures in which these shares of 300 pairs are found plain, centred and by margin."""
    random = np.random.default_rng(5)
    figures = {}
    for model, of_ways in shares.items():
        for seed in (1, 2, 3):
            values = {"held_out": [{"step": 1, "mmlm": {"de": {"perplexity": 10.0}}}]}
            for way, share in zip(("", " centred", " centred margin"), of_ways):
                found = random.binomial(2, share, size=300).tolist()
                values[f"retrieval 300{way}"] = {name: [found, [2] * 300] for name in ("de", "fr")}
            values["layers"] = {"plain": seed, "centred": 2, "centred margin": 3}
            values["half"] = {"de": [1.0, 1.0]}
            values["named"] = {
                "de": {"right": [50, 75 + 5 * seed], "sentences": 100},
                "fr": {"right": [150, 200], "sentences": 200},
            }
            figures.setdefault(model, {})[seed] = values
    return figures


THREE_WAYS = {"a": (0.3, 0.3, 0.4), "b": (0.5, 0.3, 0.4), "c": (0.3, 0.3, 0.4), "d": (0.9, 0.31, 0.9)}


@pytest.fixture
def contrasted(study):
    """A study with the contrast (b - a) - (d - c)."""
    models = {name: TrainedModel(name) for name in THREE_WAYS}
    lines = {"low": {"1/4": "a", "all": "b"}, "high": {"1/4": "c", "all": "d"}}
    contrasts = {"more": [["b", "a"], ["d", "c"]]}
    compare = [["b", "a"], ["d", "c"]]
    return replace(study, models=models, compare=compare, contrasts=contrasts, lines=lines)


def test_a_contrast_is_a_difference_of_differences(contrasted):
    figures = measured_three_ways(THREE_WAYS)
    scores = Scores(figures, "retrieval 300")
    first, second, contrast = scores.differences(tables.rows_of(contrasted))
    assert contrast.label == "more" and contrast.verdict == "lower"
    assert contrast.mean == pytest.approx(first.mean - second.mean)
    values = [[scores.mean(model, seed) for seed in (1, 2, 3)] for model in "badc"]
    of_seeds = values[0] - np.array(values[1]) - values[2] + values[3]
    assert contrast.mean == pytest.approx(of_seeds.mean())
    # The four models answer independently here, so the variances over the examples add up.
    squares = sum(scores.example_error({model: 1}) ** 2 for model in THREE_WAYS)
    assert scores.example_error(contrast.weights) == pytest.approx(math.sqrt(squares), rel=0.1)
    assert scores.example_error({"a": 1, "b": 0}) == pytest.approx(scores.example_error({"a": 1}))
    same = contrast_of("none", ["a", "b"], ["a", "b"])
    assert [row.mean for row in scores.differences(same)] == [0.0]


def test_tables_of_three_ways(contrasted):
    figures = measured_three_ways(THREE_WAYS)
    text = tables.as_text(contrasted, figures)
    summary = text.split("**Differences, paired by seed (bold: more than two standard errors)**")[1]
    (line,) = [line for line in summary.split("**Retrieval")[0].splitlines() if line.startswith("| d - c |")]
    _, _, plain, centred, margin, xnli, ner, _ = line.split("|")
    assert plain.startswith(" **+") and margin.startswith(" **+") and not centred.startswith(" **")
    assert xnli == ner == "  "
    for title in ("300 pairs (%)", "300 pairs, centred (%)", "300 pairs, centred, by margin (%)"):
        assert f"**Retrieval, {title}**" in text
    assert "| a | 1, 2, 3 | 2, 2, 2 | 3, 3, 3 |" in text
    assert "| model | 0 | 1 |\n|---|---:|---:|\n| a | 62.5 | 92.5 |" in text
    assert "chosen on one half" not in text


@pytest.mark.parametrize("lines", [True, False])
def test_charts_of_three_ways(contrasted, lines, tmp_path):
    if not lines:
        contrasted = replace(contrasted, lines={})
    charts.draw(contrasted, measured_three_ways(THREE_WAYS), tables.TITLES, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def make_data(folder):
    """The folder of real data, made up."""
    pairs = [f"THE {a}\t{b}" for a, b in zip(sentences(300, 1), sentences(300, 2))]
    for name in ("mono/en.txt", "mono/de.txt", "mono/fr.txt", "mono/tr.txt",
                 "parallel/en-de.tsv", "parallel/en-fr.tsv", "parallel/en-tr.tsv"):  # fmt: skip
        lines = pairs if name.endswith("tsv") else sentences(300, len(name))
        (folder / "pretrain" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pretrain" / f"{name}.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    several, search = folder / "pretrain/parallel-multiway", folder / "retrieval/tatoeba-style-dev"
    for path in (several, search, folder / "nli"):
        path.mkdir(parents=True)
    for seed, language in enumerate(("en", "de", "fr", "tr")):
        write_lines(several / f"ntrex.{language}", sentences(20, 20 + seed))
        for side in (language, "en"):
            write_lines(search / f"{language}-en.{side}", sentences(12, 30 + seed))
    labels = ("neutral", "entailment", "contradiction")
    rows = [f"{pair}\t{labels[i % 3]}" for i, pair in enumerate(pairs[:30])]
    for name in ("train-en", "xnli-dev-en", "xnli-dev-de"):
        write_lines(folder / "nli" / f"{name}.tsv", rows)
    return folder


TINY = {
    "model.hidden_size": 16, "model.num_hidden_layers": 2, "optimizer.tokens": 9000,
    "optimizer.batch_size": 8, "run.eval_steps": 4, "run.save_steps": 2,
}  # fmt: skip
STUDY = {
    "title": "Tiny", "corpus": "en-de-fr-tr", "pretrain": "configs/pretrain/real4.yaml", "seeds": [1],
    "models": {"a": {"flags": TINY}, "b": {"start": "a", "flags": TINY}},
    "measures": ["retrieval", "xnli"], "compare": [["b", "a"]],
}  # fmt: skip
DRIVER = """
import sys
from pathlib import Path
from experiments import run, study
study.STUDIES, run.RESULTS, run.IMAGES = map(Path, sys.argv[1:4])
run.main(sys.argv[4:])
"""


@pytest.mark.slow
def test_a_study_from_text_to_tables(tmp_path):
    """The driver is killed in the middle: its job ends with it, and the same command goes on."""
    results = tmp_path / "results"
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny.yaml").write_text(json.dumps(STUDY))
    words = [sys.executable, "-c", DRIVER, tmp_path / "studies", results, tmp_path, "tiny"]
    words += ["--output", tmp_path / "output"]
    how = {"cwd": ROOT, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    how["env"] = clean_environment(DATA=str(make_data(tmp_path / "data")), VOCAB_SIZE="150")
    dry = subprocess.run([*words, "--dry"], **how).stdout
    assert "a-1, a-1 xnli, a-1 figures, untrained-1 figures" in dry and not (tmp_path / "output").exists()
    driver = subprocess.Popen(words, **how)
    while not (results / "tiny" / "a-1.json").is_file() and driver.poll() is None:
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    finished = subprocess.run(words, **how)
    assert finished.returncode == 0, finished.stdout
    assert "a-1 figures" not in finished.stdout
    names = {path.name for path in (results / "tiny").iterdir()}
    assert names == {"a-1.json", "b-1.json", "untrained-1.json"}
    found = json.loads((results / "tiny" / "b-1.json").read_text())
    assert {"retrieval 300", "xnli", "held_out", "half", "layer"} <= {*found}
    assert {"retrieval 300 centred", "retrieval 1000 centred margin", "layers", "named"} <= {*found}
    assert list(found["xnli"]) == ["de", "en"] and "b - a" in (results / "tiny.md").read_text()
    assert "0 runs" in subprocess.run([*words, "--dry"], **how).stdout
