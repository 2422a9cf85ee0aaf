"""The demo of pre-training: the whole of it at a tiny size, its commands, its tables."""

import json
import os
import signal
import threading
import time

import pytest
import yaml

from ernie_m.reader.files.pairs import header_of
from scripts import pretrain_demo
from tests.launching import ROOT, call_main
from tests.toys import sentences, write_lines

CONFIGS = [yaml.safe_load((ROOT / f"configs/pretrain/exp{row}.yaml").read_text()) for row in range(1, 6)]
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
        "train/en-de.tsv": ["\t".join(header_of(True)), *rows[200:]],
        "held-out/de-en.tsv": [
            "\t".join(header_of(True)),
            *backwards[:40],
        ],
        "SOURCES.tsv": [],
    }.items():
        (text / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(text / name, lines)
    return output


@pytest.mark.slow
def test_the_whole_way(output, monkeypatch, capfd):
    """The table and the JSON line; a second time nothing is done but the topics."""
    config = yaml.safe_load((ROOT / pretrain_demo.CONFIG).read_text())
    config["run"] |= {"eval_sequences": 8}
    config["optimizer"] |= {"batch_size": 8, "warmup_steps": 1}
    tiny = output / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(pretrain_demo, "CONFIG", tiny)
    words = ["--start_steps", "2", "--steps", "3"]
    call_main(pretrain_demo, words)
    printed = capfd.readouterr().out
    assert "now: fetch public text" not in printed and "now: train a vocabulary" in printed
    scores = json.loads(printed.splitlines()[-1])
    assert list(scores) == ["static embeddings", "start", "exp1, seed 2", "exp5, seed 2", "minutes"]
    assert list(scores["static embeddings"]) == ["found", "topics"]
    for label in ("start", "exp1, seed 2", "exp5, seed 2"):
        assert list(scores[label]) == ["found", "centred", "topics", "mmlm perplexity", "camlm perplexity"]
        assert f"\n{label:>17}  " in printed
    call_main(pretrain_demo, words)
    again = capfd.readouterr().out
    assert "now: " not in again
    assert {**json.loads(again.splitlines()[-1]), "minutes": 0} == {**scores, "minutes": 0}


def test_the_commands_of_table_6(output, monkeypatch, capsys):
    """One start, five mixes of each seed, two at a time, with the paper's objectives; differences by seed."""
    begun = []

    def carry_out(*steps):
        begun.append([dict(zip(step.words[1::2], map(str, step.words[2::2]))) for step in steps])

    found = {
        "pieces": 9.0,
        "start": 10.0,
        "exp1": 20.0,
        "exp2": 21.0,
        "exp3": 22.0,
        "exp4": 23.0,
        "exp5": 24.0,
    }

    def scores_of(folder):
        name, _, seed = folder.name.partition("-seed-")
        return {
            "found": found[name if seed else name.partition("-")[0]]
            + (3.0 if (name, seed) == ("exp5", "3") else 0.0)
        }

    monkeypatch.setattr(pretrain_demo, "carry_out", carry_out)
    monkeypatch.setattr(pretrain_demo, "scores_of", scores_of)
    call_main(pretrain_demo, ["--table6", "--seeds", "2,3", "--steps", "50"])
    trainings = [flags for flags_of in begun for flags in flags_of if "--run.output" in flags]
    start, *mixes = trainings
    assert start["--objectives.active"] == "mmlm" and "--init.encoder" not in start
    assert [mix["--run.seed"] for mix in mixes] == ["2"] * 5 + ["3"] * 5
    assert [mix["--objectives.active"] for mix in mixes] == 2 * PAPER
    assert {mix["--optimizer.steps"] for mix in mixes} == {"50"}
    assert {mix["--init.encoder"] for mix in mixes} == {start["--run.output"] + "/full"}
    assert len({mix["--run.output"] for mix in mixes}) == 10
    assert all(len(flags_of) == 2 for flags_of in begun if flags_of[0] in mixes)
    searched = [
        flags["--init_pretraining_params"] for flags_of in begun for flags in flags_of if "--pairs" in flags
    ]
    encoders = [training["--run.output"] + "/encoder" for training in trainings]
    assert searched == [str(output / "pieces/best"), *encoders]
    printed = capsys.readouterr().out
    # 4 and 7 points: their mean, and half of their difference.
    assert "exp5: mmlm,btmlm,camlm,tlm\n  found: +5.5 ± 1.5 to MMLM alone" in printed
    assert "exp2: mmlm,tlm\n  found: +1.0 ± 0.0 to MMLM alone" in printed
    scores = json.loads(printed.splitlines()[-1])
    assert scores["exp5, seed 3"] == {"found": 27.0} and len(scores) == 1 + 1 + 10 + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_receives_the_signals_to_stop(tmp_path, monkeypatch, number):
    """It is in a group of its own: a terminal's Ctrl-C, which goes to a group, reaches it once."""
    (tmp_path / "ernie_m").mkdir()
    (tmp_path / "ernie_m/__init__.py").touch()
    (tmp_path / "ernie_m/__main__.py").write_text(
        "import os, signal, sys, time\n"
        "def stop(number, frame):\n"
        "    print(number, file=open(sys.argv[1], 'a'))\n"
        "    sys.exit(9)\n"
        "signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, stop)\n"
        "print(os.getpgrp() == os.getpid(), file=open(sys.argv[1], 'a'))\n"
        "time.sleep(20)\n"
    )
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"

    def send():
        while not (log.is_file() and log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert pretrain_demo.run_programs([str(log)]) == 9
    sender.join()
    assert log.read_text().split() == ["True", str(int(number))]


def test_programs_side_by_side(tmp_path, monkeypatch, capfd):
    """Each waits for a file of the other one; the second prints its error alone, and its code counts."""
    (tmp_path / "ernie_m").mkdir()
    (tmp_path / "ernie_m/__init__.py").touch()
    (tmp_path / "ernie_m/__main__.py").write_text(
        "import os, sys, time\n"
        "mine, other, code = sys.argv[1:]\n"
        "open(mine, 'w').close()\n"
        "while not os.path.exists(other):\n"
        "    time.sleep(0.01)\n"
        "print('output of', mine)\n"
        "sys.stderr.write(f'error of {mine}\\n')\n"  # at once, or two programs' words are mixed
        "sys.exit(int(code))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert pretrain_demo.run_programs(["a", "b", "0"], ["b", "a", "7"]) == 7
    printed = capfd.readouterr()
    assert printed.out == "output of a\n"
    assert sorted(printed.err.splitlines()) == ["error of a", "error of b"]
