"""scripts/ablation.sh: the whole of it at a tiny size, the commands of its scales, its tables."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ernie_m.data.download_text import LanguagePairs, Package, write_pairs
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.utils.args import parse_options
from scripts import ablation
from tests.helpers.files import write_file
from tests.launching import ROOT, call_main, clean_environment
from tests.toys import sentences, write_lines

# Instead of Python: it writes its arguments as a line of JSON.
RECORDER = f"""#!{sys.executable}
import json, sys
with open("lines.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
OBJECTIVES = {
    f"exp{row}": yaml.safe_load((ROOT / f"configs/pretrain/exp{row}.yaml").read_text())["objectives"][
        "active"
    ]
    for row in range(1, 6)
}


@pytest.fixture
def output(tmp_path, monkeypatch):
    """The folder of an ablation, with little text in English and German."""
    monkeypatch.chdir(ROOT)
    output = tmp_path / "ablation"
    monkeypatch.setattr(ablation, "OUTPUT", output)
    monkeypatch.setattr(ablation, "LANGUAGES", ("de",))
    pairs = [(line, line.replace("a", "ä")) for line in dict.fromkeys(sentences(600))]
    labeled = [(*pair, f"package {number % 2}") for number, pair in enumerate(pairs[:100])]
    packages = [Package(f"package {number}", "1", "2", "MIT", "train", "0f") for number in range(2)]
    (output / "text").mkdir(parents=True)
    write_pairs(
        output / "text", packages, {"de": LanguagePairs(pairs[140:], labeled, pairs[100:140], Counter())}
    )
    return output


@pytest.mark.slow
def test_the_ablation_repeats_nothing(output, monkeypatch, capfd):
    """The table and the JSON line; a second time nothing is done."""
    config = yaml.safe_load((ROOT / ablation.CONFIG).read_text())
    config["run"] |= {"eval_sequences": 8}
    config["optimizer"] |= {"batch_size": 8, "warmup_steps": 1}
    tiny = output / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(ablation, "CONFIG", str(tiny))
    words = ["--scale", "quick", "--tokens", "1500"]
    call_main(ablation, words)
    printed = capfd.readouterr().out
    assert "download public text" not in printed and "train a vocabulary" in printed
    scores = json.loads(next(line for line in printed.splitlines() if line.startswith('{"scale"')))
    assert scores.keys() == {"scale", "steps", "tokens", "random", "exp1", "exp4", "static"}
    assert scores["static"][0].keys() == {"transfer", "retrieval"}
    assert [*scores["exp4"][0]] == ["transfer", "retrieval", "centered", "mmlm", "tlm", "camlm"]
    runs = output / f"steps-{scores['steps']}"
    trained = [
        json.loads((runs / f"{row}-1/metrics.jsonl").read_text().splitlines()[-2]) for row in ("exp1", "exp4")
    ]
    assert trained[0]["tokens"] == pytest.approx(trained[1]["tokens"], rel=0.25)
    assert trained[0]["tokens"] == pytest.approx(1500, rel=0.25)
    assert (runs / "curves.svg").is_file() or "no plot: " in printed
    call_main(ablation, words)
    again = capfd.readouterr().out
    assert "train" not in again.split("transfer, XNLI")[0]


def test_rows_differ_in_objectives_and_batch_size(output, monkeypatch, capsys):
    """All rows of a seed continue its start, with equal tokens in a step. The table has errors over seeds."""
    tokens = {"mmlm": 10.0, "tlm": 20.0, "camlm": 20.0, "btmlm": 15.0}
    begun = []
    monkeypatch.setattr(ablation, "find_spec", lambda _: None)  # no matplotlib, as there are no curves
    monkeypatch.setattr(
        ablation, "measure_tokens", lambda _, mix: sum(tokens[name] * mix[name] for name in mix)
    )
    monkeypatch.setattr(ablation, "run_commands", lambda *commands: begun.extend(commands))
    seed_scores = {
        "static": 9.0,
        **{f"{row}-{seed}": 10.0 * seed for row in OBJECTIVES for seed in (1, 2, 3)},
    }
    monkeypatch.setattr(
        ablation, "read_scores", lambda folder, _: {"transfer": seed_scores.get(folder.name, 0.0)}
    )
    call_main(ablation, ["--scale", "night", "--tokens", "100000"])
    words = [[*map(str, command.words[1:])] for command in begun if command.words[0] == "run_pretrain"]
    runs = {
        Path(config.run.output).name: config
        for config in (parse_options(PretrainConfig, line) for line in words)
    }
    assert len(runs) == 3 * 7
    for row, objectives in OBJECTIVES.items():
        start, config = runs["start-2"], runs[f"{row}-2"]
        assert config.init.checkpoint == f"{start.run.output}/checkpoints/step_{start.run.stop_after_steps}"
        mix = config.objectives.mixing_ratios
        assert (
            sorted(config.objectives.names) == sorted(objectives)
            and not config.objectives.later_mixing_ratios
        )
        of_step = config.optimizer.batch_size * sum(tokens[name] * mix[name] for name in mix)
        assert of_step == pytest.approx(64 * 1000, rel=0.02)
        config.optimizer.batch_size = start.optimizer.batch_size
        assert (config.optimizer, config.run.seed, config.model) == (start.optimizer, 2, start.model)
    assert runs["random-3"].optimizer.steps == 1 and start.run.stop_after_steps == 34
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["exp3", "mmlm", "camlm", "20.0", "±", "5.8"] in table and ["static", "9.0"] in table


def test_the_papers_size(tmp_path, monkeypatch):
    """First XLM-R is converted, then each model is pre-trained and fine-tuned."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    script = ["sh", str(tmp_path / "scripts/ablation.sh"), "--scale", "paper", "--optimizer.steps", "7"]
    environment = clean_environment(NPROC="2")
    missing = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 2 and missing.stderr.startswith("error: missing .venv")
    python = tmp_path / ".venv/bin/python"
    write_file(python, RECORDER)
    python.chmod(0o755)
    results = tmp_path / "output/ablation/exp0/xnli/results.txt"
    write_lines(results, ["mean  75.50"])
    shown = subprocess.run(script, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.endswith("mean  75.50\n")
    monkeypatch.chdir(ROOT)
    first, *lines = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    encoders = [f"output/ablation/exp{number}/encoder" for number in range(6)]  # exp0 is XLM-R itself
    assert first == ["-m", "ernie_m", "convert", "weights/xlm-roberta-base", encoders[0], "--to", "ernie-m"]
    pretrained = {}  # output of each pre-training -> its objectives
    fine_tuned = []  # encoder and output of each fine-tuning
    for line in lines:
        program = next(word for word in line if word.startswith("run_"))
        flags = line[line.index(program) + 1 :]
        if program == "run_pretrain.py":
            config = parse_options(PretrainConfig, flags)
            assert (config.optimizer.steps, config.init.encoder) == (7, "weights/xlm-roberta-base")
            pretrained[f"{config.run.output}/encoder"] = {*config.objectives.names}
        else:
            flags = parse_options(FinetuneFlags, flags)
            assert (flags.random_seed, flags.do_test) == ((1, 2, 3, 4, 5), True)
            fine_tuned.append((flags.init_pretraining_params, flags.checkpoints))
    assert [*pretrained] == encoders[1:] and pretrained[encoders[5]] == {"mmlm", "tlm", "camlm", "btmlm"}
    assert fine_tuned == [
        (encoder, encoder.replace("encoder", task)) for encoder in encoders for task in ("xnli", "conll")
    ]
