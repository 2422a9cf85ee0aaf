"""The core, and its border: what every training runs on imports nothing that only some users need.

The core is the encoder, the objectives with masks and packing, the loop, and the readers of the paper's
tasks. It calls the doors, and knows nothing of what is behind them: kernels, other formats, tables of users,
cards. So a program stays small enough to be read; BUDGETS says how small.
"""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ernie_m"

# Folder -> its files that are core. In `utils` are the tools of all rooms.
CORE_OF = {
    "commands": "run_classifier run_pretrain",
    "finetune": "base_task command flags labelled_task metrics open_model paper prediction rates "
    "score_tables",
    "finetune/tasks": "classification",
    "model": "attention batch config conventions encoder heads layers layout lm_head tasks word_table",
    "model/cpu": "rows",
    "model/checkpoint": "files load open write",
    "model/checkpoint/formats": "configs fluid lazy_weights safetensors tensor_names",
    "pretrain": "batches btmlm_pseudo_tokens command config head_start initial_weights loss objective "
    "packing shares task training_text",
    "pretrain/held_out": "log_lines",
    "pretrain/objectives": "__init__ btmlm camlm mmlm tlm",
    "reader": "batching classification corpus label_map sampling",
    "reader/files": "official_tsv",
    "tokenizer": "text_rules tokenizer vocabulary",
    "training": "checkpoint claim distributed engine optimizer precision prefetch row_adam run run_folder "
    "stop_requests task",
    "training/log": "evaluation meter metrics_jsonl totals",
}
CORE = [f"{folder}/{name}" for folder, names in CORE_OF.items() for name in names.split()]

# What the core may call -> what is behind it. At most ten.
DOORS = {
    "model/device": "the kernels of a CPU",
    "model/checkpoint/foreign": "weights of other libraries, hub names, what to say where no model is",
    "model/checkpoint/card_usage": "model cards",
    "tokenizer/foreign": "tokenizers of other libraries",
    "reader/files/rows": "tables that are not in the official form",
    "finetune/own_tables": "folders of a user's own tables, numbers and several labels a row, odd rows",
    "finetune/fit/whole_model": "a training that `fit` starts; the loop again",
    "inference/tasks/finetuned": "the tasks whose models answer",
    "pretrain/held_out/evaluate": "held-out evaluation: losses, retrieval, mean vectors of the languages",
    "training/log/pictures": "logs of VisualDL, pictures of the losses",
}

# (file of the core, what it imports) -> why that is no door. The list may only become shorter.
CROSSES = {
    ("finetune/tasks/classification", "reader/coverage"): "the warning of rows that are cut",
    ("reader/classification", "reader/files/labels"): "when two labels are the same, also in official files",
}

# Program -> the most statements that it may hang on, a door counting itself and nothing behind it.
BUDGETS = {
    "run_pretrain.py": 5500,
    "run_classifier.py": 5200,
    "ernie_m/inference/fit.py": 5450,
    "ernie_m/commands/predict.py": 4960,
    "ernie_m/inference/server/serve.py": 4050,
}


def of(name: str) -> Path:
    """The file of a name of CORE or DOORS."""
    return PACKAGE / f"{name}.py"


def short(path: Path) -> str:
    """A file as CORE and DOORS name it."""
    return str(path.relative_to(PACKAGE).with_suffix(""))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(module: str) -> Path | None:
    """The file of a module of the package; None: there is none of this name."""
    path = ROOT / module.replace(".", "/")
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if module.startswith("ernie_m") and file.is_file()), None)


def imports_in(tree: ast.AST) -> set[Path]:
    """The files of the package that some code imports, those inside functions and for type checkers, too."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            # `from package import name`: a module of that name, or else what the package defines.
            names = [[f"{node.module}.{alias.name}", node.module] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [[alias.name] for alias in node.names]
        for candidates in names:
            files = [file for file in map(file_of, candidates) if file]
            found.update(files[:1])
    return found - {PACKAGE / "__init__.py"}


def statements(tree: ast.Module) -> int:
    """Statements, without imports, the lines of definitions, and texts alone."""
    not_counted = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    count = 0
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
        count += isinstance(node, ast.stmt) and not isinstance(node, not_counted) and not is_text
    return count


def closure(program: Path, ends: Iterable[Path]) -> set[Path]:
    """All files that a program hangs on; of `ends` none of what they import."""
    seen, to_read = set(), [program]
    while to_read:
        path = to_read.pop()
        if path not in seen:
            seen.add(path)
            to_read += imports_in(tree_of(path)) if path not in ends else ()
    return seen


def crossings(name: str, tree: ast.Module) -> list[tuple[str, str]]:
    """The imports of a file of the core that are neither of the core, nor a door, nor a tool of `utils`."""
    outside = [short(path) for path in imports_in(tree) if path.parent != PACKAGE / "utils"]
    return sorted((name, target) for target in outside if target not in CORE and target not in DOORS)


def test_core_and_doors_are_there():
    assert [name for name in [*CORE, *DOORS] if not of(name).is_file()] == []
    assert not set(CORE) & set(DOORS)
    assert len(DOORS) <= 10


def test_the_core_imports_nothing_but_itself_and_the_doors():
    found = {crossing for name in CORE for crossing in crossings(name, tree_of(of(name)))}
    assert found - set(CROSSES) == set()
    assert set(CROSSES) - found == set()  # what crosses no more leaves the list


@pytest.mark.parametrize(
    "name, line",
    [
        ("commands/run_pretrain", "from ernie_m.reader.files.table.labelled import read_table"),
        ("training/checkpoint", "def f():\n    from ernie_m.model.checkpoint.formats import torch_save"),
        ("model/encoder", "import ernie_m.inference.export.onnx_graph"),
    ],
)
def test_a_planted_import_is_found(name, line):
    source = of(name).read_text(encoding="utf-8")
    planted = crossings(name, ast.parse(f"{source}\n{line}\n"))
    assert len(set(planted) - set(crossings(name, tree_of(of(name))))) == 1


@pytest.mark.parametrize("program, most", BUDGETS.items())
def test_a_program_hangs_on_few_statements(program, most):
    doors = {of(name) for name in DOORS}
    files = closure(ROOT / program, doors)
    assert sum(statements(tree_of(path)) for path in files) <= most
