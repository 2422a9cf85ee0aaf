"""Of two commands with one output, the second is refused; the folder is as the first one leaves it."""

import pytest

import convert
import encode_vector
import export
from scripts.data import prepare, train_vocab
from tests.launching import call_main
from utils.errors import UserError
from utils.files import only_writer_of

# Each command with the flags that name its output, {}; the output is within the folder of the lock.
COMMANDS = {
    "convert": (convert, "--source source --target {} --to paddlenlp"),
    "export": (export, "--model source --output {}"),
    "encode_vector": (encode_vector, "--init_pretraining_params source --data_set a.txt --output_dir {}"),
    "prepare": (prepare, "own source.tsv --output {}"),
    "train_vocab": (train_vocab, "--mono en<=source.txt --output {}"),
}
LOCKED = {"train_vocab": "piece.model"}  # the name of the output within {}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_second_command_is_refused(tmp_path, monkeypatch, name):
    """Before it reads anything: none of the files that it names is there."""
    monkeypatch.chdir(tmp_path)
    command, flags = COMMANDS[name]
    output = tmp_path / "out" / LOCKED.get(name, "")
    with only_writer_of(output), pytest.raises(UserError, match=f"^{output}: another command"):
        call_main(command, flags.format(tmp_path / "out").split())
