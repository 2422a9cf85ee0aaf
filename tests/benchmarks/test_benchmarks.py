"""The benchmarks in small form: ours runs, and all contenders get the same input."""

import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ernie_m.tokenizer.tokenizer import Tokenizer
from scripts.benchmarks import encode, finetune, masked_lm, turns
from tests.foreign import make_xlm_r
from tests.launching import call_main, error_of
from tests.toys import sentences, train_pieces, write_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a tokenizer, weights, and 70 texts and 69 pairs of them with one of three labels."""
    folder = tmp_path_factory.mktemp("benchmarks")
    make_xlm_r(folder / "weights", vocab_size=300, max_position_embeddings=80)
    train_pieces(folder / "weights" / "sentencepiece.bpe.model")
    write_lines(folder / "texts.txt", sentences(70))
    lines = []
    for number, (premise, hypothesis) in enumerate(itertools.pairwise(sentences(70))):
        lines.append(f"{premise}\t{hypothesis}\tlabel{number % 3}")
    write_lines(folder / "pairs.tsv", lines)
    return folder


@pytest.fixture
def figures(folder, monkeypatch, capfd):
    """figures(benchmark, file, *flags): the JSON in its last lines, with the `names` alone."""

    def call(benchmark, file: str, *flags: str, names: tuple[str, ...] = ()) -> list[dict]:
        monkeypatch.setattr(turns, "can_run", lambda name, contender: name in names)
        monkeypatch.setattr(turns, "REST", 0.0)
        call_main(benchmark, [str(folder / "weights"), str(folder / file), *flags])
        lines = capfd.readouterr().out.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"benchmark"')]

    return call


def test_fine_tuning(figures):
    (result,) = figures(finetune, "pairs.tsv", "--batch_size=4", "--steps=2", "--max_seq_len=64")
    assert result["unit"] == "pairs/s" and result["batches"] == 2
    assert list(result["contenders"]) == ["ours"] and result["contenders"]["ours"]["speed"] > 0


def test_masked_lm(figures):
    (result,) = figures(masked_lm, "texts.txt", "--batch_size=4", "--length=16", "--steps=2")
    assert result["unit"] == "tokens/s" and result["contenders"]["ours"]["peak_gb"] > 0.1


def test_encoding_beside_a_rival(figures):
    """Both do the same texts with one thread, and the rival has a ratio."""
    rival = "ours, ONNX Runtime"
    flags = ("--batch_size=20", "--calls=2", "--threads=1")
    result, of_threads = figures(encode, "texts.txt", *flags, names=(rival,))
    assert {name: row["speed"] for name, row in result["contenders"].items()} == {
        name: speeds["1"] for name, speeds in of_threads["speeds"].items()
    }
    assert list(result["contenders"]) == ["ours", rival]
    row = result["contenders"][rival]
    assert row["times"] == pytest.approx(row["ours"] / row["speed"], abs=0.01)
    assert "times" not in result["contenders"]["ours"]


def test_the_number_of_threads_is_that_of_the_process(folder, monkeypatch, tmp_path):
    """Its own settings would take all cores."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS"\n')
    program.chmod(0o755)
    monkeypatch.setattr(turns.sys, "executable", str(program))
    with turns.started("encode", "ours", turns.Contender(start=None), str(folder), threads=3) as worker:
        assert worker.stdout.readline() == b"3\n"


def test_the_serial_share():
    """A tenth of the time is serial: two threads take .55 of it, four .325."""
    assert turns.serial_share({1: 1.0, 2: 1 / 0.55}) == pytest.approx(0.1, abs=1e-3)
    assert turns.serial_share({1: 1.0, 2: 1.5, 4: 1 / 0.325}) == pytest.approx(0.1, abs=1e-3)
    assert turns.serial_share({1: 1.0, 2: 2.0}) == 0.0
    assert turns.serial_share({1: 1.0}) is None and turns.serial_share({2: 1.0, 4: 2.0}) is None


def test_a_contender_that_fails_is_named():
    command = ["sh", "-c", "exit 3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as worker:
        worker.wait()
        assert "the peer ended with exit code 3" in error_of(turns.turn, "the peer", worker, 0)


def test_a_contender_without_its_environment_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(turns, "ROOT", tmp_path)
    assert turns.can_run("ours", turns.Contender(start=None))
    assert not turns.can_run("peer", turns.Contender(start=None, environment=turns.LATEST))
    assert "peer is left out: sh scripts/setup.sh latest" in capsys.readouterr().out


def test_grouped_batches_have_the_pairs_of_the_others(folder):
    flags = finetune.FinetuneBenchmark(str(folder / "weights"), str(folder / "pairs.tsv"), 16, 2, 64)
    given = finetune.draw(flags)
    pairs = sorted(itertools.chain(*given["batches"]))
    assert sorted(itertools.chain(*given["grouped"])) == pairs and len(pairs) == 32
    assert given["batches"] != given["grouped"] and given["labels"] == ["label0", "label1", "label2"]


def test_the_peers_of_masked_lm_get_our_labels(folder):
    """19 of a row of 128: 15 % of 126 tokens."""
    flags = masked_lm.MaskedLMBenchmark(str(folder / "weights"), str(folder / "texts.txt"), 2, 128, 1)
    given = masked_lm.draw(flags)
    (texts,) = given["batches"]
    batch = masked_lm.mask(given, texts)
    ids, labels = masked_lm.ids_and_labels(given, texts)
    assert ids.shape == labels.shape == (2, 128) and len(batch.targets) == 2 * 19
    assert np.array_equal(batch.input_ids, ids.ravel())
    is_target = labels != masked_lm.IGNORED
    assert np.array_equal(np.flatnonzero(is_target), batch.targets)
    assert np.array_equal(labels[is_target], batch.target_ids)


def test_the_texts_are_read_as_the_model_reads(folder):
    """XLM-R removes no character of no width, as ERNIE-M does."""
    file = write_lines(folder / "no_width.tsv", ["ba\u200bda\tgan\tx", "gan\tba\u200bda\ty"] * 40)
    tokenizer = Tokenizer(None, folder / "weights" / "sentencepiece.bpe.model", "none")
    given = finetune.draw(finetune.FinetuneBenchmark(str(folder / "weights"), file, 2, 1, 64))
    read = [ids for ids, _ in itertools.chain(*given["batches"])]
    rows = [("ba\u200bda", "gan"), ("gan", "ba\u200bda")]
    assert all(ids in [tokenizer.build(*row, max_seq_len=64) for row in rows] for ids in read)
    given = masked_lm.draw(masked_lm.MaskedLMBenchmark(str(folder / "weights"), file, 1, 20, 1))
    ids = np.concatenate(tokenizer.encode_batch(Path(file).read_text(encoding="utf-8").splitlines()))
    assert given["batches"] == [[ids[:18].tolist()]]


@pytest.mark.parametrize(
    "draw, flags, file",
    [
        (finetune.draw, finetune.FinetuneBenchmark, "pairs.tsv"),
        (masked_lm.draw, masked_lm.MaskedLMBenchmark, "texts.txt"),
    ],
)
def test_a_file_that_is_too_short(folder, draw, flags, file):
    assert f"{file}: " in error_of(draw, flags(str(folder / "weights"), str(folder / file), steps=10_000))
