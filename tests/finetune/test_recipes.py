"""The values of the PAWS-X, CoNLL and Tatoeba recipes (paper, Tables 12 to 14), as they are handed on."""

import json
import shutil
import subprocess
import sys

import pytest

from finetune.retrieval.flags import RetrievalFlags
from tests.launching import ROOT, clean_environment
from utils.args import parse_args
from utils.config import load_config

SIZES = ("small", "base", "large")


@pytest.fixture
def arguments(tmp_path):
    """arguments(script, *more) -> what launch.py would be given."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "launch.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def call(script, *more, **environment):
        done = subprocess.run(
            ["sh", f"scripts/{script}", *more], cwd=tmp_path, env=clean_environment(**environment),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("setting", "train", "epochs", "rate"),
    [("cross_lingual_transfer", "en", 10, 5e-5), ("translate-train_all", "all", 2, 7e-5)],
)
def test_pawsx(arguments, size, setting, train, epochs, rate):
    line = arguments(f"{size}/pawsx_{setting}.sh")
    assert line[:3] == ["--recipe_devices", "2", "run_classifier.py"]
    args = parse_args(line[3:])
    assert 2 * args.batch_size == 64
    assert (args.epoch, args.learning_rate, args.layerwise_lr_decay) == (epochs, rate, 0.9)
    assert (args.weight_decay, args.warmup_proportion, args.lr_scheduler) == (
        0.01,
        0.1,
        "linear_warmup_decay",
    )
    assert args.train_set == f"./data/pawsx/train/train.{train}.tsv"
    assert args.dev_set == "./data/pawsx/dev/dev.%s.tsv,./data/pawsx/test/test.%s.tsv"
    assert (args.label_map_config, args.num_labels) == ("./data/pawsx/label_map.json", 2)
    assert args.lang_map_config == "./data/pawsx/lang_map.json"
    assert args.ernie_config_path == f"./configs/{size}/ernie_config.json"


# script -> training file, learning rate, layer-wise decay, labels; the rest is equal
NER = {
    **{f"{size}/conll_cross_lingual_transfer.sh": ("en", 4e-4, 0.8, 9) for size in SIZES},
    "small/conll_finetune_on_all_dataset.sh": ("all", 3e-4, 0.8, 9),
    "base/conll_finetune_on_all_dataset.sh": ("all", 3e-4, 0.8, 9),
    "large/conll_finetune_on_all_dataset.sh": ("all", 2e-4, 0.9, 9),
    **{f"{size}/panx_cross_lingual_transfer.sh": ("en", 4e-4, 0.8, 7) for size in SIZES},
}


@pytest.mark.parametrize("script", NER)
def test_tagging(arguments, script):
    size, task = script.split("_")[0].split("/")
    train, rate, decay, labels = NER[script]
    line = arguments(script)
    assert line[:3] == ["--recipe_devices", "1", "run_sequence_labeling.py"]
    args = parse_args(line[3:])
    assert (args.batch_size, args.epoch, args.max_seq_len) == (8, 10, 512)
    assert (args.learning_rate, args.layerwise_lr_decay, args.weight_decay) == (rate, decay, 0.01)
    assert (args.warmup_proportion, args.lr_scheduler, args.random_seed) == (0.1, "linear_warmup_decay", (1,))
    assert args.validation_steps == (100 if task == "conll" else 500)
    assert (args.save_steps, args.skip_steps) == (10000, 10)
    assert (args.do_train, args.do_val, args.do_test) == (True, True, False)
    assert args.train_set == f"./data/{task}/train/train.{train}.tsv"
    assert args.dev_set == f"./data/{task}/dev/dev.%s.tsv,./data/{task}/test/test.%s.tsv"
    assert (args.label_map_config, args.num_labels) == (f"./data/{task}/label_map.json", labels)
    assert args.lang_map_config == f"./data/{task}/lang_map.json"
    assert args.ernie_config_path == f"./configs/{size}/ernie_config.json"
    assert args.init_pretraining_params == (None if size == "small" else f"./configs/{size}/params")
    assert (args.official_compat, args.label_pieces, args.chunk_scheme) == (False, "first", "IOB")


@pytest.mark.parametrize("size", SIZES)
def test_tatoeba(arguments, size):
    line = arguments(f"{size}/tatoeba_cross_lingual_transfer.sh", "--score", "margin", NPROC="2")
    assert line[:3] == ["--nproc_per_node", "2", "run_retrieval.py"]
    flags = load_config(RetrievalFlags, line[3:])
    assert flags.init_pretraining_params == "./checkpoints/best"
    assert (flags.pairs, flags.layer, flags.pooling) == ("./data/tatoeba", "middle", "mean")
    assert (flags.score, flags.do_train) == ("margin", False)


@pytest.mark.parametrize("size", SIZES)
def test_tatoeba_fine_tuning(arguments, size):
    line = arguments(f"{size}/tatoeba_fine-tuning.sh", "--vocab_path", "", "--max_seq_len", "64")
    assert line[0] == "run_retrieval.py"
    flags = load_config(RetrievalFlags, line[1:])
    assert (flags.do_train, flags.max_steps, flags.batch_size) == (True, 200_000, 32)
    assert (flags.learning_rate, flags.weight_decay, flags.warmup_proportion) == (5e-5, 0.0, 0.1)
    assert (flags.layer, flags.train_set, flags.pairs) == ("middle", "./data/corpus", "./data/tatoeba")
    assert (flags.vocab_path, flags.max_seq_len) == (None, 64)
    expected = None if size == "small" else f"./configs/{size}/params"
    assert flags.init_pretraining_params == expected
