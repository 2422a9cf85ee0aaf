"""Of two commands with one output, the second is refused; the folder is as the first one leaves it.

Those of fine-tuning are in tests/finetune/test_run_setup.py, and ernie-m predict and its index in
tests/inference.
"""

import re

import pytest

from ernie_m.commands import (
    convert,
    encode_vector,
    export,
    fit,
    mine_hard_negatives,
    mine_pairs,
    run_pretrain,
)
from ernie_m.data import download_e5_small, download_weights, prepare, train_vocab
from ernie_m.pretrain.build_corpus import command as build_corpus
from ernie_m.utils import files
from tests.launching import another_process_writes, call_main, error_of
from tests.toys import train_piece_model, write_lines

# Each command with the flags that name its output, {}; it is refused before it reads what is named next to.
COMMANDS = {
    "convert": (convert, "--source source --target {} --to paddlenlp"),
    "export": (export, "--model source --output {}"),
    "encode_vector": (encode_vector, "--init_pretraining_params source --data_set a.txt --output_dir {}"),
    "prepare": (prepare, "panx source --output {}"),
    "train_vocab": (train_vocab, "--mono en<=source.txt --output {}"),
    "fit": (fit, "source.csv --model source --output {}"),
    "download_weights": (download_weights, "vocab --configs {}"),
    "get_weights_e5": (download_e5_small, "--configs {}"),
    "mine_pairs": (mine_pairs, "--source text.txt --target text.txt --model . --output {}"),
    "mine_hard_negatives": (
        mine_hard_negatives,
        "--train_set a.tsv --corpus a.txt --model source --output {}",
    ),
    "build_corpus": (build_corpus, "--mono en<=text.txt --piece_model_path piece.model --output {}"),
    "run_pretrain": (run_pretrain, "--data.corpus source --run.output {}"),
}
# What the first command holds; {} is the output. Of others: the lock of a writer of the output.
LOCKS = {
    "train_vocab": "writer:{}/piece.model",
    "download_weights": "writer:{}/vocab.txt",
    "get_weights_e5": "writer:{}/e5-small",
    "mine_hard_negatives": "writer:{}/negatives.tsv",
    "build_corpus": "run:{}/.build",
    "run_pretrain": "run:{}",
}


@pytest.fixture(scope="module")
def locations(module_folder):
    """A folder in which another process writes the output of each command, which has its name."""
    write_lines(module_folder / "text.txt", ["a b c", "d e f"])
    train_piece_model(module_folder / "piece.model")
    with another_process_writes(
        *(LOCKS.get(name, "writer:{}").format(module_folder / name) for name in COMMANDS)
    ):
        yield module_folder


@pytest.mark.parametrize("name", ["convert", "encode_vector", "fit"])
def test_keeps_output_that_another_command_finished_first(tmp_path, monkeypatch, name):
    command, flags = COMMANDS[name]
    output = tmp_path / "output"
    monkeypatch.setattr(files, "try_lock", lambda file: output.write_text("of the first"))
    error = error_of(call_main, command, flags.format(output).split())
    assert re.match(f"--(output|target|output_dir) {output} already", error)
    assert output.read_text() == "of the first"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_command_is_refused(locations, monkeypatch, name):
    monkeypatch.chdir(locations)
    command, flags = COMMANDS[name]
    before = [*locations.rglob("*")]
    lock = LOCKS.get(name, "writer:{}").format(locations / name).partition(":")[2]
    error = error_of(call_main, command, flags.format(locations / name).split())
    assert error.startswith(f"{lock}: locked by another ")
    assert [*locations.rglob("*")] == before
