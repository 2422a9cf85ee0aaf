"""Each path and module of the project that a docstring, comment, message or page names is there.

It is there as it is read: a path begins at the root, or beside the file that names it, and a module at the
root. A page may name a file alone, and docs/architecture.md a path below the folder of which it speaks.
"""

import ast
import fnmatch
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_layers import LINKS, ROOT, tracked_files

PACKAGE = "ernie_m"
# A name with one of these endings is a file of the project. Most others, such as .json, are files of a run.
OURS = (".py", ".sh", ".md", ".yaml")
# What is named and not there: pattern -> why. * stands for what a name leaves open, as in step_<n>.
ELSEWHERE = {
    r"configs/(vocab\.txt|piece\.model|e5-small|(\*|small|base|large)/params)": "get_weights.sh fetches it",
    r"data/(?!.*\.(py|sh)$).*": "the data of the recipes, or of the user",
    r"all|encoder|fold_1|full|seed_\*|((checkpoints|\*)/)?(step_N|best)|(step_N/)?training_state": "of a run",
    r"(evaluation|(output/xnli-large/)?results)\.md": "the report of a run",
    r"checkpoints|target|test|texts|topics|train|held-out": "of the output of a command",
    r"config\.yaml|(sentences/)?log/commands\.sh": "of the output of a command",
    r"(folder/)?params|1_Pooling|2_Normalize": "of a model in another form",
    r"a|books|dev|folder|xquad|(NAME|script|training|utils)\.py|file\.yaml": "of the user",
    r"(pretrain/objectives/)?whole_words\.py": "the example of docs/pretraining.md",
    r"ernie_m/__main__\.py": "of the wheel",
    r"utils/(finetune_args|eval_mlqa|fp16|init)\.py": "of the official code",
    r"(mine_bitexts|evaluate)\.py": "of LASER, XTREME",
    r"tests/transformers/ernie_m/test_modeling\.py|paddle/.*": "of PaddleNLP, Paddle",
}
# Folders that are also names of variables and sections of a configuration: model.fit, data.corpus. Only names
# in their modules and sub-folders are checked.
AMBIGUOUS = ("model", "data", "tokenizer", "vectors")
# What else `python -m` starts: programs of other packages.
OTHER_PROGRAMS = ("pip", "pytest", "venv", "paddle.distributed.launch")

_PART = r"[\w.*{},<>-]++"
PATH = re.compile(rf"(?<![\w./<>{{}}%$~@:\\-])(?:\.{{1,2}}/)*+{_PART}(?:/{_PART})*+/?+(?![\w%$\\])")
MODULE = re.compile(r"(?<![\w./<>@-])[a-z_]\w*(?:\.\w+)+")
PROGRAM = re.compile(r"\bpython3? -m ([\w.]*\w)")
FILE = re.compile(r".*\.(py|sh|md|yaml|json|txt|model|pdiparams)")


@cache
def paths() -> frozenset[str]:
    """The files under version control, and their folders, relative to the root."""
    files = [path.relative_to(ROOT) for path in tracked_files()]
    return frozenset(str(path) for file in files for path in (file, *file.parents))


@cache
def ends_of_paths() -> frozenset[str]:
    """Each of `paths`, from any of its parts on."""
    ends = set()
    for path in paths():
        parts = path.split("/")
        ends |= {"/".join(parts[first:]) for first in range(len(parts))}
    return frozenset(ends)


@cache
def tops() -> frozenset[str]:
    """The folders at the root, and those of the package."""
    places = [path.removeprefix(f"{PACKAGE}/") for path in paths()]
    return frozenset(place.split("/")[0] for place in places if "/" in place)


def texts_of(path: Path) -> Iterator[str]:
    """What a file says to people: a whole page; comments; docstrings and, of a program, messages."""
    if path.suffix not in (".md", ".py", ".sh", ".yaml", ".toml", ".txt"):
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield text
        return
    yield from re.findall(r"(?:^|\s)(#.*)", text)
    if path.suffix == ".py":
        nodes = list(ast.walk(ast.parse(text)))
        if "tests" in path.relative_to(ROOT).parts:  # their other strings speak of made-up files
            nodes = [node.value for node in nodes if isinstance(node, ast.Expr)]
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.value


def named_paths(text: str) -> Iterator[str]:
    """The paths in a text that must be the project's own."""
    for match in PATH.finditer(text):
        if not {"/", "."} & set(match[0]):  # a word
            continue
        name = re.sub(r"<\w+>", "*", match[0].rstrip(".,"))
        name = re.sub(r"^(\.{1,2}/)+", "", name)
        for path in without_braces(name):
            in_our_folder = "/" in path.strip("/") and path.split("/")[0] in tops()
            is_ending_alone = Path(path).name.startswith(".") and path.endswith(OURS)
            if (path.endswith((*OURS, "/")) or in_our_folder) and not is_ending_alone:
                yield path.rstrip("/")


def without_braces(name: str) -> list[str]:
    """The paths that a name stands for: `a.{b,c}` for `a.b` and `a.c`, and `a,b` for `a` and `b`."""
    parts = re.split(r"\{([^{}]*)\}", name)  # every second one was in braces
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    names = ",".join("".join(chosen) for chosen in itertools.product(*choices)).split(",")
    return [path for path in names if path and not set("{}<>") & set(path)]


def path_is_known(name: str, place: Path) -> bool:
    """Whether a path is there for who reads it in the file `place`, or has a reason not to be."""
    is_in_words = place.suffix == ".md" and ("/" not in name or place.name == "architecture.md")
    known = ends_of_paths() if is_in_words else paths()
    names = {name, str(place.parent.relative_to(ROOT) / name)}
    names |= {f"{PACKAGE}/{name}"} if name.split("/")[0] in LINKS else set()
    is_there = names & known or ("*" in name and any(fnmatch.filter(known, path) for path in names))
    return bool(is_there) or any(re.fullmatch(pattern, name) for pattern in ELSEWHERE)


def named_modules(text: str) -> Iterator[str]:
    """The dotted names in a text that must be modules of the project, or what they define."""
    for name in MODULE.findall(PROGRAM.sub("", text)):
        top, second, *_ = name.split(".")
        is_variable = top in AMBIGUOUS and not module_is_there(f"{PACKAGE}.{top}.{second}")
        if top in {PACKAGE, *tops()} and not is_variable and not FILE.fullmatch(name):
            yield name


def module_is_there(name: str) -> bool:
    """Whether a dotted name is a module or folder, or the file of its module has the word that follows."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path, rest = "/".join(parts[:count]), parts[count:]
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in paths():
                code = (ROOT / file).read_text(encoding="utf-8")
                return not rest or re.search(rf"\b{rest[0]}\b", code) is not None
        if path in paths() and not rest:
            return True
    return False


def program_is_there(name: str) -> bool:
    """Whether `python -m` starts it, at the root or by a link."""
    is_by_link = name.split(".")[0] in LINKS and module_is_there(f"{PACKAGE}.{name}")
    return is_by_link or module_is_there(name) or name in OTHER_PROGRAMS


def missing(text: str, place: Path = ROOT / "README.md") -> list[str]:
    """The names in a text of the file `place` that are not there."""
    names = [name for name in named_paths(text) if not path_is_known(name, place)]
    names += [name for name in named_modules(text) if not module_is_there(name)]
    names += [name for name in PROGRAM.findall(text) if not program_is_there(name)]
    return list(dict.fromkeys(names))


def test_what_the_texts_name_is_there():
    errors = []
    for path in tracked_files():
        for text in texts_of(path):
            errors += [f"{path.relative_to(ROOT)}: {name}" for name in missing(text, path)]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("the rows (`training/adam.py`), and `ernie_m/utils/errors.py`.", ["training/adam.py"]),
        ("at commit 1a2b3c4d: `scripts/benchmarks/old.py`; `turns.py`", ["scripts/benchmarks/old.py"]),
        ("sh scripts/setup.sh gpu, sh scripts/{setup,gone}.sh gpu", ["scripts/gone.sh"]),
        ("configs/pretrain/exp<n>.yaml or configs/pretrain/run<n>.yaml", ["configs/pretrain/run*.yaml"]),
        ("[results](results.md#a-real-model), [studies](studies.md)", ["studies.md"]),
        ("what is in evaluation_/ and in docs/images/", ["evaluation_"]),
        ("docs/none.json and https://example.org/docs/none.md", ["docs/none.json"]),
        (
            "`ernie_m.utils.errors.UserError`, `ernie_m.utils.errors.UserMistake`",
            ["ernie_m.utils.errors.UserMistake"],
        ),
        ("`utils.mistakes`, ernie_m.load, ernie_m.unload", ["utils.mistakes", "ernie_m.unload"]),
        ("python -m pytest, python -m pretrain.build_corpus or pretrain.corpora", ["pretrain.corpora"]),
        (
            "what pretrain.build_corpus wrote, by `python -m pretrain.corpora`",
            ["pretrain.build_corpus", "pretrain.corpora"],
        ),
        ("training/trainer.py, model/ernie.py, ernie_m/training/trainer.py", ["training/trainer.py"]),
        ("model.fit(texts), `ernie_m.model.checkpoint.none`", ["ernie_m.model.checkpoint.none"]),
    ],
)
def test_what_is_missing_is_seen(text, names):
    assert missing(text) == names
