"""Each command line of the READMEs and of docs/ is run by a test, here or elsewhere.

`COMMANDS` says for each of them which test runs it, or why none does.
"""

import gzip
import importlib
import json
import lzma
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ernie_m import __main__ as cli
from ernie_m.__main__ import ALL_COMMANDS, run_command
from ernie_m.commands import export
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.reader.labels import write_indices
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils import __version__
from ernie_m.utils.args import parse_options
from tests import toys
from tests.foreign import make_official, official_config
from tests.helpers.pages import PYTHON, commands_on, manuals
from tests.launching import (
    ROOT,
    as_flags,
    call_main,
    clean_environment,
    error_of,
    give_input,
    stand_in_for_launch,
)
from tests.toys import make_corpus, sentences, train_piece_model, write_lines

# `test_a_command_runs` runs the command as it is written, with the flags of SMALLEST.
HERE = "here"
# `test_command_accepts_recipe_flags` parses the flags that the script gives to launch.py. Tests in
# tests/commands train with such flags.
RECIPE = "its flags here"
# Why no test runs the command. The rest of the row names a test of the code that it runs.
ITSELF = "installs, or runs these tests"
HOURS = "hours; "
DOWNLOADS = "downloads from other servers; "
# Pattern of a whole command -> HERE, RECIPE, the test that runs it as FILE::FUNCTION, or a reason.
COMMANDS = {
    r"sh scripts/(setup\.sh( \w+)?|test\.sh)( && sh scripts/setup\.sh \w+)?": ITSELF,
    r"sh scripts/gpu_check\.sh": "scripts/test_gpu_check.py::test_cpu_does_not_pass_as_a_gpu",
    r"sh scripts/demo\.sh --quick":
        "it fetches 91 MB; scripts/test_quick.py::test_the_demo_searches_and_learns_topics",
    r"sh scripts/demo\.sh --page":
        "it serves until Ctrl-C; commands/test_serve.py::test_a_line_finds_itself",
    r"sh scripts/reproduce\.sh .*": DOWNLOADS + "scripts/test_reproduce.py::test_each_step_is_done_once",
    r"sh scripts/chaos\.sh .*": HOURS + "one round in scripts/test_chaos.py::test_a_round_finds_what_forgets",
    r"sh scripts/data/get_weights\.sh.*":
        DOWNLOADS + "data/test_download_weights.py::test_all_are_laid_out",
    r"sh scripts/data/get_data\.sh.*":
        DOWNLOADS + "data/test_download_data_sets.py::test_every_task_ends_in_files_that_its_recipe_reads",
    r"\.venv/bin/ernie-m download e5-small":
        DOWNLOADS + "data/test_download_e5_small.py::test_every_tensor_and_subword",
    r"\.venv/bin/ernie-m download text .*": DOWNLOADS
        + "data/test_download_text.py::test_each_text_is_in_pairs_or_in_every_language",
    r"sh scripts/verify_weights\.sh .*":
        "needs released weights; scripts/test_verify_weights.py::test_one_number_off_is_enough",
    r"export .*":
        DOWNLOADS + "pretrain/build_corpus/test_build_args.py::test_the_list_is_what_a_build_takes",
    r".*build_corpus --config configs/corpus/paper-96\.yaml .*":
        "pretrain/build_corpus/test_build_args.py::test_the_list_is_what_a_build_takes",
    r".*ernie-m train_vocab .*": "data/test_train_vocab.py::test_the_same_ids_and_bytes",
    r"pip install (?!-e ).*": "test_package.py::test_it_has_what_is_used_without_a_checkout",
    r"pip install -e .*": "test_package.py::test_an_editable_installation_is_the_checkout",
    r"docker build .*": "needs Docker; test_package.py::test_package_dependencies_match_a_checkout",
    r".*ernie-m prepare mlqa .*": "data/test_prepare.py::test_mlqa_from_all_releases",
    r".*ernie-m prepare conll .*": "data/test_prepare.py::test_conll_the_shared_tasks",
    r".*build_corpus --output .*": HERE,
    r".*python run_pretrain\.py --config configs/pretrain/(small|own|continue|e5-small)\.yaml.*": HERE,
    r".*bin/fleetrun .*|.*launch\.py --(node_ips|split_log_path) .*":
        "pretrain/test_run_two_nodes.py::test_resume_after_a_node_dies",
    r"sh scripts/(small|base|large)/pretrain\.sh.*": RECIPE,
    r"([A-Z_]+=\S+ )*sh scripts/(small|base|large)/(xnli|pawsx|tatoeba)_[\w-]+\.sh.*": RECIPE,
    r"sh scripts/(base|large)/(conll|panx|mlqa)_[\w-]+\.sh.*": RECIPE,
    r".*python run_classifier\.py .*": HERE,
    r".*run_mrc\.py .* --answer_rules .*":
        "commands/test_run_mrc.py::test_squads_rules_decide_the_scores",
    r".*(python (run_retrieval|encode_vector)\.py|ernie-m mine_(pairs|hard_negatives)) .*": HERE,
    r".*ernie-m convert .*model\.pt .*": "commands/test_convert_sources.py::test_fairseq",
    r".*ernie-m (convert|export) (?!.*model\.pt).*": HERE,
    r".*ernie-m predict --task .*": HERE,
    r".*ernie-m serve .*": "commands/test_serve.py::test_the_server_describes_its_models_without_paths",
    r".*ernie-m fit .*--finetune.*": "fit/test_whole_model.py::test_the_command_and_the_next_ones",
    r".*ernie-m (fit|predict --input) (?!.*--finetune).*":
        "commands/test_fit.py::test_a_table_goes_in_and_comes_out",
    r".*ernie-m train .*": "commands/test_train.py::test_a_start_is_trained_and_compared_with_a_static_model",
    r".*examples/official_format\.py .*":
        "examples/test_official_format.py::test_example_writes_the_official_format",
    r"curl .*": "the request of inference/server/test_app_embeddings.py::test_served_embeddings",
    r".*ernie-m show_masks .*": HERE,
    r".*benchmarks/finetune\.py .*": HOURS + "scripts/test_benchmarks.py::test_fine_tuning",
    r".*benchmarks/masked_lm\.py .*": HOURS + "scripts/test_benchmarks.py::test_masked_lm",
    r".*benchmarks/encode\.py .*": HOURS + "scripts/test_benchmarks.py::test_encoding_beside_a_rival",
    r"for p in .*/figure6\.yaml .*": HOURS + "training/test_log.py::test_the_curves_are_the_records",
    r"sh scripts/ablation\.sh --scale (quick|night)":
        HOURS + "shortened in scripts/test_ablation.py::test_the_ablation_repeats_nothing",
    r"sh scripts/ablation\.sh --scale paper": HOURS + "scripts/test_ablation.py::test_the_papers_size",
}  # fmt: skip

CPU = "--max_seq_len 62 --use_cuda false"
# Program -> flags that are added to those of the pages, because the models of `clone` are tiny.
SMALLEST = {
    "run_pretrain": "--model.hidden_size 32 --model.num_hidden_layers 2 --model.num_attention_heads 4 "
    "--model.max_position_embeddings 64 --run.amp none --optimizer.steps 2 --optimizer.batch_size 4 "
    "--optimizer.tokens 0 --optimizer.warmup_steps 1 --init.lm_head_warmup_steps 1 --data.max_seq_len 32",
    "build_corpus": "--workers 1",
    "run_classifier": f"{CPU} --max_steps 2",
    "run_retrieval": f"{CPU} --amp none --max_steps 2 --batch_size 4",
    "encode_vector": CPU,
}


def all_commands() -> list[str]:
    """The commands of all manuals, each once."""
    return [*dict.fromkeys(command for page in manuals() for command in commands_on(page))]


def matching_patterns(command: str) -> list[str]:
    """The patterns in `COMMANDS` that match a command."""
    return [pattern for pattern in COMMANDS if re.fullmatch(pattern, command)]


def commands_run(by: str) -> list[Any]:
    """The commands whose row says `by`, which is HERE or RECIPE; slow, but for those of the README."""
    of_readme = commands_on(ROOT / "README.md")
    return [
        pytest.param(command, marks=[pytest.mark.slow] * (command not in of_readme))
        for command in all_commands()
        if by in [COMMANDS[pattern] for pattern in matching_patterns(command)]
    ]


def test_every_command_has_a_row_and_every_row_a_command():
    rows = {command: matching_patterns(command) for command in all_commands()}
    assert [command for command, patterns in rows.items() if len(patterns) != 1] == []
    assert {pattern for patterns in rows.values() for pattern in patterns} == {*COMMANDS}


def test_named_tests_exist():
    for row in COMMANDS.values():
        for file, test in re.findall(r"([\w/]+\.py)::(\w+)", row):
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), row


@pytest.fixture(scope="module")
def clone(module_folder):
    """A folder in which the commands of the pages find their files: tiny models, official weights, texts."""
    (module_folder / "configs").mkdir()
    (module_folder / "configs" / "pretrain").symlink_to(ROOT / "configs" / "pretrain")
    piece_model = train_piece_model(module_folder / "piece.model")
    shutil.copy(piece_model, module_folder / "configs")
    (module_folder / "data/vocab").mkdir(parents=True)
    shutil.copy(piece_model, module_folder / "data/vocab")
    put_models(module_folder, Tokenizer(piece_model_path=piece_model))
    put_texts(module_folder)
    sources = {"mono": {"en": f"{module_folder}/en.txt"}, "parallel": {"en-de": f"{module_folder}/pairs.tsv"}}
    for name in ("corpus", "mine", "e5"):
        make_corpus(module_folder / "data" / name, piece_model, held_out=20, **sources)
    return module_folder


def put_models(folder: Path, tokenizer: Tokenizer) -> None:
    """Write official weights, and the models that the commands of the pages name, with our vocabulary."""
    tokenizer.write_vocab(folder / "configs" / "vocab.txt")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
    official = official_config(vocab_size=tokenizer.vocab_size, **sizes)
    make_official(folder / "configs" / "base", official, seed=1)
    (folder / "models").mkdir()
    models = toys.make_models(folder / "models")
    for source, target in (
        (models / "classify", "checkpoints/best"),
        (models / "classify", "output/own/best"),
        (models / "classify", "tuned"),
        (models / "full", "output/pretrain-own/full"),
        (models / "encode", "checkpoints/sentences/best"),
        (models / "encode", "sentences/best"),
        (models / "answer", "checkpoints/qa"),
        (models / "full", "pretrained/full"),
        (models / "classify", "output/pretrain-own/encoder"),
        (models / "encode", "configs/e5-small"),
        (models / "encode", "output/trimmed"),
        (models / "encode", "output/e5-trimmed"),
    ):
        shutil.copytree(source, folder / target, dirs_exist_ok=True)
        tokenizer.write_vocab(folder / target / "vocab.txt")
    call_main(
        export,
        as_flags({"model": models / "classify", "output": folder / "exported", "format": "onnx"}),
    )


def put_texts(folder: Path) -> None:
    """Write the texts, pairs and task files that the commands name; the texts also packed, as .gz and .xz."""
    english = sentences(200, seed=1)  # made-up words
    german = sentences(200, seed=2)
    pairs = [f"{source}\t{target}" for source, target in zip(english, german)]
    texts = {
        "en.txt": english,
        "news.en.txt": english,
        "news.de.txt": german,
        "news.txt": german,
        "de.txt": german,
        "fr.txt": english,
        "passages.txt": german,
        "queries.jsonl": [f'{{"text": "{line}"}}' for line in german[:3]],
        "sw.txt": german,
        "my.de.txt": german,
        "my.en.txt": english,
        "my.sw.txt": german,
        "pairs.tsv": ["query\tpositive", *pairs],
        "my.tsv": pairs,
        "mined/pairs.tsv": pairs,
        "corpus.txt": german,
        "sentences.txt": english[:9],
        "texts.tsv": ["text_a", *english[:9]],
        "my/bitexts/de-en.de": list(dict.fromkeys(english)),  # each line once
        "my/bitexts/de-en.en": list(dict.fromkeys(english)),
        "requests.jsonl": ['{"text_a": "bado kani", "text_b": "lera"}'],
    }
    for name, lines in texts.items():
        text = Path(write_lines(folder / name, lines)).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        (folder / f"{name}.xz").write_bytes(lzma.compress(text))
    # The texts of the toy task, with a label of the model that `put_models` writes.
    rows = [row._replace(label=toys.LABELS[0]) for row in toys.labeled_texts(12, seed=1)]
    toys.write_labeled_texts(folder / "my/new.tsv", rows, label=False)
    toys.write_labeled_texts(folder / "data/xnli/dev/dev.en.tsv", rows)
    toys.write_labeled_texts(folder / "my/test.de.tsv", rows)
    labeled = toys.labeled_texts(40, seed=1)
    labeled = [row._replace(label=toys.LABELS[i % len(toys.LABELS)]) for i, row in enumerate(labeled)]
    toys.write_labeled_texts(folder / "my/train.tsv", labeled)
    toys.write_labeled_texts(folder / "my/dev.tsv", labeled[:9])
    write_indices(folder / "my/label_map.json", toys.LABELS)
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    (folder / "whole_words.py").write_text(PYTHON.search(page)[1], encoding="utf-8")


@pytest.fixture
def clone_copy(clone, tmp_path, monkeypatch) -> Path:
    """The current folder: a copy of `clone`."""
    folder = shutil.copytree(clone, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("line", commands_run(by=HERE))
def test_a_command_runs(clone_copy, monkeypatch, line):
    """It runs in this process. If the line has a |, the shell runs what is before it and makes the input."""
    before_pipe, _, command = line.rpartition(" | ")
    if before_pipe:
        piped = subprocess.run(["sh", "-c", before_pipe], capture_output=True, check=True)
        give_input(monkeypatch, piped.stdout)
    starts, script, *flags = shlex.split(command)
    assert starts in (".venv/bin/python", ".venv/bin/ernie-m")
    name = script.removesuffix(".py")
    # Folders that the command must make itself are in `clone` for other commands.
    if name == "build_corpus":
        shutil.rmtree(get_value("--output", flags), ignore_errors=True)
    if name == "convert":
        shutil.rmtree(flags[1], ignore_errors=True)
    if "--do_train true" in command or (name == "run_classifier" and "--train_set" in flags):
        shutil.rmtree(get_value("--checkpoints", flags), ignore_errors=True)
    if name == "run_pretrain":
        shutil.rmtree(parse_options(PretrainConfig, flags).run.output, ignore_errors=True)
    flags += shlex.split(SMALLEST.get(name, ""))
    module = importlib.import_module(f"ernie_m.{ALL_COMMANDS[name][0]}")
    # 0: the exit code of --help.
    with pytest.raises(SystemExit, match="0") if "--help" in flags else nullcontext():
        call_main(module, flags)


def get_value(flag: str, words: list[str]) -> str:
    """The value of a flag in the words of a command line."""
    return words[words.index(flag) + 1]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """A folder with the recipes, whose launch.py prints its arguments."""
    folder = stand_in_for_launch(tmp_path_factory.mktemp("scripts"))
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("line", commands_run(by=RECIPE))
def test_command_accepts_recipe_flags(scripts, monkeypatch, line):
    """The command takes the flags that the script gives to launch.py."""
    monkeypatch.chdir(scripts)
    process = subprocess.run(
        line, shell=True, cwd=scripts, env=clean_environment(), capture_output=True, text=True, check=True
    )
    words = json.loads(process.stdout)  # of launch.py: its own flags, the command, the command's flags
    (script,) = (word for word in words if word.endswith(".py"))
    options = {"run_pretrain.py": PretrainConfig, "run_retrieval.py": RetrievalFlags}
    parse_options(options.get(script, FinetuneFlags), words[words.index(script) + 1 :])


def test_list_commands():
    """Those of the paper have a heading of their own."""
    adopters, paper = cli.format_usage().split("The paper, with the official flags:")
    assert all(f"\n  {name} " in (adopters if name in cli.COMMANDS else paper) for name in ALL_COMMANDS)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], " recipe "),
        (["-h"], " recipe "),
        (["recipe", "--help"], "base/xnli_cross_lingual_transfer"),
    ],
)
def test_help_leads_to_the_recipes(monkeypatch, capsys, words, shown):
    monkeypatch.setattr(sys, "argv", ["ernie-m", *words])
    run_command()
    printed = capsys.readouterr().out.rstrip()
    assert shown in printed and printed.splitlines()[-1].startswith("  ")


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ernie-m", "--version"])
    run_command()
    assert capsys.readouterr().out == f"ERNIE-M {__version__}\n"


def test_a_recipe_needs_a_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ernie-m", "recipe"])
    assert error_of(run_command).startswith("unknown recipe ")


@pytest.mark.parametrize(
    ("words", "module", "rest"),
    [
        ("data xnli --data d", "download_data_sets", ["xnli", "--data", "d"]),
        ("weights base", "download_weights", ["base"]),
        ("e5-small", "download_e5_small", []),
        ("text folder de", "download_text", ["folder", "de"]),
    ],
)
def test_download_calls_the_module_with_the_remaining_arguments(monkeypatch, words, module, rest):
    seen = []
    monkeypatch.setattr(f"ernie_m.data.{module}.main", lambda: seen.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["ernie-m", "download", *words.split()])
    run_command()
    assert seen == [rest]
