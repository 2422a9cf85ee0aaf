"""Comparisons of starts on made-up data, end to end: layouts, runs, tables, nothing done twice."""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import finetune_real, retrieval_tuned, starts
from experiments.starts import Comparison
from finetune.flags import FinetuneFlags
from tests.finetune import answering_toy
from tests.helpers.small_corpus import ROOT, sentences, write_lines
from tests.launching import clean_environment
from tests.pretrain.tiny_run import flags as tiny_flags
from tests.pretrain.tiny_run import make_corpus
from utils.args import parse_args
from utils.errors import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one finished pre-training run, full-1."""
    folder = tmp_path_factory.mktemp("pretrained")
    corpus = make_corpus(folder)
    settings = tiny_flags(corpus, folder / "runs" / "full-1", optimizer__steps=2, run__eval_sequences=0)
    subprocess.run(
        [sys.executable, "run_pretrain.py", *settings], check=True, env=clean_environment(), cwd=ROOT
    )
    return folder / "runs"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of real data, made up."""
    folder = tmp_path_factory.mktemp("data")
    pairs = list(zip((f"THE {text}" for text in sentences(24, 51)), sentences(24, 52)))
    for name in ("train-en", "xnli-dev-en", "xnli-dev-de", "xnli-dev-sw"):
        labels = ("neutral", "entailment", "contradiction")
        (folder / "nli").mkdir(exist_ok=True)
        write_lines(
            folder / "nli" / f"{name}.tsv", [f"{a}\t{b}\t{labels[i % 3]}" for i, (a, b) in enumerate(pairs)]
        )
    (folder / "ner" / "panx").mkdir(parents=True)
    for name in ("train-en", "dev-en", "dev-de"):
        words = [
            [f"{w}\t{'B-PER' if i % 3 == 0 else 'O'}" for i, w in enumerate(a.split())] for a, _ in pairs
        ]
        kinds = ["x\tB-ORG", "y\tI-ORG", "z\tB-LOC", "z\tI-LOC", "z\tI-PER"]
        text = "\n\n".join("\n".join(lines) for lines in [*words, ["x\tB-PER", *kinds[:4]]])
        (folder / "ner" / "panx" / f"{name}.tsv").write_text(text.replace("\nz\tI-PER", "") + "\n")
    (folder / "qa" / "mlqa-dev").mkdir(parents=True)
    names = ["train-en.x", "xquad.en", "xquad.de"]
    names += [f"mlqa-dev/dev-context-{a}-question-{b}" for a, b in (("en", "en"), ("de", "de"), ("en", "de"))]
    for seed, name in enumerate(names):
        text = json.dumps(answering_toy.squad(3, seed)).replace("where is", "where THE is")
        (folder / "qa" / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "pawsx").mkdir()
    for language in ("en", "de"):
        lines = [f"{a} {i}\t{b}\t{i % 2}" for i in range(2000) for a, b in [pairs[i % 24]]]
        write_lines(folder / "pawsx" / f"dev-{language}.tsv", lines)
    parallel, search = folder / "pretrain" / "parallel", folder / "retrieval" / "tatoeba-style-dev"
    parallel.mkdir(parents=True)
    search.mkdir(parents=True)
    for language, seed in (("de", 61), ("fr", 63)):
        rows = [f"{a}\t{b}\n" for a, b in zip(sentences(60, seed), sentences(60, seed + 1))]
        (parallel / f"en-{language}.tsv.gz").write_bytes(gzip.compress("".join(rows).encode()))
        for side, own in ((language, 71), ("en", 72)):
            write_lines(search / f"{language}-en.{side}", sentences(10, own + seed))
    return folder


@pytest.fixture
def compare(runs, data, tmp_path, monkeypatch, capfd):
    """compare(module, *arguments) -> results.json, the last line printed, jobs that were finished before."""
    monkeypatch.chdir(ROOT)

    def call(module, *arguments):
        line = [module.__name__, *arguments, "--runs", runs, "--data", data, "--output", tmp_path]
        monkeypatch.setattr(sys, "argv", list(map(str, line)))
        module.main()
        printed = capfd.readouterr().out
        found = json.loads((tmp_path / "results.json").read_text())
        return found, json.loads(printed.splitlines()[-1]), printed.count("finished before")

    return call


@pytest.mark.slow
def test_fine_tuning(compare, tmp_path):
    """Everything of a comparison; XNLI."""
    line = ["nli", "--seeds", 2, "--max_steps", 2]
    found, last, finished = compare(finetune_real, *line)
    # The encoders know de, en and fr: sw of the data is left out.
    scores = found["tables"]["XNLI dev, acc"]
    assert list(scores) == ["scratch", "full"] and list(scores["full"]["mean"]) == ["en", "de", starts.OTHERS]
    assert (last["task"], last["seeds"], finished) == ("nli", [2], 0)
    assert last[starts.OTHERS]["XNLI dev, acc"]["full"] == [round(scores["full"]["mean"]["de"], 2), 0]
    assert f"| start | en | de | {starts.OTHERS} |" in (tmp_path / "results.md").read_text()
    log = (tmp_path / "full-2" / "log" / "job.log.0").read_text()  # each run has its own
    assert "seed 2: best step" in log and "random weights" not in log
    card = next((tmp_path / "full-2").glob("step_*")) / "README.md"
    assert "full-1/encoder" in card.read_text()  # the only encoder serves all seeds
    card = next((tmp_path / "scratch-2").glob("step_*")) / "README.md"
    assert "random weights" in card.read_text()
    assert compare(finetune_real, *line) == (found, last, 2)


@pytest.mark.slow
def test_questions(compare):
    found, *_ = compare(finetune_real, "qa", "--starts", "full", "--seeds", 1, "--max_steps", 2)
    assert list(found["tables"])[:2] == ["XQuAD, f1", "XQuAD, em"]
    assert list(found["tables"]["XQuAD, f1"]["full"]["seeds"]["1"])[:2] == ["en", "de"]
    assert "MLQA dev, text-question, f1" in found["tables"] and "MLQA dev, em" in found["tables"]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("task", finetune_real.TASKS)
def test_layouts_and_flags(task, lower, runs, data, tmp_path):
    """Every file that a run names is there, in the case asked for, and its flags are those of the program."""
    real, layout = finetune_real.TASKS[task], tmp_path / "data"
    finetune_real.make_layout(real, data, layout, lower, tmp_path / "text")
    languages = real.languages(layout)
    assert languages[:2] == ["en", "de"]
    comparison = Comparison(runs, data, tmp_path, ["scratch"], [1], None, lower, 1)
    job = finetune_real.training(real, comparison, "scratch", 1, ["--epoch", "1"])
    flags = parse_args(FinetuneFlags, job.command[1:])
    assert flags.epoch == 1 and flags.init_pretraining_params is None and flags.random_seed == (1,)
    files = [flags.train_set, *(flags.dev_set.replace("%s", language) for language in languages)]
    text = "".join(Path(name).read_text(encoding="utf-8") for name in files)
    assert ("THE" in text) == (not lower) and ("B-PER" in text) == (task == "ner")
    assert (flags.label_map_config is None) == (task == "qa")


@pytest.mark.slow
def test_retrieval(compare, tmp_path):
    line = ["--seeds", 1, "--tune", "full", "--steps", 3, "--batch_size", 8]
    found, last, _ = compare(retrieval_tuned, *line)
    tables = found["tables"]
    both, queries = (
        tables["translations found, both directions"],
        tables["translations found, English queries"],
    )
    assert list(both) == list(queries) == ["scratch", "full", "full, tuned"]
    assert list(both["full"]["mean"]) == ["de", "fr", starts.OTHERS]
    assert last["steps"] == 3
    searched = json.loads((tmp_path / "searches" / "full-1-tuned" / "retrieval.json").read_text())
    assert searched["layers"]["1"] in (0, 1, 2)
    assert compare(retrieval_tuned, *line) == (found, last, 5)  # the corpus, a tuning, three searches


def test_pairs_are_split_without_overlap(tmp_path):
    rows = [f"A {i}\tB {i}" for i in range(30)] + ["A 1\tanother", "more\tB 2", "A last\tB last"]
    source = tmp_path / "en-de.tsv.gz"
    source.write_bytes(gzip.compress("\n".join(rows).encode()))
    retrieval_tuned.split_pairs(source, "de", tmp_path, lower=True)
    assert (tmp_path / "dev" / "de-en.de").read_text() == "b 0\nb 1\nb 2\n"
    assert (tmp_path / "dev" / "de-en.en").read_text() == "a 0\na 1\na 2\n"
    kept = (tmp_path / "text" / "en-de.tsv").read_text().splitlines()
    assert kept == [f"a {i}\tb {i}" for i in [*range(3, 30), "last"]]
    source.write_bytes(gzip.compress(b"one\ttwo\nthree\n"))
    with pytest.raises(UserError, match=r"en-de.tsv.gz, line 2: not english, tab, de"):
        retrieval_tuned.split_pairs(source, "de", tmp_path, lower=False)


def flags(folder, *names, pieces=("a", "b"), **more):
    """The flags of a comparison over made-up encoders."""
    for name in names:
        path = folder / name / "encoder"
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text("")
        tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *pieces, "[MASK]"]
        (path / "vocab.txt").write_text("".join(f"{token}\t{i}\n" for i, token in enumerate(tokens)))
    defaults = {"seeds": None, "starts": None, "case": "auto", "languages": None, "at_once": 1}
    return argparse.Namespace(runs=folder, data=folder, output=folder, **defaults | more)


def test_which_encoder_a_seed_starts_from(tmp_path):
    found = Comparison.from_flags(flags(tmp_path, "mmlm-1", "mmlm-2", "mmlm+tlm-1", "full-1"))
    assert found.starts == ["scratch", "mmlm", "mmlm+tlm", "full"] and found.seeds == [1, 2]  # those of mmlm
    assert found.encoder("mmlm", 2) == tmp_path / "mmlm-2" / "encoder"
    assert found.encoder("mmlm+tlm", 2) == tmp_path / "mmlm+tlm-1" / "encoder"
    assert found.encoder("scratch", 2) == tmp_path / "full-1" / "encoder"
    with pytest.raises(UserError, match="mmlm has seeds 1, 2, but not 3"):
        found.encoder("mmlm", 3)
    single = Comparison.from_flags(flags(tmp_path / "single", "full-1"))
    assert single.starts == ["scratch", "full"] and single.seeds == [1, 2, 3]
    shutil.rmtree(tmp_path / "full-1")
    with pytest.raises(UserError, match="full-1: no finished pre-training run there"):
        found.encoder("full", 1)
    with pytest.raises(UserError, match="no finished pre-training run there"):
        Comparison.from_flags(flags(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("pieces", "case", "lower"),
    [("ab", "auto", True), (("a", "▁Das"), "auto", False), (("A",), "lower", True)],
)
def test_the_case_is_that_of_the_vocabulary(tmp_path, pieces, case, lower):
    assert Comparison.from_flags(flags(tmp_path, "full-1", pieces=pieces, case=case)).lower is lower


def test_languages_are_those_of_the_encoders(tmp_path):
    found = Comparison.from_flags(flags(tmp_path, "full-1"))
    assert found.languages_of(["en", "sw"]) == ["en", "sw"]
    (tmp_path / "full-1" / "full").mkdir()
    (tmp_path / "full-1" / "full" / "config.json").write_text(json.dumps({"languages": ["de", "en"]}))
    assert found.languages_of(["en", "de", "sw"]) == ["en", "de"]
    with pytest.raises(UserError, match=r"none of its languages \(sw\) is one of the encoders'"):
        found.languages_of(["sw"])
    named = Comparison.from_flags(flags(tmp_path, languages=["xx"]))
    with pytest.raises(UserError, match="--languages: no xx in the data; it has en, sw"):
        named.languages_of(["en", "sw"])


def test_the_table():
    seeds = {1: {"en": 70.0, "de": 40.0, "fr": 50.0}, 2: {"en": 72.0, "de": 42.0, "fr": 44.0}}
    lines = starts.table({"full": seeds}).splitlines()
    assert lines[0] == "| start | en | de | fr | mean without en |"
    assert lines[2] == "| full | 71.0 ± 1.4 | 41.0 ± 1.4 | 47.0 ± 4.2 | 44.0 ± 1.4 |"
    assert starts.table({"full": {1: seeds[1]}}).splitlines()[2] == "| full | 70.0 | 40.0 | 50.0 | 45.0 |"
