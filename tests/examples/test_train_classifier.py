"""examples/train_classifier.py has the losses of run_classifier.py."""

import json
import re
import runpy

import paddle
import pytest

from ernie_m.commands import run_classifier
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from tests import command_lines, toys
from tests.helpers.checkpoints import save_model
from tests.launching import ROOT, call_main, check_success, launch

EXAMPLE = ROOT / "examples" / "train_classifier.py"
RATE = 2e-3
FLAGS = {"learning_rate": RATE, "weight_decay": 0.01, "warmup_proportion": 0, "batch_size": 32, "epoch": 3}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_losses_are_those_of_run_classifier_with_each_optimizer(toy_folder, tmp_path, in_tmp_path, processes):
    config = ErnieMConfig.from_dict({**toys.TASK_CONFIG, **toys.WITHOUT_DROPOUT})
    paddle.seed(5)
    save_model(tmp_path / "initial", ErnieMModel(config), config, piece_model_path=toy_folder / "piece.model")
    of_the_start = {"ernie_config_path": None, "piece_model_path": None, "init_pretraining_params": "initial"}
    call_main(
        run_classifier,
        command_lines.classification(toy_folder, tmp_path / "out", **FLAGS, **of_the_start, skip_steps=1),
    )
    records = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    expected = [record["loss"] for record in records if "loss" in record]
    assert len(expected) == 9
    for kind in ("paddle", "ours"):
        words = ["initial", toy_folder / "train.tsv", toy_folder / "label_map.json", kind]
        if processes == 1:
            losses = [*runpy.run_path(str(EXAMPLE))["train"](*words, learning_rate=RATE)]
        else:
            ended = check_success(launch([EXAMPLE, *words, RATE], tmp_path, processes))
            losses = [float(loss) for loss in re.findall(r"loss (.*)", ended.stdout)]
        assert losses == pytest.approx(expected, abs=5e-6)
