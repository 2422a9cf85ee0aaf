"""What a build refuses, in one line; the command line; real text in bounded memory."""

import os
import subprocess
import sys

import pytest

from pretrain.build_corpus import build_corpus
from pretrain.corpus.build import CorpusBuild
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.workers import LocalWorkers
from reader.corpus import Corpus
from tests.helpers.small_corpus import (
    OPTIONS,
    ROOT,
    Stopped,
    build,
    command,
    files_of,
    sentences,
    stop_at,
    write_lines,
)
from utils.errors import UserError


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_an_unfinished_build_goes_on_only_with_the_same_plan(tmp_path, monkeypatch, pieces, inputs):
    with monkeypatch.context() as patch:
        stop_at(patch, 30)
        with pytest.raises(Stopped):
            build(tmp_path / "corpus", pieces, **inputs)
    with pytest.raises(UserError, match=r"unfinished build .*options.held_out: 0 -> 5"):
        build(tmp_path / "corpus", pieces, **inputs, held_out=5)
    os.utime(inputs["mono"]["fr"])
    with pytest.raises(UserError, match=r"unfinished build .*modified"):
        build(tmp_path / "corpus", pieces, **inputs)
    build(tmp_path / "corpus", pieces, **inputs, held_out=5, overwrite=True)
    assert Corpus(tmp_path / "corpus").manifest["options"]["held_out"] == 5


def test_a_finished_corpus_is_checked_not_built_again(tmp_path, pieces, inputs):
    manifest = build(tmp_path / "corpus", pieces, **inputs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    assert build(tmp_path / "corpus", pieces, **inputs, workers=3) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == before
    (tmp_path / "corpus/.build/mono").mkdir(parents=True)  # killed after its last write
    build(tmp_path / "corpus", pieces, **inputs)
    assert not (tmp_path / "corpus/.build").exists()
    with pytest.raises(UserError, match=r"made otherwise \(options.documents: line -> blank\)"):
        build(tmp_path / "corpus", pieces, **inputs, documents="blank")
    file = tmp_path / "corpus/mono/fr/train-00000.ids.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="train-00000.ids.npy: its SHA-256"):
        build(tmp_path / "corpus", pieces, **inputs)


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_are_left_alone(tmp_path, pieces, inputs, overwrite):
    (tmp_path / "chapter").write_text("precious")
    with pytest.raises(UserError, match="neither"):
        build(tmp_path, pieces, **inputs, overwrite=overwrite)
    assert (tmp_path / "chapter").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_builds_at_once(tmp_path, monkeypatch, pieces, inputs, overwrite):
    def build_there_too(_):
        build(tmp_path / "corpus", pieces, **inputs, overwrite=overwrite)

    monkeypatch.setattr(CorpusBuild, "scan", build_there_too)
    with pytest.raises(UserError, match="another process is building there"):
        build(tmp_path / "corpus", pieces, **inputs)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "empty: no text"),
        (["", "  "], "no text in en in it"),
        (["\u200b"], "en: nothing is left of its text"),
    ],
)
def test_a_language_without_text(tmp_path, pieces, lines, message):
    path = write_lines(tmp_path / "x", lines)
    with pytest.raises(UserError, match=message):
        build(tmp_path / "corpus", pieces, mono={"en": path})


def test_text_that_changes_during_the_build(tmp_path, monkeypatch, pieces):
    scan, path = CorpusBuild.scan, write_lines(tmp_path / "x", sentences(1000))

    def scan_then_change(build):
        scan(build)
        write_lines(tmp_path / "x", sentences(300))

    monkeypatch.setattr(CorpusBuild, "scan", scan_then_change)
    with pytest.raises(UserError, match="x: changed while the corpus was built"):
        build(tmp_path / "corpus", pieces, mono={"en": path})


def test_a_full_disk(tmp_path, pieces, inputs, reference):
    """No file may grow past 4 KiB: the build stops with one line, and goes on when there is space."""
    words = command(tmp_path / "corpus", pieces, inputs, workers=2, **OPTIONS)
    done = run(["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *words])
    assert done.returncode == 2 and "no space left" in done.stderr and "Traceback" not in done.stderr
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "corpus") == reference


def test_a_dead_worker():
    with LocalWorkers(2) as workers, pytest.raises(UserError, match="a worker process died"):
        list(workers.run(os._exit, [(1,)]))


def test_command_line(tmp_path, pieces):
    """A YAML file and flags together; one line for a mistake, exit code 2."""
    text = write_lines(tmp_path / "en", sentences(50))
    (tmp_path / "c.yaml").write_text(f"mono:\n  en: {text}\npiece_model_path: {pieces}\nheld_out: 0\n")
    words = [sys.executable, "-m", "pretrain.build_corpus", "--config", str(tmp_path / "c.yaml")]
    words += ["--output", str(tmp_path / "corpus"), "--workers", "1"]
    one, two = write_lines(tmp_path / "x.en", ["a", "b"]), write_lines(tmp_path / "x.de", ["a"])
    done = run([*words, "--parallel", f"en-de<={one},{two}"])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {one} has 2 lines, {two} has 1: not aligned; line i of one must")
    done = run([*words, "--overwrite", "true"])
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()][-1] == ["en", "50"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output": ""}, "--output"),
        ({"piece_model_path": ""}, "--piece_model_path"),
        ({"tsv_columns": [1]}, "tsv_columns"),
        ({"held_out": -1}, "--held_out -1: it must be at least 0"),
        ({"unit_mib": 64}, "unit_mib"),
        ({"near_duplicates": 0.2}, "near_duplicates: 0.2 is neither 0"),
        ({"score_column": 1}, "--tsv_columns"),
        ({"min_score": 1.04}, "--score_column"),
        ({"ray_address": "auto"}, "without --engine ray"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        BuildOptions(**({"output": "x", "piece_model_path": "y"} | options))


def test_a_missing_piece_model(tmp_path, inputs):
    model = str(tmp_path / "none.model")
    with pytest.raises(UserError, match="none.model"):
        build_corpus(BuildOptions(output=str(tmp_path / "c"), piece_model_path=model, **inputs))
    assert not (tmp_path / "c").exists()


def test_shared_text_in_bounded_memory(tmp_path, data_dir):
    """Real text; no process above 1 GiB."""
    inputs = {
        "mono": {language: f"{data_dir}/pretrain/mono/{language}.txt.gz" for language in ("th", "zh")},
        "parallel": {"en-th": f"{data_dir}/pretrain/parallel/en-th.tsv.gz"},
    }
    model = data_dir / "vocab/xnli15-32k.model"
    words = command(tmp_path / "corpus", model, inputs, deduplicate=True, workers=2)
    code = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    done = run([sys.executable, "-c", code, *words])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 1 << 20  # KiB; of the largest process
    assert "warning" not in done.stdout
    corpus = Corpus(tmp_path / "corpus", verify=True)
    assert corpus.manifest["mono"]["zh"]["train"]["unknown"] > 0
    assert len(corpus.parallel["en", "th"]) + len(corpus.held_out_parallel["en", "th"]) == 302
