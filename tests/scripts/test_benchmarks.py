"""Benchmarks at small size: that of this project runs, and all contenders get the same input."""

import itertools
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest

from ernie_m.utils.paddle_settings import Cpu
from scripts.benchmarks import encode, finetune, masked_lm, turns
from tests.foreign import make_xlm_r
from tests.launching import call_main, error_of
from tests.toys import sentences, train_piece_model, write_lines


@pytest.fixture(scope="module")
def folder(module_folder):
    """A tiny model with a tokenizer, weights, and 70 texts and 69 pairs of them with one of three labels."""
    make_xlm_r(module_folder / "weights", vocab_size=300, max_position_embeddings=80)
    train_piece_model(module_folder / "weights" / "sentencepiece.bpe.model")
    write_lines(module_folder / "texts.txt", sentences(70))
    pairs = enumerate(itertools.pairwise(sentences(70)))
    write_lines(
        module_folder / "pairs.tsv", ["\t".join((*pair, f"label{number % 3}")) for number, pair in pairs]
    )
    return module_folder


@pytest.fixture
def run_benchmark(folder, monkeypatch, capfd):
    """figures(benchmark, file, *flags): the JSON in its last line, with the `names` alone."""

    def call(benchmark, file: str, *flags: str, names: tuple[str, ...] = ()) -> dict:
        monkeypatch.setattr(turns, "can_run", lambda name, contender: name in names)
        monkeypatch.setattr(turns, "REST", 0.0)
        call_main(benchmark, [str(folder / "weights"), str(folder / file), *flags])
        return json.loads(capfd.readouterr().out.splitlines()[-1])

    return call


def test_fine_tuning(run_benchmark):
    result = run_benchmark(finetune, "pairs.tsv", "--batch_size=4", "--steps=2", "--max_seq_len=64")
    assert result["unit"] == "pairs/s" and result["batches"] == 2
    assert list(result["contenders"]) == ["ours"] and result["contenders"]["ours"]["speed"] > 0


def test_masked_lm(run_benchmark):
    result = run_benchmark(masked_lm, "texts.txt", "--batch_size=4", "--length=16", "--steps=2")
    assert result["unit"] == "tokens/s" and result["contenders"]["ours"]["peak_gb"] > 0.1


def test_encoding_beside_a_rival(run_benchmark):
    """Both do the same texts with one thread."""
    rival = "ours, Paddle"
    flags = ("--batch_size=20", "--calls=2", "--threads=1")
    result = run_benchmark(encode, "texts.txt", *flags, names=(rival,))
    assert list(result["contenders"]) == ["ours", rival] and result["threads"] == 1


def test_a_contender_without_its_environment_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(turns, "ROOT", tmp_path)
    assert turns.can_run("ours", turns.Contender(load=None))
    assert not turns.can_run("peer", turns.Contender(load=None, environment=turns.LATEST))
    assert "skipping peer: missing " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environment", "threads", "expected"),
    [
        (turns.VENV, None, {}),  # it chooses its settings itself
        (turns.VENV, 1, {"OMP_NUM_THREADS": "1"}),
        (
            turns.LATEST,
            None,
            {"OMP_NUM_THREADS": "2", "MKL_CBWR": "AVX2,STRICT", "FLAGS_use_stride_kernel": "0"},
        ),
    ],
)
def test_contenders_have_all_cores(monkeypatch, environment, threads, expected):
    """Whatever the settings of the caller are."""
    monkeypatch.setattr(turns, "read_cpu", lambda: Cpu("", frozenset({"avx2"}), cores=2, memory=0))
    monkeypatch.setattr("os.environ", {"HOME": "/h", "OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "0"})
    popen = mock.MagicMock()
    monkeypatch.setattr(subprocess, "Popen", popen)
    turns.start_worker("encode", "peer", turns.Contender(None, environment), "folder", threads).__enter__()
    assert popen.call_args.kwargs["env"] == {"HOME": "/h", "CUDA_VISIBLE_DEVICES": "", **expected}


def test_contenders_take_turns_and_are_compared(monkeypatch, capsys):
    """Two batches that are not counted, then each batch by both; the medians and the largest memory."""
    seconds = {
        "ours": iter([9, 9, 1, 2, 3, 9, 9, 1, 1, 2]),
        "fast": iter([9, 9, 0.5, 0.5, 1]),
        "slow": iter([9, 9, 4, 4, 8]),
    }
    calls = []

    def run_batch(name, worker, batch):
        calls.append((name, worker, batch))
        return {"seconds": next(seconds[name]), "peak": len(calls) * 1e8}

    monkeypatch.setattr(turns, "can_run", lambda name, contender: name != "absent")
    monkeypatch.setattr(turns, "start_worker", lambda module, name, *_: nullcontext(f"{module} {name}"))
    monkeypatch.setattr(turns, "run_batch", run_batch)
    contenders = dict.fromkeys(["ours", "fast", "absent", "slow"])
    turns.compare("encode", contenders, {"batches": [[], [], []]}, amount=24, unit="texts/s", threads=2)
    assert calls == [
        (name, f"encode {name}", batch)
        for rival in ("fast", "slow")
        for batch in (0, 0, 0, 1, 2)
        for name in ("ours", rival)
    ]
    rows = {
        "ours": {"speed": 4.8, "peak_gb": 1.9},
        "fast": {"speed": 12.0, "peak_gb": 1.0, "ours": 4.0, "times": 0.33},
        "slow": {"speed": 1.5, "peak_gb": 2.0, "ours": 6.0, "times": 4.0},
    }
    results = {"benchmark": "encode", "unit": "texts/s", "batches": 3, "threads": 2, "contenders": rows}
    assert capsys.readouterr().out.splitlines() == [
        f"fast: {rows['fast']} texts/s",
        f"slow: {rows['slow']} texts/s",
        "|  | texts/s | ours interleaved | ours is | peak GB |",
        "|---|---:|---:|---:|---:|",
        "| ours | 4.8 |  |  | 1.90 |",
        "| fast | 12 | 4 | 0.33 times | 1.00 |",
        "| slow | 1.5 | 6 | 4.00 times | 2.00 |",
        json.dumps(results),
    ]


def test_grouped_batches_have_the_same_pairs(folder):
    flags = finetune.FinetuneBenchmark(str(folder / "weights"), str(folder / "pairs.tsv"), 16, 2, 64)
    given = finetune.make_shared_input(flags)
    pairs = sorted(itertools.chain(*given["batches"]))
    assert sorted(itertools.chain(*given["grouped"])) == pairs and len(pairs) == 32
    assert given["batches"] != given["grouped"] and given["labels"] == ["label0", "label1", "label2"]


def test_joined_pairs_fill_their_inputs(folder):
    flags = finetune.FinetuneBenchmark(
        str(folder / "weights"), str(folder / "pairs.tsv"), 4, 2, 64, joined=True
    )
    batches = finetune.make_shared_input(flags)["batches"]
    assert [[len(ids) for ids, _ in batch] for batch in batches] == [[64] * 4] * 2


def test_reference_implementations_get_our_masked_lm_labels(folder):
    """19 of a row of 128: 15 % of 126 tokens."""
    flags = masked_lm.MaskedLMBenchmark(str(folder / "weights"), str(folder / "texts.txt"), 2, 128, 1)
    given = masked_lm.make_shared_input(flags)
    (texts,) = given["batches"]
    batch = masked_lm.mask_texts(given, texts)
    ids, labels = masked_lm.make_ids_and_labels(given, texts)
    assert ids.shape == labels.shape == (2, 128) and len(batch.targets) == 2 * 19
    assert np.array_equal(batch.inputs.input_ids, ids.ravel())
    is_target = labels != masked_lm.IGNORED
    assert np.array_equal(np.flatnonzero(is_target), batch.targets)
    assert np.array_equal(labels[is_target], batch.target_ids)


@pytest.mark.parametrize(
    "draw, flags, file",
    [
        (finetune.make_shared_input, finetune.FinetuneBenchmark, "pairs.tsv"),
        (masked_lm.make_shared_input, masked_lm.MaskedLMBenchmark, "texts.txt"),
    ],
)
def test_a_file_that_is_too_short(folder, draw, flags, file):
    assert f"{file}: " in error_of(draw, flags(str(folder / "weights"), str(folder / file), steps=10_000))


def test_a_worker_runs_the_batches_of_its_contender(tmp_path, monkeypatch):
    (tmp_path / turns.WORK).write_text(json.dumps({"batches": ["plain"], "own": ["first", "second"]}))
    results = os.open(tmp_path / "results", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(os, "dup", lambda stream: results)
    monkeypatch.setattr(os, "dup2", lambda *streams: None)
    monkeypatch.setattr(sys, "stdin", ["1\n", "0\n"])
    seen = []
    turns.run_worker(turns.Contender(lambda shared_input: seen.append, batches="own"), str(tmp_path))
    assert seen == ["second", "first"]
    assert [{*json.loads(line)} for line in (tmp_path / "results").read_text().splitlines()] == [
        {"seconds", "peak"}
    ] * 2
