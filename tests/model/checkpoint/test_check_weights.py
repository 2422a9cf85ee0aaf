"""A start without a pooler: only a training that reads the pooler writes one, and only it warns of it."""

import shutil
from unittest import mock

import paddle
import pytest
from safetensors.numpy import load_file

from ernie_m.commands import run_classifier, run_mrc, run_retrieval
from ernie_m.finetune.retrieval import run
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from tests import command_lines
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.checkpoints import save_model
from tests.launching import call_main, error_of, read_log

WITHOUT_POOLER = ("pooler.",)


@pytest.fixture
def start(tmp_path, in_tmp_path):
    """start(config_path, leave_out) writes random weights to `tmp_path`/start, which becomes the folder."""

    def write(config_path, leave_out):
        paddle.seed(1)
        config = ErnieMConfig.from_json(config_path)
        save_model(tmp_path / "initial", ErnieMModel(config), config, omitted_prefixes=leave_out)
        return tmp_path / "initial"

    return write


@pytest.mark.parametrize("leave_out", [WITHOUT_POOLER, ()], ids=["without", "with"])
@pytest.mark.parametrize(
    ("command", "line", "folder", "reads_pooler"),
    [
        (run_mrc, command_lines.answering, "answering_folder", False),
        (run_classifier, command_lines.classification, "toy_folder", True),
    ],
    ids=["answers", "classes"],
)
def test_only_a_task_that_reads_the_pooler_writes_it(
    start, tmp_path, request, command, line, folder, reads_pooler, leave_out
):
    folder = request.getfixturevalue(folder)
    flags = {"do_val": "false", "dev_set": None, "lang_map_config": None, "max_steps": 4, "save_steps": 2}
    flags["init_pretraining_params"] = start(folder / "ernie_config.json", leave_out)
    call_main(command, line(folder, tmp_path / "out", **flags))
    assert ("initializing pooler randomly" in read_log(tmp_path)) == (reads_pooler and bool(leave_out))
    written = load_file(tmp_path / "out" / "step_4" / "model.safetensors")
    assert ("pooler.dense.weight" in written) == (reads_pooler or not leave_out)

    # A run resumes without a pooler.
    shutil.rmtree(tmp_path / "out" / "step_4")
    call_main(command, line(folder, tmp_path / "out", **flags))
    assert_equal_arrays(load_file(tmp_path / "out" / "step_4" / "model.safetensors"), written)


@pytest.mark.parametrize("leave_out", [WITHOUT_POOLER, ()], ids=["without", "with"])
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_only_vectors_of_the_pooler_write_it(start, tmp_path, monkeypatch, corpus, pooling, leave_out):
    flags = {"pooling": pooling}
    flags["init_pretraining_params"] = start(corpus.parent / "config.json", leave_out)
    make_encoder = mock.Mock(wraps=run.make_encoder)
    monkeypatch.setattr(run, "make_encoder", make_encoder)
    call_main(run_retrieval, command_lines.retrieval(corpus, tmp_path / "out", **flags))
    # for the initial checkpoint and the best one
    assert {call.args[4] for call in make_encoder.call_args_list} == {pooling}
    is_random = "initializing pooler randomly" in read_log(tmp_path)
    assert is_random == (pooling == "pooler" and bool(leave_out))
    written = load_file(tmp_path / "out" / "best" / "model.safetensors")
    assert ("pooler.dense.weight" in written) == (pooling == "pooler" or not leave_out)


def test_a_search_with_the_pooler_needs_its_weights(start, corpus):
    checkpoint = open_checkpoint(start(corpus.parent / "config.json", WITHOUT_POOLER))
    assert "pooler.dense" in error_of(run.make_encoder, checkpoint.config, checkpoint, pooling="pooler")
