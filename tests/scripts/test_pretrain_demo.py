"""The demo of pre-training: the whole of it at a tiny size, its commands, its tables."""

import json

import pytest
import yaml

from ernie_m.reader.files.pairs import make_header
from scripts import pretrain_demo
from tests.helpers.files import write_file
from tests.launching import ROOT, call_main
from tests.toys import sentences, write_lines

CONFIGS = [yaml.safe_load((ROOT / f"configs/pretrain/exp{row}.yaml").read_text()) for row in (1, 5)]
PAPER = [",".join(config["objectives"]["active"]) for config in CONFIGS]


@pytest.fixture
def output(tmp_path, monkeypatch):
    """The folder of a demo, with little text."""
    monkeypatch.chdir(ROOT)
    output = tmp_path / "demo"
    text = output / "text"
    monkeypatch.setattr(pretrain_demo, "OUTPUT", output)
    monkeypatch.setattr(pretrain_demo, "TEXT", text)
    english = list(dict.fromkeys(sentences(400)))
    rows = [f"{line}\t{line.replace('a', 'ä')}" for line in english]
    backwards = ["\t".join(row.split("\t")[::-1]) for row in rows]
    for name, lines in {
        "train/en.txt": english[:100],
        "train/de.txt": [row.split("\t")[1] for row in rows[100:200]],
        "train/en-de.tsv": ["\t".join(make_header(True)), *rows[200:]],
        "held-out/de-en.tsv": [
            "\t".join(make_header(True)),
            *backwards[:40],
        ],
        "SOURCES.tsv": [],
    }.items():
        write_lines(text / name, lines)
    return output


@pytest.mark.slow
def test_the_demo_repeats_nothing(output, monkeypatch, capfd):
    """The table and the JSON line; a second time nothing is done but the topics."""
    config = yaml.safe_load((ROOT / pretrain_demo.CONFIG).read_text())
    config["run"] |= {"eval_sequences": 8}
    config["optimizer"] |= {"batch_size": 8, "warmup_steps": 1}
    tiny = write_file(output / "tiny.yaml", yaml.safe_dump(config))
    monkeypatch.setattr(pretrain_demo, "CONFIG", tiny)
    words = ["--start_steps", "2", "--steps", "3"]
    call_main(pretrain_demo, words)
    printed = capfd.readouterr().out
    assert "now: fetch public text" not in printed and "now: train a vocabulary" in printed
    scores = json.loads(printed.splitlines()[-1])
    assert list(scores) == ["static embeddings", "start", "exp1, seed 2", "exp5, seed 2", "minutes"]
    assert list(scores["static embeddings"]) == ["found", "topics"]
    for label in ("start", "exp1, seed 2", "exp5, seed 2"):
        assert (
            list(scores[label]) == ["found", "centered", "topics", "mmlm perplexity", "camlm perplexity"]
            and f"\n{label:>17}  " in printed
        )
    call_main(pretrain_demo, words)
    again = capfd.readouterr().out
    assert "now: " not in again
    assert {**json.loads(again.splitlines()[-1]), "minutes": 0} == {**scores, "minutes": 0}


def test_the_demo_compares_both_mixes_from_one_start(output, monkeypatch, capsys):
    """One start, two mixes of the paper side by side, and searches; their difference."""
    begun = []

    def carry_out(*steps):
        begun.append([dict(zip(step.words[1::2], map(str, step.words[2::2]))) for step in steps])

    found = {"pieces": 9.0, "start-700": 10.0, "exp1-seed-2": 20.0, "exp5-seed-2": 25.5}
    monkeypatch.setattr(pretrain_demo, "run_steps", carry_out)
    scores = {name: {"found": score, "perplexity": 100 / score} for name, score in found.items()}
    del scores["pieces"]["perplexity"]  # of static embeddings
    monkeypatch.setattr(pretrain_demo, "read_scores", lambda folder: scores[folder.name])
    call_main(pretrain_demo, ["--steps", "50"])
    start, *mixes = [flags for steps in begun for flags in steps if "--run.output" in flags]
    assert start["--objectives.active"] == "mmlm" and "--init.encoder" not in start
    assert [mix["--objectives.active"] for mix in mixes] == PAPER and mixes in begun
    from_start = ("50", start["--run.output"] + "/full")
    assert {(mix["--optimizer.steps"], mix["--init.encoder"]) for mix in mixes} == {from_start}
    assert len({mix["--run.output"] for mix in mixes}) == 2
    searched = [
        flags["--init_pretraining_params"] for steps in begun for flags in steps if "--pairs" in flags
    ]
    encoders = [training["--run.output"] + "/encoder" for training in (start, *mixes)]
    assert searched == [str(output / "pieces/best"), *encoders]
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "                   found  perplexity",
        "static embeddings    9.0           -",
        "            start   10.0        10.0",
        "     exp1, seed 2   20.0         5.0",
        "     exp5, seed 2   25.5         3.9",
        "",
        "found: +5.5 with all four objectives vs. MMLM",
        "perplexity: -1.1 with all four objectives vs. MMLM",
    ]
    assert {**json.loads(last), "minutes": 0} == {
        "static embeddings": scores["pieces"],
        "start": scores["start-700"],
        "exp1, seed 2": scores["exp1-seed-2"],
        "exp5, seed 2": scores["exp5-seed-2"],
        "minutes": 0,
    }
