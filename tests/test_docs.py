"""The documentation: links and names exist, it is short, and each of its commands is run by some test.

`COMMANDS` says for each command line of the READMEs and of docs/ who runs it, or why nobody does.
"""

import ast
import contextlib
import gzip
import importlib
import io
import json
import lzma
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import ernie_m
import export
from finetune.flags import FinetuneFlags, RetrievalFlags
from pretrain.config import PretrainConfig
from reader.tokenization import Tokenizer
from tests.finetune import toy
from tests.helpers.official_layout import make_official_weights, official_config
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from tests.inference import toy_models
from tests.launching import ROOT, as_flags, call_main, clean_environment, stand_in_for_launch
from utils.command_line import load_config, parse_args

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# sh scripts/test.sh, python run_classifier.py, .venv/bin/python scripts/data/prepare.py
COMMAND = re.compile(r"\b(?:sh|python3?) ((?:scripts/|benchmarks/|experiments/)?[\w/-]+\.(?:sh|py))\b")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def shown(pattern: re.Pattern, page: Path) -> set[str]:
    return set(pattern.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page):
    links = {link for link in shown(LINK, page) if "://" not in link}
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []
    assert [script for script in sorted(shown(COMMAND, page)) if not (ROOT / script).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_commands_name_the_environment(page):
    lines = [line for line in commands(page) if not line.startswith(".venv/bin/python ")]
    assert [line for line in lines if re.search(r"(?<!\.venv/bin/)\b(?:python3?|pip) ", line)] == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    assert shown(LINK, index) == {page.name for page in ROOT.glob("docs/*.md")} - {index.name}


def test_pictures():
    shown_in_pages = {(page.parent / link).resolve() for page in PAGES for link in shown(PICTURE, page)}
    assert shown_in_pages == set(ROOT.glob("docs/images/*"))
    assert all(path.stat().st_size < 200_000 for path in shown_in_pages)


def test_the_architecture_names_files_and_functions_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {name for name in re.findall(r"`([\w/-]+\.py)`", text) if "/" in name or (ROOT / name).exists()}
    assert len(files) > 30
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    # 1. `pretrain/corpus/text.py`, `read_units`: ...
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`, `(?:\w+\.)?(\w+)`", text, re.M)
    assert len(steps) > 25
    for file, name in steps:
        assert re.search(rf"\b(?:def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8")), name
    for walk in text.split("\n## From ")[1:]:
        assert len(re.findall(r"^\d+\. ", walk.split("\n## ")[0], re.M)) <= 12


def commands(page: Path) -> list[str]:
    return commands_of(page.read_text(encoding="utf-8"))


def commands_of(page: str) -> list[str]:
    """The command lines of a page, without comments; a line that goes on is joined with the next."""
    text = "".join(BLOCK.findall(page))
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines())
    return [line for line in lines if line]


def test_both_readmes_show_the_same_commands():
    english = commands(ROOT / "README.md")
    assert "sh scripts/demo.sh" in english and "sh scripts/test.sh" in english
    assert commands(ROOT / "README_zh.md") == english


def test_the_version_has_its_changes():
    releases = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert ernie_m.__version__ in releases


# Who runs a command: these tests, as it is written, with SMALLEST added; another test; or nobody, and why.
HERE, RECIPE = "here", "its flags here, as the script gives them to launch.py; training in tests/finetune"
ITSELF, HOURS = "installs, or runs these tests", "hours; "
DOWNLOADS = "downloads from other servers; "
COMMANDS = {  # pattern of a whole command -> HERE, RECIPE, another test, or a reason with such a test
    r".*bin/pip install .*": ITSELF,
    r"sh scripts/(setup|test)\.sh": ITSELF,
    r"sh scripts/gpu_check\.sh": "test_gpu_check.py::test_a_cpu_passes",
    r"sh scripts/demo\.sh": "twelve minutes; shortened in sample/test_demo.py::test_the_whole_way",
    r"sh scripts/chaos\.sh .*": HOURS + "one round in chaos/test_chaos.py::test_a_round",
    r"sh scripts/data/get_weights\.sh .*": DOWNLOADS + "reader/test_get_weights.py::test_everything",
    r"sh scripts/verify_weights\.sh .*":
        "needs released weights; model/test_verify_weights.py::test_exit_code",
    r"(export|wget|unzip|tar) .*":
        DOWNLOADS + "pretrain/test_corpus_downloads.py::test_the_papers_tables_9_and_10",
    r".*build_corpus --config configs/corpus/paper-96\.yaml .*":
        "pretrain/test_corpus_downloads.py::test_the_list_is_what_a_build_takes",
    r".*build_corpus --engine ray \.\.\.": "pretrain/test_corpus_ray.py::test_the_same_bytes",
    r".*build_corpus --engine ray --ray_address .*":
        "needs a cluster; pretrain/test_corpus_ray.py::test_no_cluster_there",
    r"sh scripts/data/train_vocab\.sh .*": "reader/test_train_vocab.py::test_ids_files_and_bytes",
    r".*prepare\.py xnli .*": "reader/test_prepare.py::test_xnli_both_releases",
    r".*prepare\.py pawsx .*": "reader/test_prepare.py::test_pawsx_the_release",
    r".*prepare\.py mlqa .*": "reader/test_prepare.py::test_mlqa_all_releases",
    r".*prepare\.py conll .*": "reader/test_prepare.py::test_conll_the_shared_tasks",
    r".*prepare\.py panx .*": "reader/test_prepare.py::test_conll_panx",
    r".*build_corpus --output .*": HERE,
    r".*python run_pretrain\.py --config configs/pretrain/(small|sample|continue)\.yaml.*": HERE,
    r".*python run_pretrain\.py --config configs/pretrain/base\.yaml":
        "needs XLM-R; pretrain/test_initialise.py::test_from_xlm_r",
    r"fleetrun .*|.*launch\.py --node_ips .*":
        "pretrain/test_two_nodes.py::test_a_node_dies_and_the_same_commands_go_on",
    r"sh scripts/(small|base|large)/pretrain\.sh.*": RECIPE,
    r"(NPROC=2 )?sh scripts/(small|base|large)/(xnli|pawsx|conll|panx|mlqa|tatoeba)_[\w-]+\.sh.*": RECIPE,
    r".*python run_classifier\.py .*": HERE,
    r".*run_mrc\.py .* --answer_rules .*":
        "finetune/test_answer_metrics.py::test_squads_rules_are_those_of_english",
    r".*python (run_retrieval|encode_vector)\.py .*": HERE,
    r".*convert\.py .*model\.pt .*": "convert/test_sources.py::test_fairseq",
    r".*python (convert|export)\.py (?!.*model\.pt).*": HERE,
    r".*predict\.py --task classify --model exported.*": HERE,
    r".*predict\.py --task (?!classify --model exported).*":
        "inference/test_interface.py::test_command_lines",
    r".*python predict\.py --serve .*": "inference/test_serve.py::test_what_is_served",
    r".*pretrain\.show .*": HERE,
    r".*benchmarks/plan\.py .*": HERE,
    r"sh scripts/benchmark\.sh.*": HOURS + "benchmarks/test_page.py::test_command_line",
    r".*benchmarks/finetune_real\.py .*": "benchmarks/test_rows.py::test_fine_tuning_steps",
    r".*benchmarks/pretrain_cost\.py": "benchmarks/test_rows.py::test_the_cost_of_the_full_strategy",
    r"DATA=.* -m benchmarks\.corpus .*": HOURS + "benchmarks/test_rows.py::test_corpus",
    r"DATA=.* -m experiments\.run .*":
        HOURS + "experiments/test_studies.py::test_a_study_from_text_to_tables",
    r".* -m experiments\.tables .*":
        "experiments/test_studies.py::test_the_published_tables_are_those_of_the_figures",
    r"taskset .*": "two idle cores; pretrain/test_reader.py::test_equal_compute_divides_the_steps",
    r"sh scripts/base/ablation\.sh": HOURS + "experiments/test_ablation.py::test_the_command_lines",
}  # fmt: skip
MANUALS = [ROOT / "README.md", ROOT / "README_zh.md", *sorted(ROOT.glob("docs/*.md"))]
SHOWN = list(dict.fromkeys(command for page in MANUALS for command in commands(page)))


def rows_of(command: str) -> list[str]:
    return [pattern for pattern in COMMANDS if re.fullmatch(pattern, command)]


def shown_as(how: str) -> list[str]:
    return [command for command in SHOWN if how in map(COMMANDS.get, rows_of(command))]


def test_every_command_has_a_row_and_every_row_a_command():
    assert [command for command in SHOWN if len(rows_of(command)) != 1] == []
    assert set(COMMANDS) - {row for command in SHOWN for row in rows_of(command)} == set()
    named = {found for how in COMMANDS.values() for found in re.findall(r"([\w/]+\.py)::(\w+)", how)}
    for file, test in named:
        functions = ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")))
        assert test in {node.name for node in functions if isinstance(node, ast.FunctionDef)}, (file, test)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder in which the commands of the pages find their files: tiny models, official weights, texts."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "models").mkdir()
    models = toy_models.make(folder / "models")
    (folder / "configs").mkdir()
    (folder / "configs" / "pretrain").symlink_to(ROOT / "configs" / "pretrain")
    pieces = train_pieces(folder / "piece.model")
    shutil.copy(pieces, folder / "configs")
    (folder / "data" / "vocab").mkdir(parents=True)
    shutil.copy(pieces, folder / "data" / "vocab")
    tokenizer = Tokenizer(piece_model_path=pieces)
    tokenizer.write_vocab(folder / "configs" / "vocab.txt")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
    official = official_config("tiny", vocab_size=tokenizer.vocab_size, **sizes)
    make_official_weights(folder / "configs" / "base", official, seed=1)
    for place, kind in (("checkpoints", "classify"), ("my/checkpoints", "classify"), ("output/mine", "full")):
        name = "full" if kind == "full" else "best"
        shutil.copytree(models / kind, folder / place / name)
        tokenizer.write_vocab(folder / place / name / "vocab.txt")

    one, other = sentences(200, seed=1), sentences(200, seed=2)
    pairs = [f"{a}\t{b}" for a, b in zip(one, other)]
    for name, lines in {
        "news.en.txt": one, "news.de.txt": other, "en.txt": one, "sw.txt": other, "my.sw.txt": other,
        "pairs.tsv": pairs, "my.tsv": pairs, "en-sw.tsv": pairs, "sentences.txt": one[:9],
        "texts.tsv": ["text_a", *one[:9]], "my/bitexts/de-en.de": dict.fromkeys(one),
        "my/bitexts/de-en.en": dict.fromkeys(one),
        "requests.jsonl": ['{"text_a": "bado kani", "text_b": "lera"}'],
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        text = Path(write_lines(folder / name, list(lines))).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        (folder / f"{name}.xz").write_bytes(lzma.compress(text))
    texts = {"mono": {"en": f"{folder}/en.txt"}, "parallel": {"en-de": f"{folder}/pairs.tsv"}}
    for name in ("corpus", "mine", "more"):
        build(folder / "data" / name, pieces, held_out=20, **texts)
    rows = [(*row[:3], toy_models.LABELS[0]) for row in toy.rows(12, seed=1)]
    toy.write_tsv(folder / "my/new.tsv", rows, label=False)
    toy.write_tsv(folder / "data/xnli/dev/dev.en.tsv", rows)
    exported = {"model": models / "classify", "output": folder / "exported", "int8": "true"}
    call_main(export, as_flags(exported))
    return folder


CPU = "--max_seq_len 62 --use_cuda false"
SMALLEST = {
    "run_pretrain": "--model.hidden_size 32 --model.num_hidden_layers 2 --model.num_attention_heads 4 "
    "--model.max_position_embeddings 64 --run.amp none --optimizer.steps 2 --optimizer.batch_size 4 "
    "--optimizer.tokens 0 --optimizer.warmup_steps 1 --init.lm_head_warmup_steps 1 --data.max_seq_len 32",
    "pretrain.build_corpus": "--workers 1",
    "run_classifier": f"--num_labels 3 {CPU}", "run_retrieval": CPU, "encode_vector": CPU,
}  # fmt: skip


@pytest.mark.parametrize("line", shown_as(HERE))
def test_a_command_runs(clone, tmp_path, monkeypatch, line):
    """In this process, in a copy of `clone`; what stands before a | is the command's input."""
    shutil.copytree(clone, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(tmp_path / "clone")
    *source, command = line.split(" | ")
    if source:
        given = subprocess.run(["sh", "-c", source[0]], capture_output=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(given))))
    python, *words = shlex.split(command)
    assert python == ".venv/bin/python"
    program, *flags = words[1:] if words[0] == "-m" else words
    name = program.removesuffix(".py").replace("/", ".")
    if name == "pretrain.build_corpus":
        shutil.rmtree(flags[flags.index("--output") + 1], ignore_errors=True)
    with pytest.raises(SystemExit, match="0") if "--help" in flags else contextlib.nullcontext():
        call_main(importlib.import_module(name), flags + shlex.split(SMALLEST.get(name, "")))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = stand_in_for_launch(tmp_path_factory.mktemp("scripts"))
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def launched(scripts: Path, line: str) -> tuple[str, list[str]]:
    """The program that a recipe starts, and its flags."""
    done = subprocess.run(
        line, shell=True, cwd=scripts, env=clean_environment(), capture_output=True, text=True, check=True
    )
    words = json.loads(done.stdout)
    number = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return words[number], words[number + 1 :]


@pytest.mark.parametrize("line", shown_as(RECIPE))
def test_the_flags_of_a_recipe(scripts, monkeypatch, line):
    monkeypatch.chdir(scripts)
    program, flags = launched(scripts, line)
    if program == "run_pretrain.py":
        load_config(PretrainConfig, flags)
    else:
        parse_args(RetrievalFlags if program == "run_retrieval.py" else FinetuneFlags, flags)


def test_your_own_data(clone, scripts, tmp_path, monkeypatch):
    """docs/finetune.md: the recipe on one's own files, then predictions of the selected step."""
    page = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
    train, predict = commands_of(page.split("## Your own data")[1].split("\n## ")[0])
    shutil.copytree(clone, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(tmp_path / "clone")
    shutil.rmtree("my/checkpoints")
    rows = [(*row[:3], "no" if row[3] == "tool" else "yes") for row in toy.rows(20, seed=1)]
    for name in ("train.en", "dev.en", "dev.de"):
        toy.write_tsv(Path(f"my/{name}.tsv"), rows, qid=False)
    Path("my/label_map.json").write_text('{"no": 0, "yes": 1}')
    Path("my/lang_map.json").write_text('{"en": 0, "de": 1}')
    program, flags = launched(scripts, train)
    assert program == "run_classifier.py"
    few = ["--max_steps", "2", "--max_seq_len", "62", "--use_cuda", "false"]
    call_main(importlib.import_module("run_classifier"), [*flags, *few])
    (table,) = json.loads(Path("my/checkpoints/results.json").read_text())["tables"]
    assert list(table["mean"])[:2] == ["en", "de"] and "paper" not in table
    call_main(importlib.import_module("run_classifier"), [*shlex.split(predict)[2:], *few[2:]])
    assert len(Path("my/new.predicted.tsv.0.0").read_text().splitlines()) == 12
