"""What is checked when a model is opened, and the flags that it decides."""

import json
import logging
from dataclasses import replace

import pytest

from ernie_m.finetune.classifier import Classification
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning import FinetuningRun, check_rows, read_files
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.model.checkpoint.open import TRAINED_LENGTH, open_checkpoint
from ernie_m.model.open_model import apply_embedding_defaults, apply_model_defaults, open_model
from ernie_m.model.preprocessing import PreprocessingConfig
from ernie_m.model.tasks import CLASSIFICATION, SEARCH
from ernie_m.utils.args import parse_options
from tests import command_lines, toys
from tests.launching import error_of


@pytest.fixture
def opened(random_encoder):
    return open_model(open_checkpoint(random_encoder))


def test_a_config_with_another_number_of_heads(random_encoder, tmp_path):
    """The weights have the same shapes for any number of heads."""
    config = json.loads((random_encoder / "config.json").read_text())
    heads = config["num_attention_heads"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "num_attention_heads": 2 * heads}))
    line = error_of(open_model, open_checkpoint(random_encoder), str(path))
    assert f"(num_attention_heads {heads})" in line and f"{path} (num_attention_heads {2 * heads})" in line


def test_positions_that_were_never_trained(opened, caplog):
    """A warning names the first length with such positions, and not the length of the training itself."""
    checkpoint = replace(opened.checkpoint, settings={TRAINED_LENGTH: 64})
    of_64 = replace(opened, checkpoint=checkpoint)
    with caplog.at_level(logging.WARNING):
        of_64.check_length(64)
        assert not caplog.messages
        of_64.check_length(65)
    (message,) = caplog.messages
    assert message.startswith("--max_seq_len 65: positions above 64 ")


@pytest.mark.parametrize(("given", "expected"), [((), 32), (("max_seq_len",), 100)])
def test_the_length_of_the_training_is_taken_unless_one_is_given(opened, given, expected):
    trained = replace(
        opened, checkpoint=replace(opened.checkpoint, preprocessing=PreprocessingConfig(max_seq_len=32))
    )
    flags = FinetuneFlags(max_seq_len=100, on_command_line=given)
    assert apply_model_defaults(flags, trained, recorded=["max_seq_len"]).max_seq_len == expected


@pytest.mark.parametrize(("task", "expected"), [(None, 32), (SEARCH, 32), (CLASSIFICATION, 40)])
def test_vectors_take_the_length_of_their_own_training(opened, task, expected):
    """That of a classifier is the length of other inputs."""
    checkpoint = replace(opened.checkpoint, task=task, preprocessing=PreprocessingConfig(max_seq_len=32))
    flags = RetrievalFlags(pairs="pairs", max_seq_len=40, on_command_line=())
    assert apply_embedding_defaults(flags, replace(opened, checkpoint=checkpoint)).max_seq_len == expected


def test_vectors_that_are_not_made_here_are_refused_unless_a_pooling_is_given(opened):
    unknown = replace(
        opened, checkpoint=replace(opened.checkpoint, preprocessing_errors=["x.json: the pooling max"])
    )
    assert "x.json: the pooling max" in error_of(
        apply_embedding_defaults, RetrievalFlags(pairs="pairs"), unknown
    )
    flags = RetrievalFlags(pairs="pairs", pooling="mean", on_command_line=("pooling",))
    assert apply_embedding_defaults(flags, unknown).pooling == "mean"


def test_the_labels_belong_to_the_identity_of_a_run(opened, toy_folder, tmp_path):
    """A run goes on only with the labels in the same order."""
    flags = parse_options(FinetuneFlags, command_lines.classification(toy_folder, tmp_path / "out"))
    identities = []
    for labels in (["animal", "drink", "tool"], ["tool", "drink", "animal"]):
        task = Classification(opened.tokenizer, labels, flags.max_seq_len)
        identities.append(FinetuningRun(task, flags, opened, train_set=[]).fingerprint)
    first, second = identities
    assert {key for key in first if first[key] != second[key]} == {"labels"}


def test_rows_that_are_trained_on_are_warned_of(opened, toy_folder, caplog):
    """The dev file of English is the training file."""
    path = f"{toy_folder}/train.tsv"
    task = Classification(opened.tokenizer, list(toys.KINDS), max_seq_len=16)
    with caplog.at_level(logging.WARNING):
        check_rows(task, [path], task.read(path, "train"), read_files(task, path, "dev", None))
    assert f"{path}: 96 of 96 rows " in caplog.text
