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
from ernie_m.finetune.score_tables import load_recipe_scores
from ernie_m.inference.encode_vector_args import EncodeVectorFlags
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import parse_options
from tests import toys
from tests.foreign import make_official, official_config
from tests.helpers.hub import NAME, serve_release
from tests.launching import ROOT, as_flags, call_main, clean_environment, stand_in_for_launch

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
PAPER = {
    f"{size}/{name}": row
    for size, rows in (("small", SMALL | PAWSX), ("base", SMALL | PAWSX), ("large", LARGE))
    for name, row in rows.items()
}
# Not in the paper: PAN-X, and the official values of large on all languages of CoNLL.
OTHERS = {
    **{f"{size}/panx_{TRANSFER}": (8, 4e-4, 0.8, 0.01, 10) for size in SIZES},
    f"large/{CONLL}": (8, 2e-4, 0.9, 0.01, 10),
}


TATOEBA = {
    "max_steps": 200_000,
    "batch_size": 32,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "warmup_proportion": 0.1,
    "layer": "middle",
    "pooling": "mean_without_special",
}


def read_columns(name: str) -> dict[str, list[str]]:
    """Read a table next to this file: first column -> the other columns."""
    rows = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return {recipe: cells for recipe, *cells in (row.split("\t") for row in rows)}


# What the script of a recipe gives launch.py.
PRINTED = read_columns("recipe_lines.tsv")
# The command lines of the official repository's twelve scripts: the launcher's flags, the script, its flags.
OFFICIAL = read_columns("official_lines.tsv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copy the scripts to a folder whose launch.py and encode_vector.py only record their arguments."""
    folder = stand_in_for_launch(tmp_path_factory.mktemp("recipes"))
    ignored = shutil.ignore_patterns("sample", "data", "__pycache__")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=ignored)
    (folder / "encode_vector.py").write_text("import json, sys\nprint(json.dumps(sys.argv))\n")
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
def test_recipe_flags(arguments, recipe):
    """The name of a recipe is <size>/<task>_<what it is trained on>."""
    line = arguments(recipe)
    assert line == PRINTED[recipe][0].split()
    args = parse_options(FinetuneFlags, line[1:])
    values = {**vars(args), "batch": args.recipe_devices * args.batch_size}
    assert tuple(values[column] for column in COLUMNS) == (PAPER | OTHERS)[recipe]
    name = recipe.partition("/")[2]
    if "run_classifier" not in line[0]:  # which has no other procedure
        assert args.official_compat is name.startswith(("conll", "mlqa"))
    assert args.chunk_scheme == "IOB"
    if recipe in PAPER:
        assert args.paper == name.removesuffix("_paper") and args.paper in load_recipe_scores()


def test_small_takes_its_weights_where_they_are(arguments, folder):
    params = folder / "configs" / "small" / "params"
    params.mkdir(parents=True)
    args = parse_options(FinetuneFlags, arguments(f"small/xnli_{TRANSFER}")[1:])
    params.rmdir()
    assert args.init_pretraining_params == "./configs/small/params"


# Recipe, flags that are added, and what they give. The vocabulary goes with the recipe's SentencePiece model.
ADDED = [
    (
        f"base/xnli_{TRANSFER}",
        {"epoch": 1, "piece_model_path": "a b.model", "init_pretraining_params": ""},
        {"epoch": 1, "piece_model_path": "a b.model", "init_pretraining_params": None, "vocab_path": None},
    ),
    (
        f"base/panx_{TRANSFER}",
        {"init_pretraining_params": "my/model"},
        {
            "init_pretraining_params": "my/model",
            **dict.fromkeys(("ernie_config_path", "vocab_path", "piece_model_path")),
        },
    ),
    (
        f"large/xnli_{TRANSFER}",
        {"init_pretraining_params": "", "ernie_config_path": "configs/tiny/ernie_config.json"},
        {"init_pretraining_params": None, "vocab_path": "./configs/vocab.txt"},
    ),
]


@pytest.mark.parametrize(("recipe", "added", "expected"), ADDED)
def test_any_flag_can_be_overridden_or_taken_back(arguments, recipe, added, expected):
    """An empty value takes a flag of the recipe back. A model comes with its config and its tokenizer."""
    line = arguments(recipe, *as_flags(added), NPROC="2")
    assert line[:2] == ["--nproc_per_node", "2"]
    args = parse_options(FinetuneFlags, line[3:])
    assert {name: getattr(args, name) for name in expected} == expected


def test_a_dry_run_has_a_small_model_that_reads_the_same_data():
    configs = [
        ErnieMConfig.from_json(ROOT / f"configs/{size}/ernie_config.json") for size in ("tiny", "large")
    ]
    assert len({(config.vocab_size, config.max_input_length) for config in configs}) == 1


@pytest.mark.parametrize("size", ["base", "large"])
def test_encode_vector_has_the_official_values(folder, size):
    command = ["sh", f"scripts/{size}/encode_vector.sh", "--batch_size", "8"]
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    flags = parse_options(EncodeVectorFlags, json.loads(completed.stdout)[1:])
    official = parse_options(EncodeVectorFlags, OFFICIAL[f"{size}/encode_vector"][2].split())
    assert (official.batch_size, flags.batch_size) == (16, 8)
    assert replace(flags, batch_size=16, on_command_line=()) == replace(official, on_command_line=())


@pytest.mark.parametrize(("kind", "do_train"), [(TRANSFER, False), ("fine-tuning", True)])
@pytest.mark.parametrize("size", SIZES)
def test_tatoeba_recipes(arguments, kind, do_train, size):
    """Search, and fine-tuning with the values of Table 14."""
    line = arguments(f"{size}/tatoeba_{kind}")
    assert line == PRINTED[f"{size}/tatoeba_{kind}"][0].split()
    flags = parse_options(RetrievalFlags, line[1:])
    assert vars(flags) | TATOEBA | {"do_train": do_train} == vars(flags)


@pytest.fixture(scope="module")
def official(module_folder):
    """A clone with the official layout: toy data, and random weights in the official format."""
    (module_folder / "configs").mkdir()
    for task, make in MAKERS.items():
        data = module_folder / "data" / task
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
    (module_folder / "data/mlqa/train/train.en.json").write_text(json.dumps(toys.squad(8, seed=1)))
    # CoNLL's 9 labels, which the official command line says, and not the toy's 5.
    tags = [f"{letter}-{type_}" for type_ in ("PER", "ORG", "LOC", "MISC") for letter in "BI"]
    label_map = {tag: number for number, tag in enumerate([*tags, "O"])}
    (module_folder / "data/conll/label_map.json").write_text(json.dumps(label_map))
    tokenizer = Tokenizer(piece_model_path=module_folder / "data/xnli/piece.model")
    shutil.copy(tokenizer.piece_model_path, module_folder / "configs/piece.model")
    tokenizer.write_vocab(module_folder / "configs/vocab.txt")
    for size, layers in (("base", 2), ("large", 3)):
        config = official_config(vocab_size=tokenizer.vocab_size, num_hidden_layers=layers)
        make_official(module_folder / "configs" / size, config, seed=1)
    return module_folder


# Of the large ones, which differ in their numbers, one.
@pytest.mark.parametrize("name", [name for name in OFFICIAL if "base/" in name or "train_all" in name])
def test_the_official_command_lines_run(official, name, monkeypatch):
    """In this process, as `launch.py` would start it; two steps, on the CPU."""
    launcher, script, flags = OFFICIAL[name]
    parse_options(launch.LaunchFlags, launcher.split())
    monkeypatch.chdir(official)
    for old in ("checkpoints", "output", "log"):
        shutil.rmtree(official / old, ignore_errors=True)
    line = [*flags.split(), "--use_cuda", "false"]
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
        fingerprint = json.loads(Path("checkpoints/run.json").read_text())
        has_procedures = script != "run_classifier"
        assert (fingerprint["official_compat"], results["metric"].endswith(" subwords")) == (
            has_procedures,
            has_procedures,
        )
        assert Path("log/job.log.0").read_text().count("official_compat True: ") == has_procedures


@pytest.mark.parametrize(
    "recipe",
    [f"xnli_{TRANSFER}", f"conll_{TRANSFER}", f"mlqa_{TRANSFER}", "tatoeba_fine-tuning", "encode_vector"],
)
def test_recipes_start_from_a_name_on_the_hub(official, corpus, arguments, recipe, monkeypatch, tmp_path):
    """One of each task, without a folder configs/."""
    (tmp_path / "data").mkdir()
    for folder in (*(official / "data").iterdir(), corpus):
        (tmp_path / "data" / folder.name).symlink_to(folder)
    for side in ("de", "en"):
        toys.write_lines(tmp_path / f"data/tatoeba/de-en.{side}", toys.sentences(9))
    monkeypatch.chdir(tmp_path)
    script, *line = arguments(f"base/{recipe}", "--init_pretraining_params", NAME, "--use_cuda", "false")
    if recipe != "encode_vector":
        line += ["--max_steps", "2"]
    with serve_release(tmp_path, monkeypatch, corpus.parent / "piece.model") as hub:
        call_main(importlib.import_module(script.removesuffix(".py")), line)
    assert "model_state.pdparams" in hub.fetched and (Path("output").exists() or Path("checkpoints").exists())
