"""The public releases, in small, become ./data/mlqa."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reader.classification import expand, read_languages
from reader.question_answering import read_squad
from scripts.data import prepare_mlqa
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def squad(text: str, ids: list[str]) -> str:
    qas = [{"id": id_, "question": "Who?", "answers": [{"text": "x", "answer_start": 0}]} for id_ in ids]
    return json.dumps({"data": [{"paragraphs": [{"context": f"x {text}", "qas": qas}]}]})


def write(folder: Path, *names: str, ids=("1", "2")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(squad(name, list(ids)))
    return folder


def mlqa_v1(folder: Path, languages=("ar", "en", "zh")) -> Path:
    """MLQA_V1: every pair of languages of dev and test."""
    for split in ("dev", "test"):
        pairs = [(a, b) for a in languages for b in languages]
        write(folder / split, *(f"{split}-context-{a}-question-{b}.json" for a, b in pairs))
    return folder


def prepare(*arguments) -> None:
    prepare_mlqa.main([str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_releases(tmp_path, capsys):
    source = mlqa_v1(tmp_path / "MLQA_V1")
    write(tmp_path / "squad", "train-v1.1.json", "dev-v1.1.json")
    write(tmp_path / "xquad", "xquad.en.json", "xquad.el.json")
    out = tmp_path / "data/mlqa"
    prepare(source, tmp_path / "squad", tmp_path / "xquad", "--output", out)
    assert files(out) == [
        *(f"dev/dev.{language}.json" for language in ("ar", "en", "zh")),
        "lang_map.json",
        *(f"test/test.{language}.json" for language in ("ar", "en", "zh")),
        "train/train.en.json",
        "xquad/lang_map.json",
        "xquad/xquad.el.json",
        "xquad/xquad.en.json",
    ]
    languages = read_languages(out / "lang_map.json")
    assert languages == ["en", "ar", "zh"]  # the order of the paper's table
    assert read_languages(out / "xquad/lang_map.json") == ["en", "el"]
    for pattern, paths in expand(f"{out}/dev/dev.%s.json,{out}/test/test.%s.json", languages, "x").items():
        split = Path(pattern).name.split(".")[0]
        for language, path in paths.items():
            original = source / split / f"{split}-context-{language}-question-{language}.json"
            assert path.read_bytes() == original.read_bytes()
    assert read_squad(out / "train/train.en.json").contexts == ["x train-v1.1.json"]
    lines = capsys.readouterr().out.splitlines()
    assert ["test", "zh", "1", "2", "0"] in [line.split() for line in lines]
    assert not any("no " in line for line in lines)


def test_the_first_source_counts_and_its_own_output_is_a_source(tmp_path, capsys):
    write(tmp_path / "a", "train-en.tydiqa-goldp.json", ids=("1", "1"))  # TyDi QA repeats ids
    write(tmp_path / "b", "train-v1.1.json", "dev.de.json", "dev.en.json")
    prepare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "first")
    said = capsys.readouterr().out
    assert "not used: " in said and "train-v1.1.json (train en is taken from" in said
    assert "no test data among the sources (pass --dev_set" in said
    assert "tydiqa" in (tmp_path / "first/train/train.en.json").read_text()
    prepare(tmp_path / "first", "--output", tmp_path / "second")
    assert files(tmp_path / "second") == files(tmp_path / "first")


def test_a_language_of_dev_only_is_left_out_of_the_map(tmp_path, capsys):
    write(tmp_path / "in", "dev.en.json", "dev.de.json", "test.en.json")
    prepare(tmp_path / "in", "--output", tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]
    assert "lang_map.json leaves out de: not in both dev and test" in capsys.readouterr().out


def test_bad_sources(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        prepare(tmp_path / "absent")
    with pytest.raises(UserError, match="no file there has a known name"):
        prepare(write(tmp_path / "in", "dev-v2.0.json"), "--output", tmp_path / "out")
    bad = write(tmp_path / "bad", "dev.en.json", ids=("1", "1"))
    with pytest.raises(
        UserError, match=r"qas\[1\].id: '1' is the id of data\[0\].paragraphs\[0\].qas\[0\] too"
    ):
        prepare(bad, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_the_real_folder_as_a_command(data_dir, tmp_path):
    command = [sys.executable, ROOT / "scripts/data/prepare_mlqa.py", data_dir / "qa"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/mlqa"
    assert read_languages(out / "lang_map.json") == ["en", "es", "de", "hi", "zh"]
    assert read_languages(out / "xquad/lang_map.json") == ["en", "es", "de", "zh"]
    assert len(read_squad(out / "train/train.en.json").questions) == 3696
    assert len(read_squad(out / "dev/dev.en.json", "dev").questions) == 1148
