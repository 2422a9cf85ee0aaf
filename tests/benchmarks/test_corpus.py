"""The corpus benchmark: ours in small form, the text, and what it makes of ids and times."""

import gzip
import itertools
import json
import sys

import pytest

from benchmarks import corpus
from tests.helpers.small_corpus import sentences, train_pieces


def test_ours(tmp_path, monkeypatch, capsys):
    (tmp_path / "pretrain/mono").mkdir(parents=True)
    (tmp_path / "vocab").mkdir()
    train_pieces(tmp_path / "vocab/xnli15-32k.model")
    (tmp_path / "pretrain/mono/xx.txt.gz").write_bytes(gzip.compress("\n".join(sentences(50)).encode()))
    monkeypatch.setenv("DATA", str(tmp_path))
    flags = ["--gigabytes", "0.0001", "--rounds", "1", "--processes", "2", "--contenders", "ours"]
    monkeypatch.setattr(sys, "argv", ["corpus", *flags])
    corpus.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["tokens"] > 10_000 and found["seconds"]["ours"] > 0
    assert 20 < found["peak_mib"]["ours"] < 1024
    assert "ratio" not in found and "ids" not in found


def test_the_text():
    text = b"".join(corpus.numbered([b"one", b"two", b"three"], 300_000))
    lines = text.split(b"\n")
    assert len(text) > 300_000 and lines[:4] == [b"0 one", b"1 two", b"2 three", b"3 one"]
    assert len(set(lines)) == len(lines) and lines[-1] == b""
    assert text == b"".join(itertools.islice(corpus.numbered([b"one", b"two", b"three"], 10**12), 3))


def test_ids():
    theirs = [(["▁a", "b"], [1, 2]), (["▁in", "▁17,"], [3, 4]), (["c"], [5])]
    assert corpus.sort_out([[1, 2], [3, 6, 7], [5]], theirs) == {"equal": 2, "digit_comma": 1, "different": 0}
    assert corpus.sort_out([[1, 2], [3, 4], [8]], theirs)["different"] == 1


def test_figures():
    ours = [{"seconds": 2.0, "mib": [90, 8], "tokens": 999}, {"seconds": 4.0, "mib": [70], "tokens": 999}]
    runs = {
        "ours": ours,
        "hf_processes": [{"seconds": 9.0, "mib": [300]}, {"seconds": 9.0, "mib": [310, 20]}],
        "hf_threads": [{"seconds": 12.0, "mib": [300]}],
    }
    found = corpus.result(runs)
    assert found["ratio"] == 3.0 and found["tokens_per_second"] == {
        "ours": 333,
        "hf_processes": 111,
        "hf_threads": 83,
    }
    assert found["peak_mib"] == {"ours": 90, "hf_processes": 310, "hf_threads": 300}


def test_an_unknown_contender():
    with pytest.raises(corpus.UserError, match="no peer; there are ours, "):
        corpus.choose(["peer"])
