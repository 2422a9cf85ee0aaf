"""The paper's lists of text, and that a build takes them with the options of docs/data.md."""

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pretrain.corpus.inputs import resolve
from pretrain.corpus.options import BuildOptions
from tests.helpers.small_corpus import ROOT
from utils.command_line import load_config
from utils.errors import UserError

PAPER = ROOT / "configs/corpus/paper-96.yaml"
XNLI = {"ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"}


def sizes(part: str) -> dict[str, float]:
    """The numbers behind the keys of a part of the file: as written, so that a key given twice is seen."""
    text = PAPER.read_text().split(f"\n{part}:\n")[1].split("\nparallel:")[0]
    rows = re.findall(r'^  "?([\w-]+)"?:.*# ([\d.]+)$', text, re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return {key: float(size) for key, size in rows}


def test_the_papers_tables_9_and_10():
    listed = yaml.safe_load(PAPER.read_text())
    mono = sizes("mono")
    parallel = sizes("parallel")
    assert mono.keys() == listed["mono"].keys() and parallel.keys() == listed["parallel"].keys()
    assert len(mono) == 90 and mono.keys() > XNLI
    assert (round(sum(mono.values()), 1), round(sum(parallel.values()), 1)) == (1563.2, 68.8)
    assert (mono["en"], mono["sw"], mono["zh"], mono["no"]) == (512.5, 0.2, 96.0, 3.8)
    assert (parallel["en-fr"], parallel["en-sw"], parallel["de-en"]) == (13.7, 0.1, 10.7)
    assert set(parallel) == {"-".join(sorted((language, "en"))) for language in XNLI - {"en"}}
    files = [(code, file) for code, paths in listed["mono"].items() for file in as_list(paths)]
    assert len({file for _, file in files}) == len(files) == 96
    for code, file in files:  # each file belongs to its language
        assert re.fullmatch(rf"\$CC100/{code}(-Hans|-Hant|_rom)?\.txt\.xz", file)


def as_list(paths) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def test_the_list_is_what_a_build_takes(tmp_path, monkeypatch, pieces):
    monkeypatch.setenv("CC100", str(tmp_path / "cc"))
    monkeypatch.setenv("PAIRS", str(tmp_path / "pairs"))
    words = ["--config", str(PAPER), "--output", str(tmp_path / "corpus"), "--piece_model_path", str(pieces)]
    flags = re.search(r"--documents blank --tsv[^`]*", (ROOT / "docs/data.md").read_text())[0]
    chosen = load_config(BuildOptions, [*words, *shlex.split(flags.replace("\\\n", " "))])
    assert (chosen.tsv_columns, chosen.score_column, chosen.min_score) == ([2, 3], 1, 1.04)
    with pytest.raises(UserError, match=r"cc/af\.txt\.xz: no such file"):
        resolve(chosen.mono, chosen.parallel)
    for paths in [*chosen.mono.values(), *chosen.parallel.values()]:
        for path in map(os.path.expandvars, as_list(paths)):
            moses = path.rpartition(".")[2].split("-")
            for name in [path] if path.endswith((".xz", ".gz")) else [f"{path}.{end}" for end in moses]:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).touch()
    streams = resolve(chosen.mono, chosen.parallel)
    assert [stream.is_parallel for stream in streams].count(False) == 90 and len(streams) == 104
