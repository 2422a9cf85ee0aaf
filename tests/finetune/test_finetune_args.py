"""Every official flag is there, with its type and default; every mistake is one line of error."""

import importlib
import os
import re
import shlex
import sys
from functools import partial

import pytest

from ernie_m.commands import encode_vector, launch
from ernie_m.finetune.finetune_args import FinetuneFlags, PredictionFlags, log_ineffective_flags
from ernie_m.utils.args import list_options, parse_options
from tests.launching import ROOT, as_flags, call_main, error_of, run_script

parse = partial(parse_options, FinetuneFlags)
FLAGS = list_options(FinetuneFlags)
# The official parser, flag by flag.
OFFICIAL = {
    "ernie_config_path": None, "init_checkpoint": None, "init_pretraining_params": None, "checkpoints":
    "checkpoints", "is_classify": True, "is_regression": False, "task_id": 0, "epoch": 3, "learning_rate":
    5e-5, "lr_scheduler": "linear_warmup_decay", "weight_decay": 0.01, "layerwise_lr_decay": 0.9,
    "warmup_proportion": 0.1, "save_steps": 10000, "validation_steps": 1000, "use_fp16": False,
    "use_dynamic_loss_scaling": True, "init_loss_scaling": 102400.0, "test_save":
    "./checkpoints/test_result", "metric": "simple_accuracy", "incr_every_n_steps": 100,
    "decr_every_n_nan_or_inf": 2, "incr_ratio": 2.0, "decr_ratio": 0.8, "skip_steps": 10, "verbose":
    False, "tokenizer": "FullTokenizer", "train_set": None, "test_set": None, "dev_set": None,
    "vocab_path": None, "piece_model_path": None, "max_seq_len": 512, "batch_size": 32,
    "predict_batch_size": None, "in_tokens": False, "do_lower_case": True, "random_seed": None,
    "label_map_config": None, "lang_map_config": None, "num_labels": 2, "diagnostic": None,
    "diagnostic_save": None, "max_query_length": 64, "max_answer_length": 100, "doc_stride": 128,
    "n_best_size": 20, "chunk_scheme": "IOB", "use_cuda": True, "is_distributed": False,
    "use_fast_executor": False, "num_iteration_per_drop_scope": 10, "do_train": True, "do_val": True,
    "do_test": True, "use_multi_gpu_test": False, "metrics": True, "shuffle": True, "for_cn": True,
    "use_gpu_num_in_test": 2, "enable_ce": False,
}  # fmt: skip

# Its flags whose default is None, with the values of the official XNLI script or others of their type.
GIVEN = {
    "ernie_config_path": "./configs/base/ernie_config.json", "init_checkpoint": "./checkpoints/step_1",
    "init_pretraining_params": "./configs/base/params", "train_set": "./data/xnli/train/train.en.tsv",
    "test_set": "./data/xnli/test/test.%s.tsv", "dev_set": "./data/xnli/dev/dev.%s.tsv", "vocab_path":
    "./configs/vocab.txt", "piece_model_path": "./configs/piece.model", "predict_batch_size": 16,
    "random_seed": 1, "label_map_config": "./data/xnli/label_map.json", "lang_map_config":
    "./data/xnli/lang_map.json", "diagnostic": "./data/diagnostic.tsv", "diagnostic_save": "./diagnostic",
}  # fmt: skip
OFFICIAL_LAUNCHER = {
    "print_config": True, "node_ips": "127.0.0.1", "node_id": 0, "current_node_ip": "127.0.0.1",
    "nproc_per_node": 1, "selected_gpus": "0", "split_log_path": "log", "log_prefix": "xnli_",
}  # fmt: skip
OFFICIAL_ENCODER = {
    "use_cuda": False, "batch_size": 16, "data_set": "./data/xnli/test/test.en.tsv", "output_dir":
    "./output", "vocab_path": "./configs/vocab.txt", "piece_model_path": "./configs/piece.model",
    "ernie_config_path": "./configs/base/ernie_config.json", "init_pretraining_params":
    "./configs/base/params", "max_seq_len": 256,
}  # fmt: skip
OF_SOME_PROGRAMS = {
    "run_classifier": {"is_regression", "num_labels", "label_map_config"},
    "run_sequence_labeling": {"chunk_scheme", "num_labels", "label_map_config"},
    "run_mrc": {"max_query_length", "max_answer_length", "doc_stride", "n_best_size"},
}
PAGE = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
WITHOUT_MEANING = set(re.findall(r"`(\w+)`", PAGE.partition("Official flags without effect")[2]))


@pytest.mark.parametrize("command", OF_SOME_PROGRAMS)
def test_the_whole_official_command_line_is_taken(
    command, monkeypatch, in_tmp_path, caplog, info_log, capsys
):
    """Each command has every flag, because the official ones share their parser; launch.py hands them on."""
    commands = []
    taken = []

    def record_command(path, command, environment):
        commands.append(command)
        sys.exit(0)

    def record_flags(task_class, flags, stop, official_class=None):
        log_ineffective_flags(flags)  # the first work of `run_finetuning`
        taken.append(flags)

    monkeypatch.setattr(os, "environ", dict(os.environ))  # a copy, which launch.py may change
    monkeypatch.setattr(os, "execve", record_command)
    monkeypatch.setattr("ernie_m.finetune.run_seeds.run_finetuning", record_flags)
    monkeypatch.setattr(f"ernie_m.commands.{command}.check_inputs", lambda *_: None)  # there are no files
    values = OFFICIAL | GIVEN
    line = [*as_flags(OFFICIAL_LAUNCHER), str(ROOT / f"{command}.py"), *as_flags(values)]
    with pytest.raises(SystemExit):
        call_main(launch, line)
    printed = capsys.readouterr().out.splitlines()
    assert "--current_node_ip has no effect" in printed[0]
    for name, value in OFFICIAL_LAUNCHER.items():
        assert f"launch: --{name} {value}" in printed
    assert f"launch: script {shlex.join(line[len(as_flags(OFFICIAL_LAUNCHER)) :])}" in printed

    ((_, _, _, *words),) = commands  # python -u script flags
    call_main(importlib.import_module(command), words)
    (flags,) = taken
    assert {name: getattr(flags, name) for name in values} == values | {"random_seed": (1,)}
    of_others = set().union(*OF_SOME_PROGRAMS.values()) - OF_SOME_PROGRAMS[command]
    names = [message.partition(" has no effect: ")[0].removeprefix("--") for message in caplog.messages]
    assert sorted(names) == sorted(WITHOUT_MEANING | of_others)


def test_encode_vector_accepts_the_official_command_line(monkeypatch, in_tmp_path):
    taken = []
    monkeypatch.setattr("ernie_m.inference.encode_vector.write_vectors", taken.append)
    call_main(encode_vector, as_flags(OFFICIAL_ENCODER))
    (flags,) = taken
    assert {name: getattr(flags, name) for name in OFFICIAL_ENCODER} == OFFICIAL_ENCODER


def test_defaults_are_the_official_ones():
    """Of the same types, too: in Python 0 == False and 1 == 1.0."""
    assert repr({name: getattr(parse([]), name) for name in OFFICIAL}) == repr(OFFICIAL)


VALUES = [
    ("--random_seed 1,2,3", "random_seed", (1, 2, 3)),
    ("--use_fp16 true", "amp", "fp16"),
    ("--use_fp16 true --amp fp16", "amp", "fp16"),
    ("--use_fp16 false --amp bf16", "amp", "bf16"),
    ("--init_checkpoint a --init_pretraining_params b", "initial_checkpoint", "a"),
    ("--stall_ends_seconds 7 --batch_size 9", "prediction", PredictionFlags(9, False, 7.0)),
    (
        "--stall_ends_seconds 7 --batch_size 9 --predict_batch_size 5 --in_tokens",
        "prediction",
        PredictionFlags(5, True, 7.0),
    ),
    ("--max_steps=7", "max_steps", 7),
    ("--max_seq_len 512", "max_seq_len", 512),
    ("--max_seq_len 8", "max_seq_len", 8),
    (f"--random_seed 0,{2**63 - 1}", "random_seed", (0, 2**63 - 1)),
    ("--learning_rate 4e-4", "learning_rate", 4e-4),
    ("--batch_size 16 --batch_size 2", "batch_size", 2),  # the last one wins
    ("--enable_ce --epoch 2", "enable_ce", True),  # a bare flag in the official scripts
    ("--max_steps 9 --max_steps=", "max_steps", None),  # an empty value is the default
    *((f"--{name}=", name, OFFICIAL[name]) for name in ("checkpoints", "random_seed", "learning_rate")),
    *((f"--do_val {text}", "do_val", True) for text in ("t", "T", "True", "1", "")),
    *((f"--do_val {text}", "do_val", False) for text in ("f", "F", "False", "0")),
]


@pytest.mark.parametrize(("line", "name", "expected"), VALUES)
def test_parse_flag_values(line, name, expected):
    value = getattr(parse(line.split(" ")), name)
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--learning_rat 1", "--learning_rat: unknown option; did you mean --learning_rate?"),
        ("--seed 1", "--seed: unknown option; did you mean --random_seed?"),
        ("--warmup_ratio 1", "--warmup_ratio: unknown option; did you mean --warmup_proportion?"),
        (
            "--per_device_train_batch_size=1",
            "--per_device_train_batch_size: unknown option; did you mean --batch",
        ),
        ("--epoch 3 4", "unexpected argument '4'"),
        ("--epoch three", "--epoch three: "),
        ("--epoch 1000000000", "--epoch 1000000000: "),
        ("--num_labels 1000000000", "--num_labels 1000000000: "),
        ("--epoch", "missing value of --epoch"),
        ("--do_val ture", "--do_val ture: "),
        ("--learning_rate nan", "--learning_rate nan: "),
        ("--lr_scheduler cosine", "--lr_scheduler cosine: "),
        ("--random_seed 1,1", "--random_seed 1,1"),
        ("--random_seed -1", "--random_seed -1"),
        (f"--random_seed {2**63}", f"--random_seed {2**63}"),
        ("--max_seq_len 513", "--max_seq_len 513: "),
        ("--max_seq_len 7", "--max_seq_len 7: "),
        ("--decr_ratio 1", "--decr_ratio 1: "),
        ("--doc_stride 0", "--doc_stride 0: "),
        ("--init_loss_scaling 0.5", "--init_loss_scaling 0.5: "),
        ("--use_fp16 true --amp bf16", "--use_fp16 true "),
    ],
)
def test_mistakes_are_one_line(line, expected):
    assert error_of(parse, line.split()).startswith(expected)


def test_help_lists_every_flag_without_paddle():
    """Also with -OO, which removes docstrings."""
    helped, without_docstrings = (
        run_script([*words, "run_mrc.py", "--help"], ROOT) for words in (["-X", "importtime"], ["-OO"])
    )
    assert without_docstrings.returncode == 0 and without_docstrings.stdout == helped.stdout
    assert " paddle" not in helped.stderr
    # `only`: the commands that read it; empty: all.
    expected = {
        name
        for name, flag in FLAGS.items()
        if "no_effect" not in flag.metadata and "run_mrc" in flag.metadata.get("only", "run_mrc")
    }
    assert {name for name in FLAGS if f"--{name} " in helped.stdout} == expected
