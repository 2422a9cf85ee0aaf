"""The paper's lists of text, and that a build takes them with the options of docs/pretraining.md."""

import os
import re
import shlex
from pathlib import Path

from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.build_corpus.source_files import resolve_sources
from ernie_m.utils.args import parse_options
from tests.launching import ROOT, error_of

PAPER = ROOT / "configs/corpus/paper-96.yaml"


def as_list(paths) -> list[str]:
    """The paths of an entry, which is one path or a list."""
    return [paths] if isinstance(paths, str) else paths


def test_the_list_is_what_a_build_takes(tmp_path, monkeypatch, piece_model):
    """With the flags that docs/pretraining.md names, and an empty file instead of each download."""
    monkeypatch.setenv("CC100", str(tmp_path / "cc"))
    monkeypatch.setenv("PAIRS", str(tmp_path / "pairs"))
    words = [
        "--config",
        str(PAPER),
        "--output",
        str(tmp_path / "corpus"),
        "--piece_model_path",
        str(piece_model),
    ]
    flags = re.search(r"--documents blank --columns[^`]*", (ROOT / "docs/pretraining.md").read_text())[0]
    flags = flags.replace("\\\n", " ")  # the command continues in the next lines
    options = parse_options(BuildOptions, [*words, *shlex.split(flags)])
    assert (options.columns, options.filter) == ("2,3", "1>=1.04")
    assert "cc/af.txt.xz: no such file" in error_of(resolve_sources, options.mono, options.parallel)
    for paths in [*options.mono.values(), *options.parallel.values()]:
        for path in map(os.path.expandvars, as_list(paths)):
            files = [path]
            if not path.endswith((".xz", ".gz")):  # Moses: MultiUN.ar-en means MultiUN.ar-en.ar and .en
                languages = path.rpartition(".")[2].split("-")
                files = [f"{path}.{language}" for language in languages]
            for file in files:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                Path(file).touch()
    is_parallel = [stream.is_parallel for stream in resolve_sources(options.mono, options.parallel)]
    assert (is_parallel.count(False), is_parallel.count(True)) == (90, 14)
