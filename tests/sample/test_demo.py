"""The demo: the whole of it at a tiny size, its jobs, its tables."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest
import yaml

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import write_json
from scripts import demo
from scripts.jobs import Job, carry_out_chains
from scripts.sample.scenes import CODES
from tests.launching import ROOT, one_error


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The demo in a folder of its own, which is returned, with little to learn."""
    monkeypatch.chdir(ROOT)
    output = tmp_path / "demo"
    monkeypatch.setattr(demo, "OUTPUT", output)
    monkeypatch.setattr(demo, "SAMPLE", output / "sample")
    monkeypatch.setattr(demo, "CORPUS", output / "corpus")
    monkeypatch.setattr(demo, "LOGS", output / "logs")
    monkeypatch.setattr(demo, "SHAPE", output / "ernie_config.json")
    monkeypatch.setattr(demo, "SEED", output / "seed.json")
    monkeypatch.setattr(demo, "PICTURE", output / "demo.svg")
    config = yaml.safe_load((ROOT / demo.CONFIG).read_text())
    config["data"]["corpus"] = str(demo.CORPUS)
    config["optimizer"] |= {"tokens": 2000, "batch_size": 16, "warmup_steps": 1}
    config["run"] |= {"log_steps": 2, "eval_sequences": 0}
    monkeypatch.setattr(demo, "CONFIG", tmp_path / "tiny.yaml")
    demo.CONFIG.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(demo, "SAMPLE_SET", {"documents": 40, "pairs": 60, "hypotheses": 20, "pieces": 700})
    monkeypatch.setattr(demo, "FINE_TUNING", demo.FINE_TUNING | {"epoch": 1, "skip_steps": 1})
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2"])
    return output


@pytest.mark.slow
def test_the_whole_way(tiny, monkeypatch, capfd):
    """What the demo prints, the files that its last lines name, and the figures in its JSON line."""
    (tiny / "camlm" / "checkpoints" / "step_7").mkdir(parents=True)  # of a demo that was broken off
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2", "--overwrite"])
    demo.main()
    printed = capfd.readouterr().out
    assert "training a vocabulary of 700 pieces" in printed
    for name in ("camlm pre-training: step ", "mmlm pre-training: step ", "scratch fine-tuning: epoch: "):
        assert name in printed
    assert (tiny / "demo.svg").is_file()
    assert not (tiny / "camlm" / "checkpoints" / "step_7").exists()
    tokens = {}  # model -> how many tokens it was trained on
    for name in ("mmlm", "camlm"):
        last_line = (tiny / name / "metrics.jsonl").read_text().splitlines()[-1]
        tokens[name] = json.loads(last_line)["tokens"]
    # They are equal but for a step more or less, of about 12 steps.
    assert tokens["camlm"] == pytest.approx(tokens["mmlm"], rel=0.2)

    command, result_line = printed.splitlines()[-2:]
    words = shlex.split(command)  # ernie-m predict --serve, then names and values of flags
    assert words[:3] == [".venv/bin/ernie-m", "predict", "--serve"]
    flags = dict(zip(words[3::2], words[4::2]))
    models = flags["--model"].split(",")
    texts = [item.split("<=")[1] for item in flags["--corpus"].split(",")]  # language<=file
    assert len(models) == 2 and len(texts) == len(CODES)
    assert all(Path(path).exists() for path in models + texts)

    result = json.loads(result_line)
    starts = {
        "zero_shot": ["scratch", "mmlm", "camlm"],
        "retrieval": ["scratch", "mmlm", "camlm"],
        "retrieval_centred": ["mmlm", "camlm"],  # random weights have no means beside them
        "retrieval_centred_margin": ["mmlm", "camlm"],
    }
    assert list(result) == [*starts, "seconds"]
    for measure, names in starts.items():
        assert list(result[measure]) == names
        assert all(0 <= value <= 100 for value in result[measure].values())
    scores = json.loads((tiny / "camlm-nli" / "results.json").read_text())["tables"][0]["mean"]
    zero_shot = [scores[code] for code in CODES if code != "en"]
    mean = sum(zero_shot) / len(zero_shot)
    assert result["zero_shot"]["camlm"] == pytest.approx(mean, abs=0.006)  # it is printed with two decimals


def test_an_earlier_demo_is_not_deleted_unasked(tiny, capsys):
    model = tiny / "camlm" / "encoder" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.touch()
    demo.SEED.write_text("2")
    demo.PICTURE.touch()
    line = one_error(demo.main, capsys)
    assert f"{tiny} holds an earlier demo: sh scripts/demo.sh --overwrite deletes it" in line
    assert model.exists()


def test_the_same_command_goes_on_with_a_demo_that_was_broken_off(tiny, monkeypatch, capsys):
    """Only the jobs without a result are done again. Another seed is refused."""
    done = []
    sample_made = []

    def carry_out(chains, at_once):
        for chain in chains:
            for job in chain:
                if not job.finished():
                    done.append(job.name)
                    if job.name == "mmlm pre-training" and done.count(job.name) == 1:
                        raise KeyboardInterrupt
                    if job.result:
                        job.result.parent.mkdir(parents=True, exist_ok=True)
                        job.result.touch()

    def write_sample(folder, seed, **_):
        sample_made.append(seed)
        folder.mkdir()
        (folder / "vocab.txt").touch()

    monkeypatch.setattr(demo, "carry_out_chains", carry_out)
    monkeypatch.setattr(demo, "write_sample", write_sample)
    monkeypatch.setattr(demo, "show", lambda seconds: demo.PICTURE.touch())
    with pytest.raises(KeyboardInterrupt):
        demo.main()
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "3"])
    assert f"{tiny} holds a demo of another seed: --seed 2 " in one_error(demo.main, capsys)
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2"])
    demo.main()
    assert sample_made == [2]
    starts = ["camlm", "mmlm", "scratch"]
    jobs = [f"{start} {part}" for start in starts for part in ("pre-training", "fine-tuning", "search")]
    jobs.remove("scratch pre-training")
    assert sorted(done) == sorted([*jobs, "mmlm pre-training", "corpus", "corpus"])
    assert "holds an earlier demo" in one_error(demo.main, capsys)


def test_table_6_goes_on_with_the_sample_set_of_a_finished_demo(tiny, monkeypatch, capsys):
    """Each row pre-trains with the objectives of its configuration at the paper's size; all are shown."""
    demo.make_room(2, overwrite=False, table6=False)
    demo.PICTURE.touch()
    planned = {}

    def carry_out(chains, at_once):
        for chain in chains:
            planned.update((job.name, list(job.command)) for job in chain)
            *_, fine_tuning, search = [job.result for job in chain]
            mean = 10 * len(planned)  # another one for each start
            write_json(fine_tuning, {"tables": [{"mean": dict.fromkeys(CODES, mean)}]})
            rows = dict.fromkeys(demo.SEARCHES.values(), dict.fromkeys(CODES, mean + 1))
            write_json(search, {"rows": rows})

    monkeypatch.setattr(demo, "carry_out_chains", carry_out)
    monkeypatch.setattr(demo, "make_sample", lambda seed: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--seed", "2", "--table6"])
    demo.main()
    starts = ["scratch", *demo.TABLE_6]
    for row in demo.TABLE_6:
        command = planned.pop(f"{row} pre-training")
        active = command[command.index("--objectives.active") + 1].split(",")
        paper = yaml.safe_load((ROOT / "configs" / "pretrain" / f"{row}.yaml").read_text())
        assert active == paper["objectives"]["active"]
    assert sorted(planned) == sorted(
        f"{start} {part}" for start in starts for part in ("fine-tuning", "search")
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["zero_shot"]) == list(result["retrieval"]) == starts
    for start in starts:
        assert result["retrieval"][start] == result["zero_shot"][start] + 1


def test_a_job_that_fails_ends_the_others(tmp_path, capfd):
    """Job b fails while a sleeps: a is ended, and next, which waits for a, does not begin."""

    def job(name: str, code: str) -> Job:
        return Job(name, ["-c", code], output=tmp_path / f"{name}.log")

    started = time.monotonic()
    chains = [
        [job("a", "import time; time.sleep(60)"), job("next", "1")],
        [job("b", "print('step 1'); print('no luck'); raise SystemExit(2)")],
        [job("c", "print('step 2')")],
    ]
    with pytest.raises(UserError, match=r"stopped at b \(.*b.log\): no luck"):
        carry_out_chains(chains, at_once=2)
    assert time.monotonic() - started < 30
    printed = capfd.readouterr().out
    assert "b: step 1\n" in printed and "no luck" not in printed  # only progress is printed
    assert (tmp_path / "b.log").read_text() == "step 1\nno luck\n"
    assert not (tmp_path / "next.log").exists()


def test_a_job_that_ends_without_its_result_ends_the_others(tmp_path):
    """Its exit code is 0, but the file that it should write is missing."""
    first = Job("a", ["-c", "print('saved')"], tmp_path / "result", output=tmp_path / "a.log")
    with pytest.raises(UserError, match=r"stopped at a \(.*a.log\): saved"):
        carry_out_chains([[first, Job("next", ["-c", "raise SystemExit(2)"])]], at_once=1)


def test_ctrl_c_ends_the_jobs_and_what_follows():
    """The job sends its parent, this process, the signal of Ctrl-C."""
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        carry_out_chains([[Job("a", ["-c", code]), Job("next", ["-c", "1"])]], at_once=1)
    assert time.monotonic() - started < 30


def test_means_leave_english_out():
    """50.5 is the mean of 50 and 51."""
    row = {"en": 90.0, "de": 50.0, "zh": 51.0}
    assert demo.mean(row) == 50.5
    assert demo.table({"camlm": row}).splitlines()[1].split() == ["camlm", "90.0", "50.0", "51.0", "50.5"]
