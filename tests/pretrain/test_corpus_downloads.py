"""The paper's lists of text; a sample of every public archive in its layout, built as docs/data.md shows."""

import gzip
import lzma
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pretrain.build_corpus import build_corpus
from pretrain.corpus.inputs import resolve
from pretrain.corpus.options import BuildOptions
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import ROOT, sentences
from utils.config import load_config
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
    mono, parallel = sizes("mono"), sizes("parallel")
    assert mono.keys() == listed["mono"].keys() and parallel.keys() == listed["parallel"].keys()
    assert len(mono) == 90 and mono.keys() > XNLI
    assert (round(sum(mono.values()), 1), round(sum(parallel.values()), 1)) == (1563.2, 68.8)
    assert (mono["en"], mono["sw"], mono["zh"], mono["no"]) == (512.5, 0.2, 96.0, 3.8)
    assert (parallel["en-fr"], parallel["en-sw"], parallel["de-en"]) == (13.7, 0.1, 10.7)
    assert set(parallel) == {"-".join(sorted((one, "en"))) for one in XNLI - {"en"}}
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
    chosen = load_config(BuildOptions, words)
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


SHOWN = '--documents blank --tsv_columns "[2, 3]" --score_column 1 --min_score 1.04'
LIST = """
mono:
  bn: [$D/bn.txt.xz, $D/bn_rom.txt.xz]
parallel:
  ar-en: [$D/MultiUN.ar-en, $D/WikiMatrix.ar-en.tsv.gz]
  en-hi: $D/parallel/IITB.en-hi
  en-sw: $D/en-sw.tmx.gz
"""
TMX = """<?xml version="1.0" encoding="UTF-8" ?>
<tmx version="1.4">
<header segtype="sentence" srclang="en" />
    <body>
{}    </body>
</tmx>
"""
UNIT = """      <tu>
        <tuv xml:lang="en"><seg>{}</seg></tuv>
        <tuv xml:lang="sw"><seg>{}</seg></tuv>
      </tu>
"""


def test_every_archive(tmp_path, monkeypatch, pieces):
    """CC-100, OPUS as Moses files and as TMX, WikiMatrix, IIT Bombay: in their layouts, in one build."""
    monkeypatch.setenv("D", str(tmp_path))
    assert SHOWN in (ROOT / "docs/data.md").read_text()
    lines = iter(sentences(200, 7))

    def take(count: int) -> list[str]:
        return [next(lines) for _ in range(count)]

    def write(name: str, text: str, pack=bytes) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pack(text.encode()))

    documents, latin = [take(3), take(1), take(4)], take(2)
    write("bn.txt.xz", "\n\n".join("\n".join(document) for document in documents) + "\n", lzma.compress)
    write("bn_rom.txt.xz", "\n".join(latin) + "\n", lzma.compress)
    nations, bombay, opus = ([take(10), take(10)] for _ in range(3))
    for name, sides in {"MultiUN.ar-en": nations, "parallel/IITB.en-hi": bombay}.items():
        for language, side in zip(name[-5:].split("-"), sides):
            write(f"{name}.{language}", "\n".join(side) + "\n")
    scored = list(zip(("1.2513", "1.0399", "1.0400"), take(3), take(3)))
    text = "".join("\t".join(row) + "\n" for row in scored)
    write("WikiMatrix.ar-en.tsv.gz", text, gzip.compress)
    write("en-sw.tmx.gz", TMX.format("".join(UNIT.format(*row) for row in zip(*opus))), gzip.compress)
    write("list.yaml", LIST)

    words = ["--config", str(tmp_path / "list.yaml"), "--output", str(tmp_path / "corpus")]
    words += ["--piece_model_path", str(pieces), "--held_out", "0", "--workers", "1"]
    manifest = build_corpus(load_config(BuildOptions, [*words, *shlex.split(SHOWN)]))
    corpus, encode = Corpus(tmp_path / "corpus"), Tokenizer(piece_model_path=pieces).encode_batch
    bengali = corpus.mono["bn"]
    found = [[line.tolist() for line in bengali[number]] for number in range(len(bengali))]
    assert found == [encode(document) for document in [*documents, latin]]
    kept = [row[1:] for row in scored if float(row[0]) >= 1.04]
    expected = {
        ("ar", "en"): [*zip(*nations), *kept],
        ("en", "hi"): list(zip(*bombay)),
        ("en", "sw"): list(zip(*opus)),
    }
    for pair, rows in expected.items():
        text = corpus.parallel[pair]
        found = [[side.tolist() for side in text[number]] for number in range(len(text))]
        assert found == [encode(row) for row in rows]
    assert len(kept) == 2 and manifest["parallel"]["ar-en"]["dropped"]["score"] == 1
