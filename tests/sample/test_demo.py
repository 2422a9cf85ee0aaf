"""The demo: its whole way at a tiny size, its jobs, its tables."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts import demo
from scripts.jobs import Job, carry_out_chains
from tests.helpers.small_corpus import ROOT
from tests.launching import one_error
from utils.errors import UserError


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The demo in a folder of its own, with little to learn."""
    monkeypatch.chdir(ROOT)
    names = {"SAMPLE": "sample", "CORPUS": "corpus", "LOGS": "logs", "SHAPE": "ernie_config.json"}
    for name, path in ({"OUTPUT": "."} | names).items():
        monkeypatch.setattr(demo, name, tmp_path / "demo" / path)
    config = yaml.safe_load((ROOT / demo.CONFIG).read_text())
    config["data"]["corpus"] = str(demo.CORPUS)
    config["optimizer"] |= {"tokens": 2000, "batch_size": 16, "warmup_steps": 1}
    config["run"] |= {"log_steps": 2, "eval_sequences": 0}
    monkeypatch.setattr(demo, "CONFIG", tmp_path / "tiny.yaml")
    demo.CONFIG.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(demo, "SAMPLE_SET", {"documents": 40, "pairs": 60, "hypotheses": 20, "pieces": 700})
    monkeypatch.setattr(demo, "FINE_TUNING", demo.FINE_TUNING | {"epoch": 1, "skip_steps": 1})
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2"])
    return tmp_path / "demo"


@pytest.mark.slow
def test_the_whole_way(tiny, monkeypatch, capfd):
    (tiny / "full" / "checkpoints" / "step_7").mkdir(parents=True)  # of a demo that was broken off
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2", "--overwrite"])
    demo.main()
    printed = capfd.readouterr().out
    assert "training a vocabulary of 700 pieces" in printed
    for name in ("full pre-training: step ", "mmlm pre-training: step ", "scratch fine-tuning: epoch: "):
        assert name in printed
    assert (tiny / "demo.png").is_file()
    assert not (tiny / "full" / "checkpoints" / "step_7").exists()
    steps = {name: (tiny / name / "metrics.jsonl").read_text().splitlines()[-1] for name in ("mmlm", "full")}
    tokens = {name: json.loads(line)["tokens"] for name, line in steps.items()}
    assert tokens["full"] == pytest.approx(tokens["mmlm"], rel=0.2)  # a step more or less of some 12
    words = shlex.split(printed.splitlines()[-2])
    assert words[1:3] == ["predict.py", "--serve"]
    flags = dict(zip(words[3::2], words[4::2]))
    paths = flags["--model"].split(",") + [part.split("<=")[1] for part in flags["--corpus"].split(",")]
    assert len(paths) == 12 and all(Path(path).exists() for path in paths)
    result = json.loads(printed.splitlines()[-1])
    starts = {
        "zero_shot": ["scratch", "mmlm", "full"],
        "retrieval": ["scratch", "mmlm", "full"],
        "retrieval_centred": ["mmlm", "full"],  # random weights have no means beside them
        "retrieval_centred_margin": ["mmlm", "full"],
    }
    assert list(result) == [*starts, "seconds"]
    for measure, names in starts.items():
        assert list(result[measure]) == names
        assert all(0 <= value <= 100 for value in result[measure].values())
    scores = json.loads((tiny / "full-nli" / "results.json").read_text())["tables"][0]["mean"]
    zero_shot = [value for code, value in scores.items() if code not in ("en", "avg", "gap")]
    assert result["zero_shot"]["full"] == pytest.approx(sum(zero_shot) / 9, abs=0.006)


def test_an_earlier_demo_is_not_deleted_unasked(tiny, capsys):
    model = tiny / "full" / "encoder" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.touch()
    line = one_error(demo.main, capsys)
    assert f"{tiny} holds an earlier demo: sh scripts/demo.sh --overwrite deletes it" in line
    assert model.exists()


def test_a_job_that_fails_ends_the_others(tmp_path, capfd):
    def job(name: str, code: str) -> Job:
        return Job(name, ["-c", code], output=tmp_path / f"{name}.log")

    started = time.monotonic()
    chains = [[job("a", "import time; time.sleep(60)"), job("next", "1")]]
    chains += [[job("b", "print('step 1'); print('no luck'); raise SystemExit(2)")]]
    chains += [[job("c", "print('step 2')")]]
    with pytest.raises(UserError, match=r"stopped at b \(.*b.log\): no luck"):
        carry_out_chains(chains, at_once=2)
    assert time.monotonic() - started < 30
    printed = capfd.readouterr().out
    assert "b: step 1\n" in printed and "no luck" not in printed
    assert (tmp_path / "b.log").read_text() == "step 1\nno luck\n"
    assert not (tmp_path / "next.log").exists()


def test_a_job_that_ends_without_its_result_ends_the_others(tmp_path):
    first = Job("a", ["-c", "print('saved')"], tmp_path / "result", output=tmp_path / "a.log")
    with pytest.raises(UserError, match=r"stopped at a \(.*a.log\): saved"):
        carry_out_chains([[first, Job("next", ["-c", "raise SystemExit(2)"])]], at_once=1)


def test_ctrl_c_ends_the_jobs_and_what_follows():
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        carry_out_chains([[Job("a", ["-c", code]), Job("next", ["-c", "1"])]], at_once=1)
    assert time.monotonic() - started < 30


def test_means_leave_english_out():
    row = {"en": 90.0, "de": 50.0, "zh": 51.0}
    assert demo.mean(row) == 50.5
    assert demo.table({"full": row}).splitlines()[1].split() == ["full", "90.0", "50.0", "51.0", "50.5"]
