"""The release of PaddlePaddle by its name on the hub, in each command; tests/scripts/ has the recipes.

The hub is a stand-in. Its weights are random, and its vocabulary is another one than the release's.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import ernie_m
from ernie_m.commands import convert, fit, run_pretrain
from ernie_m.model.checkpoint.open import open_checkpoint
from tests import command_lines, toys
from tests.foreign import RELEASED_CONFIG, make_released
from tests.helpers.hub import NAME, TINY, serve_release
from tests.launching import ROOT, call_main, check_success, run_script, stand_in_for_launch
from tests.pretrain import tiny_run

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus with the vocabulary of the stand-in."""
    return toys.make_small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def hub(corpus, tmp_path, monkeypatch):
    """A hub with the tiny base, whose vocabulary is that of the corpus."""
    monkeypatch.chdir(tmp_path)
    with serve_release(tmp_path, monkeypatch, corpus.parent / "piece.model") as hub:
        yield hub


def test_the_stand_in_has_the_sizes_of_the_release(hub):
    """In bytes, which the hub lists: the keys in their order make up the JSON files."""
    configs = [json.dumps(RELEASED_CONFIG | size, indent=2) for size in ({}, LARGE)]
    assert [len(text) + 1 for text in configs] == [458, 459]  # and a line break
    names = ("tokenizer_config.json", "special_tokens_map.json")
    assert [(hub.root / NAME / name).stat().st_size for name in names] == [219, 112]


@pytest.mark.parametrize("prefix", ["", "ernie_m."])
@pytest.mark.parametrize("pooler", [True, False])
def test_load_by_name(hub, corpus, monkeypatch, prefix, pooler):
    """All tensors, whatever their names are. The second time no hub is needed."""
    folder = hub.root / NAME
    arrays = make_released(folder, corpus.parent / "piece.model", prefix, pooler, **TINY)
    vectors = ernie_m.load(NAME).encode(["ba da fan"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(ernie_m.load(NAME).encode(["ba da fan"]), vectors)
    checkpoint = open_checkpoint(NAME)
    assert checkpoint.tensors.keys() == arrays.keys() and checkpoint.has_pooler is pooler
    assert all(np.array_equal(checkpoint.tensors[name], array) for name, array in arrays.items())
    assert checkpoint.load_tokenizer().vocab_size == checkpoint.config.vocab_size
    assert sorted(hub.fetched) == sorted(path.name for path in folder.iterdir())


def test_fit_and_convert_by_name(hub, tmp_path):
    rows = [f"{text},{'ab'[number % 2]}" for number, text in enumerate(toys.sentences(20))]
    toys.write_lines(tmp_path / "table.csv", ["text,label", *rows])
    call_main(fit, ["table.csv", "--model", NAME, "--output", "fitted"])
    assert ernie_m.load("fitted").labels == ["a", "b"]
    convert.main([NAME, "converted", "--to", "xlm-roberta"])
    assert open_checkpoint("converted").config.hidden_size == TINY["hidden_size"]


def test_pretrain_by_name(hub, corpus, tmp_path):
    """The release has no masked-LM head, and the log says that the run has a new one."""
    flags = {"init__encoder": NAME, "run__stop_after_steps": 1}
    call_main(run_pretrain, command_lines.pretraining(corpus, tmp_path / "out", **flags))
    log = (tmp_path / "out/log/job.log.0").read_text()
    assert f"loaded encoder: {constants.HF_HUB_CACHE}" in log and "no masked-LM head; " in log


@pytest.mark.slow
def test_two_processes_of_fleetrun_pretrain_and_resume(hub, corpus, tmp_path):
    """Ten steps, and ten that were stopped after the fifth: the same bits."""
    steps = {"optimizer__steps": 10, "run__save_steps": 5, "init__encoder": NAME}
    launcher = [Path(sys.executable).with_name("fleetrun"), "--nproc_per_node", "2", "--backend", "gloo"]
    for out, stop in (("straight", 0), ("resumed", 5), ("resumed", 0)):
        line = command_lines.pretraining(corpus, tmp_path / out, **steps, run__stop_after_steps=stop)
        check_success(run_script([*launcher, ROOT / "run_pretrain.py", *line], tmp_path))
    tiny_run.assert_equal_runs(tmp_path / "straight", tmp_path / "resumed", 10)


def test_verify_weights_takes_a_name_or_a_folder(tmp_path):
    """In a clone whose verify_weights.py only prints its arguments, as does its launch.py."""
    clone = stand_in_for_launch(tmp_path / "clone")
    (clone / "scripts").mkdir()
    shutil.move(clone / "launch.py", clone / "scripts/verify_weights.py")
    (clone / "scripts/setup.sh").touch()
    for name in ("env.sh", "verify_weights.sh"):
        shutil.copy(ROOT / "scripts" / name, clone / "scripts")
    for argument, expected in ((NAME, NAME), ("clone/scripts", f"{tmp_path}/clone/scripts")):
        command = ["sh", "clone/scripts/verify_weights.sh", argument]
        assert json.loads(subprocess.check_output(command, cwd=tmp_path)) == [expected]
