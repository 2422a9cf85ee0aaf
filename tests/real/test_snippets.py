"""What the pages show, with the real model: Python of docs/, and results in the READMEs."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import export
from scripts import quick
from tests.helpers.pages import compile_python
from tests.launching import ROOT, as_flags, call_main
from tests.real.lines import raw_lines

MODEL = Path(os.environ["REAL_MODEL"])
COUNT = 2_400


def test_run_export_and_block_from_docs(tmp_path, data_dir, monkeypatch):
    lines = raw_lines(data_dir, COUNT)
    call_main(export, as_flags({"model": MODEL, "output": tmp_path / "exported", "format": "onnx"}))
    (tmp_path / "configs").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").symlink_to(tmp_path / "exported")
    for name in ("vocab.txt", "piece.model"):
        (tmp_path / "configs" / name).symlink_to(tmp_path / "exported" / name)
    shutil.copy(MODEL / "sentencepiece.bpe.model", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile_python("architecture.md", "Tokenizer"), names)
    exported = ernie_m.load("exported")
    model = ernie_m.load(MODEL)
    for tokenizer in (exported.tokenizer, names["tokenizer"]):
        assert tokenizer.encode_batch(lines) == model.tokenizer.encode_batch(lines)
    embeddings, expected = exported.encode(lines), model.encode(lines)
    print(f"{len(lines)} lines: the largest difference of a vector is {abs(embeddings - expected).max():.1e}")
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_the_quickstart_prints_what_it_shows(tmp_path, monkeypatch, capsys):
    """Numbers to two digits, because CPUs differ in the last ones."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/e5-small").symlink_to(MODEL)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(compile_python("quickstart.md"), {})
    number = re.compile(r"\d+\.\d+")
    lines = [line.split() for line in number.sub("#", shown).splitlines()]
    printed = capsys.readouterr().out
    real = "\n".join(text for text in printed.splitlines() if number.sub("#", text).split() in lines)
    assert [line.split() for line in number.sub("#", real).splitlines()] == lines
    expected = [float(value) for value in number.findall(shown)]
    assert [float(value) for value in number.findall(real)] == pytest.approx(expected, abs=0.01)


def test_the_readmes_have_what_the_quick_demo_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quick, "FOLDER", tmp_path / "demo")
    monkeypatch.setattr(sys, "argv", ["quick", "--model", str(MODEL)])
    quick.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("README.md", "README_zh.md"):
        numbers = re.findall(r"^\| E5-small.* (\d+) % \|$", (ROOT / name).read_text(), re.MULTILINE)
        assert numbers == [f"{printed[key]:.0f}" for key in ("translations", "topics")], name
