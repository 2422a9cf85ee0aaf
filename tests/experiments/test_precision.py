"""The comparison of float32 with bfloat16 on a CPU: its command lines, its figures, and its table."""

import json

import pytest

from experiments import precision
from experiments.plan import config_of
from finetune.flags import FinetuneFlags
from tests.helpers.small_corpus import ROOT
from utils.command_line import parse_args


def test_the_command_lines(tmp_path):
    """The two trainings of a chain have one seed and one precision. Each of 3 seeds has both precisions."""
    chains = precision.chains(tmp_path, tmp_path / "corpus")
    assert len(chains) == 6
    cpu_bf16 = []
    for fine_tuning, pre_training in chains:
        flags = parse_args(FinetuneFlags, [str(word) for word in fine_tuning.command[1:]])
        config = config_of(pre_training)
        assert flags.max_steps == 400
        assert config.optimizer.steps == 600
        assert flags.random_seed == (config.run.seed,)
        assert flags.cpu_bf16 == config.run.cpu_bf16
        cpu_bf16.append(flags.cpu_bf16)
    assert cpu_bf16 == [False, True] * 3


def test_the_curve_of_a_fine_tuning(tmp_path):
    folder = tmp_path / "fine-tuning-float32-1"
    folder.mkdir()
    scores = {"tables": [{"mean": {"en": 64.0, "de": 50.0, "avg": 57.0}}]}
    (folder / "results.json").write_text(json.dumps(scores), encoding="utf-8")
    steps = range(10, 70, 10)
    log = [f"epoch: 0, step: {step}/60, ave loss: {step / 100:.6f}, ave acc: 0.5" for step in steps]
    folder.with_suffix(".log").write_text("\n".join(log), encoding="utf-8")
    curve = precision.read_fine_tuning(folder)
    assert curve["steps"] == [10, 20, 30, 40, 50, 60]
    assert curve["losses"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert curve["final"][precision.LOSS] == 0.4  # the mean over the last 50 steps: 0.2 to 0.6
    assert curve["final"]["accuracy, ten languages"] == 57.0


def test_the_curve_of_a_pre_training(tmp_path):
    records = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}]
    perplexities = {"de": {"perplexity": 4.0}, "en": {"perplexity": 9.0}}
    held_out = dict.fromkeys(("mmlm", "tlm", "camlm", "btmlm"), perplexities)
    lines = [json.dumps(record) for record in [*records, {"step": 20, "held_out": held_out}]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    curve = precision.read_pre_training(tmp_path)
    assert curve["steps"] == [10, 20]
    assert curve["losses"] == [3.0, 2.0]
    assert curve["final"][precision.LOSS] == 2.5  # the mean of both
    assert curve["final"]["perplexity, tlm"] == pytest.approx(6.0)  # the geometric mean of 4 and 9


def test_the_published_table_is_that_of_the_figures():
    curves = json.loads((ROOT / precision.FIGURES).read_text(encoding="utf-8"))
    table = precision.table(curves)
    assert table in (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8")
    for by_precision in curves.values():  # training -> precision -> seed -> curve
        for by_seed in by_precision.values():
            assert len(by_seed) == len(precision.SEEDS)


def test_a_picture_is_drawn(tmp_path):
    curve = {"steps": [10, 20], "losses": [3.0, 2.0], "final": {}}
    by_precision = {name: {"1": curve, "2": curve} for name in precision.PRECISIONS}
    precision.draw({"fine-tuning": by_precision, "pre-training": by_precision}, tmp_path / "precision.png")
    assert (tmp_path / "precision.png").read_bytes().startswith(b"\x89PNG")
