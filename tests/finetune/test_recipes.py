"""The recipes: values of the paper and of the official scripts, and the official command lines."""

import importlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ernie_m.commands import launch
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.score_tables import recipes
from ernie_m.inference.encode_vector_args import EncodeVectorFlags
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import parse_options
from tests import toys
from tests.foreign import make_official, official_config
from tests.launching import ROOT, call_main, clean_environment, stand_in_for_launch

SIZES = ("small", "base", "large")
# Task -> what makes its data.
MAKERS = {
    "xnli": toys.make_classification,
    "conll": toys.make_tagging,
    "mlqa": toys.make_answering,
}
TRANSFER = "cross_lingual_transfer"
ALL = "translate-train_all"
CONLL = "conll_finetune_on_all_dataset"
# The columns of the rows below. "batch" is the total batch, over all devices.
COLUMNS = ("batch", "learning_rate", "layerwise_lr_decay", "weight_decay", "epoch")
# Tables 12 (small and base) and 13 (large); warm-up is 10 % everywhere.
SMALL = {
    f"xnli_{TRANSFER}": (32, 5e-5, 0.8, 0, 5),
    f"xnli_{ALL}": (128, 5e-5, 0.8, 0, 2),
    f"mlqa_{TRANSFER}": (32, 3e-4, 0.8, 0, 2),
    f"conll_{TRANSFER}": (8, 4e-4, 0.8, 0.01, 10),
    CONLL: (8, 3e-4, 0.8, 0.01, 10),
}
# The paper has no values for PAWS-X with base and small; they get those of large.
PAWSX = {f"pawsx_{TRANSFER}": (64, 5e-5, 0.9, 0.01, 10), f"pawsx_{ALL}": (64, 7e-5, 0.9, 0.01, 2)}
LARGE = {
    **SMALL,
    **PAWSX,
    f"xnli_{ALL}": (128, 5e-5, 0.8, 0, 1),
    f"mlqa_{TRANSFER}": (32, 8e-5, 0.9, 0, 2),
}
# The official script of large has other values than the paper (see OTHERS); the paper's have another name.
LARGE[f"{CONLL}_paper"] = LARGE.pop(CONLL)
PAPER = {f"{size}/{name}": row for size in ("small", "base") for name, row in (SMALL | PAWSX).items()}
PAPER |= {f"large/{name}": row for name, row in LARGE.items()}
# Not in the paper: PAN-X, and the official values of large on all languages of CoNLL.
OTHERS = {f"{size}/panx_{TRANSFER}": (8, 4e-4, 0.8, 0.01, 10) for size in SIZES}
OTHERS |= {f"large/{CONLL}": (8, 2e-4, 0.9, 0.01, 10)}
# task -> script, labels, longest input, steps between evaluations (None: not checked)
TASKS = {
    "xnli": ("run_classifier.py", 3, 256, 1000),
    "pawsx": ("run_classifier.py", 2, None, None),
    "mlqa": ("run_mrc.py", 2, 384, 100),
    "conll": ("run_sequence_labeling.py", 9, 512, 100),
    "panx": ("run_sequence_labeling.py", 7, 512, 500),
}
# task -> the number of devices of its recipes. Only XNLI with all training data has another number, 8.
DEVICES = {"xnli": 2, "pawsx": 2, "mlqa": 2, "conll": 1, "panx": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The scripts beside a launch.py that only writes down its arguments."""
    folder = stand_in_for_launch(tmp_path_factory.mktemp("recipes"))
    ignored = shutil.ignore_patterns("sample", "data", "__pycache__")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    """arguments(recipe, *more, **environment) -> the arguments that its script gives launch.py."""

    def call(recipe, *more, **environment):
        completed = subprocess.run(
            ["sh", f"scripts/{recipe}.sh", *more],
            cwd=folder,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(completed.stdout.splitlines()[-1])

    return call


@pytest.mark.parametrize("recipe", [*PAPER, *OTHERS])
def test_the_flags_of_every_recipe(arguments, recipe):
    """The name of a recipe is <size>/<task>_<what it is trained on>."""
    line = arguments(recipe)
    size, name = recipe.split("/")
    task = name.split("_")[0]
    script, labels, longest, validation = TASKS[task]
    devices = 8 if name == f"xnli_{ALL}" else DEVICES[task]
    assert line[0] == script
    args = parse_options(FinetuneFlags, line[1:])
    assert args.recipe_devices == devices
    values = {**vars(args), "batch": devices * args.batch_size}
    assert tuple(values[column] for column in COLUMNS) == (PAPER | OTHERS)[recipe]
    assert (args.warmup_proportion, args.lr_scheduler) == (0.1, "linear_warmup_decay")
    if script != "run_classifier.py":  # which has no other procedure
        assert args.official_compat is (task in ("conll", "mlqa"))
    assert args.random_seed == (1,)
    assert (args.do_train, args.do_val, args.do_test) == (True, True, False)
    if longest is not None:
        assert (args.max_seq_len, args.validation_steps) == (longest, validation)
    train = "en" if TRANSFER in name else "all"
    ending = "json" if script == "run_mrc.py" else "tsv"
    data = f"./data/{task}"
    assert args.train_set == f"{data}/train/train.{train}.{ending}"
    assert args.dev_set == f"{data}/dev/dev.%s.{ending},{data}/test/test.%s.{ending}"
    assert args.chunk_scheme == "IOB"
    assert (args.num_labels, args.lang_map_config) == (labels, f"{data}/lang_map.json")
    assert (args.label_map_config is None) == (script == "run_mrc.py")
    assert args.ernie_config_path == f"./configs/{size}/ernie_config.json"
    assert args.init_pretraining_params == (None if size == "small" else f"./configs/{size}/params")
    assert (args.vocab_path, args.piece_model_path) == ("./configs/vocab.txt", "./configs/piece.model")
    if task == "mlqa":
        assert (args.doc_stride, args.max_query_length) == (128, 64)
        assert (args.max_answer_length, args.n_best_size) == (100, 20)
    if recipe in PAPER:
        assert args.paper == name.removesuffix("_paper") and args.paper in recipes()


def test_small_takes_its_weights_where_they_are(arguments, folder):
    params = folder / "configs" / "small" / "params"
    params.mkdir(parents=True)
    args = parse_options(FinetuneFlags, arguments(f"small/xnli_{TRANSFER}")[1:])
    params.rmdir()
    assert args.init_pretraining_params == "./configs/small/params"


def test_any_flag_can_be_overridden_or_taken_back(arguments):
    """An empty value takes a flag of the recipe back. The vocabulary goes with the recipe's piece model."""
    changed = ["--epoch", "1", "--piece_model_path", "a b.model", "--init_pretraining_params", ""]
    line = arguments(f"base/xnli_{TRANSFER}", *changed, NPROC="2")
    assert line[:3] == ["--nproc_per_node", "2", "run_classifier.py"]
    args = parse_options(FinetuneFlags, line[3:])
    assert (args.epoch, args.piece_model_path, args.vocab_path) == (1, "a b.model", None)
    assert args.init_pretraining_params is None


def test_a_start_brings_its_config_and_its_tokenizer(arguments):
    line = arguments(f"base/panx_{TRANSFER}", "--init_pretraining_params", "my/model")
    args = parse_options(FinetuneFlags, line[1:])
    assert args.init_pretraining_params == "my/model"
    assert (args.ernie_config_path, args.vocab_path, args.piece_model_path) == (None, None, None)


def test_a_dry_run_has_small_random_weights(arguments):
    tiny = "configs/tiny/ernie_config.json"
    line = arguments(f"large/xnli_{TRANSFER}", "--init_pretraining_params", "", "--ernie_config_path", tiny)
    args = parse_options(FinetuneFlags, line[1:])
    assert (args.init_pretraining_params, args.vocab_path) == (None, "./configs/vocab.txt")
    large = ErnieMConfig.from_json(ROOT / "configs/large/ernie_config.json")
    config = ErnieMConfig.from_json(ROOT / args.ernie_config_path)
    assert config.hidden_size == 64
    assert (config.vocab_size, config.longest_input) == (large.vocab_size, large.longest_input)


@pytest.mark.parametrize("size", ["base", "large"])
def test_encode_vector_has_the_official_values(folder, size):
    (folder / "encode_vector.py").write_text((folder / "launch.py").read_text())
    command = ["sh", f"scripts/{size}/encode_vector.sh", "--batch_size", "8"]
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    flags = parse_options(EncodeVectorFlags, json.loads(completed.stdout))
    _, _, official_flags = official_line(f"{size}/encode_vector")
    official = parse_options(EncodeVectorFlags, official_flags)
    assert (official.batch_size, flags.batch_size) == (16, 8)
    assert replace(flags, batch_size=16, on_command_line=()) == replace(official, on_command_line=())


@pytest.mark.parametrize("size", SIZES)
def test_the_recipes_of_tatoeba(arguments, size):
    """Search, and fine-tuning with the values of Table 14."""
    line = arguments(f"{size}/tatoeba_{TRANSFER}", "--score", "margin", NPROC="2")
    assert line[:3] == ["--nproc_per_node", "2", "run_retrieval.py"]
    flags = parse_options(RetrievalFlags, line[3:])
    assert flags.init_pretraining_params == "./checkpoints/best"
    assert (flags.pairs, flags.layer, flags.pooling) == ("./data/tatoeba", "middle", "mean_without_special")
    assert (flags.score, flags.do_train) == ("margin", False)
    line = arguments(f"{size}/tatoeba_fine-tuning", "--vocab_path", "", "--max_seq_len", "64")
    flags = parse_options(RetrievalFlags, line[1:])
    assert (line[0], flags.do_train) == ("run_retrieval.py", True)
    assert (flags.max_steps, flags.batch_size) == (200_000, 32)
    assert (flags.learning_rate, flags.weight_decay, flags.warmup_proportion) == (5e-5, 0.0, 0.1)
    assert (flags.layer, flags.train_set, flags.pairs) == ("middle", "./data/corpus", "./data/tatoeba")
    assert (flags.vocab_path, flags.max_seq_len, flags.paper) == (None, 64, "tatoeba_fine-tuning")
    assert flags.init_pretraining_params == (None if size == "small" else f"./configs/{size}/params")


# The command lines of the official repository's twelve scripts: ten recipes, and encode_vector in two sizes.
LAUNCHER = (
    "--node_ips 127.0.0.1 --node_id 0 --current_node_ip 127.0.0.1 --nproc_per_node {devices} "
    "--log_prefix {task}_ --split_log_path log"
)
MODEL = (
    "--use_cuda true --vocab_path ./configs/vocab.txt --piece_model_path ./configs/piece.model "
    "--ernie_config_path ./configs/{size}/ernie_config.json "
    "--init_pretraining_params ./configs/{size}/params "
)
FINE_TUNING = MODEL + (
    "--do_train true --do_val true --do_test false --batch_size {batch} "
    "--train_set ./data/{task}/train/train.{train}.{ending} "
    "--dev_set ./data/{task}/dev/dev.%s.{ending},./data/{task}/test/test.%s.{ending} "
    "--lang_map_config ./data/{task}/lang_map.json --checkpoints ./checkpoints --save_steps 10000 "
    "--weight_decay {decay} --warmup_proportion 0.1 --validation_steps {steps} --epoch {epoch} "
    "--max_seq_len {longest} --learning_rate {rate} --layerwise_lr_decay {layers} --skip_steps 10 "
    "--num_iteration_per_drop_scope 10 --random_seed 1 --use_fp16 f --use_fast_executor T --for_cn False "
    "--lr_scheduler linear_warmup_decay {more}"
)
LABELS = "--label_map_config ./data/{task}/label_map.json "
# task -> script, its own flags, ending of its files, devices, batch, weight decay, longest input,
# validation steps
OFFICIAL = {
    "xnli": ("run_classifier", LABELS + "--num_labels 3", "tsv", 2, 16, 0.0, 256, 1000),
    "conll": (
        "run_sequence_labeling",
        LABELS + "--num_labels 9 --chunk_scheme IOB",
        "tsv",
        1,
        8,
        0.01,
        512,
        100,
    ),
    "mlqa": (
        "run_mrc",
        "--doc_stride 128 --max_query_length 64 --max_answer_length 100 --n_best_size 20",
        "json",
        2,
        16,
        0.0,
        384,
        100,
    ),
}
# recipe -> epochs, learning rate, layer-wise decay
VALUES = {
    f"base/xnli_{TRANSFER}": (5, "5e-5", 0.8),
    f"base/xnli_{ALL}": (2, "5e-5", 0.8),
    f"base/conll_{TRANSFER}": (10, "4e-4", 0.8),
    f"base/{CONLL}": (10, "3e-4", 0.8),
    f"base/mlqa_{TRANSFER}": (2, "3e-4", 0.8),
    f"large/xnli_{TRANSFER}": (5, "5e-5", 0.8),
    f"large/xnli_{ALL}": (1, "5e-5", 0.8),
    f"large/conll_{TRANSFER}": (10, "4e-4", 0.8),
    f"large/{CONLL}": (10, "2e-4", 0.9),
    f"large/mlqa_{TRANSFER}": (2, "8e-5", 0.9),
}


def official_line(name: str) -> tuple[list[str], str, list[str]]:
    """The launcher's flags, the script, and its flags. `name`: a key of VALUES, or <size>/encode_vector."""
    size, recipe = name.split("/")
    if recipe == "encode_vector":
        flags = MODEL + (
            "--data_set ./data/xnli/test/test.en.tsv --output_dir ./output/xnli/test/test.en.tsv "
            "--max_seq_len 256 --batch_size 16"
        )
        return [], recipe, flags.format(size=size).split()
    task = recipe.split("_")[0]
    script, more, ending, devices, batch, decay, longest, steps = OFFICIAL[task]
    epoch, rate, layers = VALUES[name]
    values = {
        "size": size,
        "task": task,
        "ending": ending,
        "batch": batch,
        "decay": decay,
        "longest": longest,
        "steps": steps,
        "epoch": epoch,
        "rate": rate,
        "layers": layers,
        "more": more.format(task=task),
        "devices": 8 if recipe == f"xnli_{ALL}" else devices,
        "train": "en" if TRANSFER in recipe else "all",
    }
    return LAUNCHER.format(**values).split(), script, FINE_TUNING.format(**values).split()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A clone with the official layout: toy data, and random weights in the official format."""
    folder = tmp_path_factory.mktemp("official")
    (folder / "configs").mkdir()
    for task, make in MAKERS.items():
        data = folder / "data" / task
        data.mkdir(parents=True)
        make(data)
        ending = "json" if task == "mlqa" else "tsv"
        for name in ("train.en", "train.all", "dev.en", "dev.de", "test.en", "test.de"):
            part, language = name.split(".")
            (data / part).mkdir(exist_ok=True)
            source = f"train.{ending}" if part == "train" else f"dev.{language}.{ending}"
            shutil.copy(data / source, data / part / f"{name}.{ending}")
        (data / "lang_map.json").write_text('{"en": 0, "de": 1}')
    # The toy's own training file has each question 300 times.
    (folder / "data/mlqa/train/train.en.json").write_text(json.dumps(toys.squad(8, seed=1)))
    # CoNLL's 9 labels, which the official command line says, and not the toy's 5.
    tags = [f"{letter}-{type_}" for type_ in ("PER", "ORG", "LOC", "MISC") for letter in "BI"]
    label_map = {tag: number for number, tag in enumerate([*tags, "O"])}
    (folder / "data/conll/label_map.json").write_text(json.dumps(label_map))
    tokenizer = Tokenizer(piece_model_path=folder / "data/xnli/piece.model")
    shutil.copy(tokenizer.piece_model_path, folder / "configs/piece.model")
    tokenizer.write_vocab(folder / "configs/vocab.txt")
    for size, layers in (("base", 2), ("large", 3)):
        config = official_config(vocab_size=tokenizer.vocab_size, num_hidden_layers=layers)
        make_official(folder / "configs" / size, config, seed=1)
    return folder


@pytest.mark.parametrize("name", [*VALUES, "base/encode_vector", "large/encode_vector"])
def test_the_official_command_lines_run(official, name, monkeypatch):
    """In this process, as `launch.py` would start it; two steps, on the CPU."""
    launcher, script, flags = official_line(name)
    parse_options(launch.LaunchFlags, launcher)
    monkeypatch.chdir(official)
    for old in ("checkpoints", "output", "log"):
        shutil.rmtree(official / old, ignore_errors=True)
    line = [*flags, "--use_cuda", "false"]
    if script == "encode_vector":
        call_main(importlib.import_module(script), line)
        texts = len((official / "data/xnli/test/test.en.tsv").read_text().splitlines()) - 1  # and a header
        hidden = official_config()["hidden_size"]
        output = Path("output/xnli/test/test.en.tsv")  # a folder, as in the official script
        assert np.load(output / "cls_emb.npy").shape == (texts, hidden)
        assert np.load(output / "top_layer_emb.npy").shape[1] == hidden
    else:
        call_main(importlib.import_module(script), [*line, "--max_steps", "2", "--enable_ce"])
        assert Path("checkpoints/step_2/model.safetensors").is_file()
        results = json.loads(Path("checkpoints/results.json").read_text())
        lines = Path("log/job.log.0").read_text().splitlines()
        says = [line for line in lines if "official_compat" in line]
        fingerprint = json.loads(Path("checkpoints/run.json").read_text())
        assert fingerprint["official_compat"] is (script != "run_classifier")
        if script == "run_classifier":  # which has no other procedure
            assert says == []
        else:
            assert len(says) == 1 and " official_compat True: " in f" {says[0]}"
            assert results["metric"].endswith(" pieces")
