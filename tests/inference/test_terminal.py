"""What reaches a terminal: control characters of files, which could move its cursor, are escaped."""

import ast
import csv
import shutil
import sys
import unicodedata

import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.commands import convert, predict
from ernie_m.data.prepare import command as prepare
from ernie_m.inference import fit
from ernie_m.utils.logging import Progress, logger, setup_console
from tests import toys
from tests.helpers.checkpoints import changed_copy
from tests.launching import as_flags, call_main
from tests.test_layers import PACKAGE
from tests.toys import sentences, write_lines

HOSTILE = "\x1b[2J\x9b31m"


def test_all_is_printed_by_one_function():
    """Beside `say` write the console of the log, and `predict` what it answers."""
    printing = {"print", "tqdm.write", "sys.stdout.write", "sys.stderr.write"}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = [ast.unparse(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute)]
        found += [(path.name, name) for name in names if name in printing]
    assert sorted(found) == [
        ("errors.py", "print"),
        ("logging.py", "tqdm.write"),
        ("predict.py", "sys.stdout.write"),
    ]


def write_table(path, label="news"):
    rows = [
        [f"{text} {HOSTILE}", label if number % 2 else "other"] for number, text in enumerate(sentences(30))
    ]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    return path


def run_fit(models, folder):
    table = write_table(folder / "rows.csv", f"news{HOSTILE}")
    call_main(fit, [str(table), *as_flags({"model": models / "encode", "output": folder / "out"})])


def run_convert(models, folder):
    source = shutil.copytree(
        models / "encode", folder / "source", ignore=shutil.ignore_patterns("manifest.json")
    )
    tensors = load_file(source / "model.safetensors")
    tensors[HOSTILE] = tensors["embeddings.word_embeddings.weight"][:1]
    save_file(tensors, source / "model.safetensors")
    call_main(convert, [str(source), str(folder / "out"), "--to", "paddlenlp", "--drop_unknown"])


def run_prepare(models, folder):
    (folder / "my").mkdir()
    write_lines(folder / "my" / "en-de.tsv", [f"en {line}\tde {line}" for line in sentences(60)])
    write_lines(folder / "my" / f"{HOSTILE}.md", ["nothing"])
    call_main(
        prepare,
        ["pairs", str(folder / "my"), *as_flags({"model": models / "encode", "output": folder / "out"})],
    )


def run_predict(models, folder):
    labels = [f"{label}{HOSTILE}" for label in toys.LABELS]
    model = changed_copy(models / "classify", folder / "model", labels=labels)
    table = write_table(folder / "rows.csv")
    call_main(predict, as_flags({"task": "classify", "model": model, "input": table}))
    requests = write_lines(folder / "requests.jsonl", ['{"text": "bado"}'])
    call_main(predict, as_flags({"task": "classify", "model": model, "input": requests}))


def run_log(models, folder):
    setup_console()
    logger.warning("%s: %s, %d", folder / HOSTILE, f"{HOSTILE}\n", 1)
    logger.info(f"a table\n{HOSTILE}")
    logger.info("%s", Progress(1, HOSTILE).line({}))


@pytest.mark.parametrize("run", [run_fit, run_convert, run_prepare, run_predict, run_log])
def test_control_characters_are_escaped(models, tmp_path, monkeypatch, capsys, run):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(models, tmp_path)
    printed = "".join(capsys.readouterr())
    assert "\\x1b[2J\\x9b31m" in printed
    assert {character for character in printed if unicodedata.category(character) == "Cc"} <= {"\n", "\t"}
