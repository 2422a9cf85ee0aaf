"""What is checked when a model is opened, and the flags that it decides."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ernie_m.finetune.classifier import Classification, Regression
from ernie_m.finetune.evaluate import LanguageFile
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_run import FinetuningRun
from ernie_m.finetune.labeled_files import check_rows, read_files
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.run_setup import digest_files
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.model.checkpoint.open import TRAINED_LENGTH, open_checkpoint
from ernie_m.model.open_model import apply_embedding_defaults, apply_model_defaults, open_model
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.model.tasks import CLASSIFICATION, SEARCH
from ernie_m.utils.args import parse_options
from tests import command_lines, toys
from tests.helpers.files import write_file
from tests.launching import check_error, error_of


@pytest.fixture
def opened(random_encoder):
    return open_model(open_checkpoint(random_encoder))


@pytest.mark.parametrize("key", ["num_attention_heads", "num_hidden_layers", "hidden_size"])
def test_reject_config_of_another_size(random_encoder, tmp_path, key):
    """The weights have the same shapes for any number of heads."""
    config = json.loads((random_encoder / "config.json").read_text())
    path = write_file(tmp_path / "config.json", json.dumps({**config, key: 2 * config[key]}))
    check_error(
        error_of(open_model, open_checkpoint(random_encoder), str(path)),
        f"({key} {config[key]})",
        f"{path} ({key} {2 * config[key]})",
    )


def test_positions_that_were_never_trained(opened, caplog):
    """A warning names the first length with such positions, and not the length of the training itself."""
    of_64 = replace(opened, checkpoint=replace(opened.checkpoint, settings={TRAINED_LENGTH: 64}))
    for length in (64, 65):
        of_64.check_length(length)
    assert caplog.messages == [
        f"--max_seq_len 65: positions above 64 of {opened.checkpoint.path} were not trained in pre-training"
    ]


@pytest.mark.parametrize(("given", "expected"), [((), 32), (("max_seq_len",), 100)])
def test_max_seq_len_defaults_to_the_trained_one(opened, given, expected):
    trained = replace(
        opened, checkpoint=replace(opened.checkpoint, pipeline_config=PipelineConfig(max_seq_len=32))
    )
    flags = FinetuneFlags(max_seq_len=100, on_command_line=given)
    assert apply_model_defaults(flags, trained, setting_names=["max_seq_len"]).max_seq_len == expected


@pytest.mark.parametrize(
    ("task", "expected", "told"),
    [
        (None, 32, "--layer 0, --max_seq_len 32"),
        (SEARCH, 32, "--layer 0, --max_seq_len 32"),
        (CLASSIFICATION, 40, "--layer 0"),
    ],
)
def test_embedding_flags_default_to_the_retrieval_training(opened, task, expected, told, caplog, info_log):
    """The length of a classifier is that of other inputs."""
    pipeline_config = PipelineConfig(pooling="cls", layer=0, max_seq_len=32)
    checkpoint = replace(opened.checkpoint, task=task, pipeline_config=pipeline_config)
    flags = RetrievalFlags(pairs="pairs", pooling="cls", max_seq_len=40, on_command_line=())
    changed = replace(flags, layer="0", max_seq_len=expected)
    assert apply_embedding_defaults(flags, replace(opened, checkpoint=checkpoint)) == changed
    assert caplog.messages == [f"options of {checkpoint.path}: {told}"]


def test_unsupported_pooling_needs_another_pooling(opened):
    errors = ["x.json: the pooling max", "y.json: the module Dense"]
    unknown = replace(opened, checkpoint=replace(opened.checkpoint, pipeline_errors=errors))
    check_error(
        error_of(apply_embedding_defaults, RetrievalFlags(pairs="pairs"), unknown),
        "--pooling",
        start="x.json: the pooling max; y.json: the module Dense (",
    )
    flags = RetrievalFlags(pairs="pairs", pooling="mean", on_command_line=("pooling",))
    assert apply_embedding_defaults(flags, unknown).pooling == "mean"
    # The official vectors do not depend on it.
    assert apply_embedding_defaults(RetrievalFlags(pairs="pairs"), unknown, ["layer"]).pairs == "pairs"


def test_run_fingerprint_covers_what_decides(opened, toy_folder, tmp_path):
    """A run resumes only with the same vocabulary, shape, labels in the same order, and equal files."""
    flags = parse_options(FinetuneFlags, command_lines.classification(toy_folder, tmp_path / "out"))

    def make_fingerprint(changes, labels, *texts):
        files = [
            LanguageFile("dev", "en", toys.write_lines(tmp_path / str(number), [text]), [])
            for number, text in enumerate(texts)
        ]
        task = Classification(opened.tokenizer, labels, 64)
        digest = digest_files([files[0].path])
        return FinetuningRun(task, flags, replace(opened, **changes), [], digest, files).fingerprint

    given = [
        ({}, ["a", "b"], "x", "y"),
        ({}, ["b", "a"], "x", "y"),
        ({}, ["a", "b"], "x", "z"),
        ({}, ["a", "b"], "z", "y"),
        ({"tokenizer": SimpleNamespace(digest="z")}, ["a", "b"], "x", "y"),
        ({"config": replace(opened.config, intermediate_size=9)}, ["a", "b"], "x", "y"),
    ]
    first, *others = (make_fingerprint(*values) for values in given)
    differing = [[name for name in first if first[name] != other[name]] for other in others]
    assert differing == [["labels"], ["dev_set"], ["train_set", "dev_set"], ["vocabulary"], ["model"]]


def test_warn_about_leaked_rows_and_contradicting_labels(opened, toy_folder, tmp_path, caplog):
    """The first dev file is the training file. Two others are equal, and have a text twice."""
    first, *rows = toys.labeled_texts(9, seed=7)
    table = [first, *rows, first._replace(label=next(kind for kind in toys.KINDS if kind != first.label))]
    written = [str(toys.write_labeled_texts(tmp_path / name, table)) for name in ("a.tsv", "b.tsv")]
    paths = [f"{toy_folder}/train.tsv", *written]
    task = Classification(opened.tokenizer, list(toys.KINDS), max_seq_len=64)
    dev_files = read_files(task, ",".join(paths), "dev", None)
    check_rows(task, paths[:1], task.read(paths[0], "train"), dev_files)
    assert [message.partition(" have a text")[0] for message in caplog.messages] == [
        f"{paths[0]}: 96 of 96 rows",
        *(f"{path}: 1 text has two labels, as in line 2 and line 11" for path in paths[1:]),
    ]


@pytest.mark.parametrize(
    ("task_class", "labels"), [(Classification, ["x", "y", "z"]), (Regression, ["score"])]
)
@pytest.mark.parametrize(("flag", "pairs"), [("init_checkpoint", True), ("init_pretraining_params", None)])
def test_a_new_head_takes_other_texts_than_its_start(opened, task_class, labels, flag, pairs):
    """Single texts after pairs, and other labels."""
    start = replace(opened.checkpoint, pipeline_config=PipelineConfig(pairs=True), labels=["x", "y", "z"])
    task = task_class.from_flags(FinetuneFlags(**{flag: "initial"}), opened.tokenizer, start)
    assert task.get_pipeline_settings()["pairs"] is pairs
    assert (task.labels == labels) is bool(pairs or task_class is Regression)


def test_only_a_classifier_pools_a_static_model(opened):
    static = replace(opened, config=replace(opened.config, num_hidden_layers=0, num_attention_heads=1))
    tasks = Classification(opened.tokenizer, ["a", "b"], 16), Tagging(opened.tokenizer, toys.TAGS, 16)
    assert [FinetuningRun(task, FinetuneFlags(), static, []).pooling for task in tasks] == ["mean", None]
