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
    ours = found["contenders"]["ours"]
    assert found["tokens"] > 10_000 and found["unit"] == "tokens/s" and ours["value"] > 0
    assert 20 < max(ours["mib"]) < 1024 and ours["peak_gb"] > sum(ours["mib"]) / 1000
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
    def run(seconds, *mib, **more):
        return {"seconds": seconds, "mib": list(mib), "peak": sum(mib) << 20, **more}

    runs = {
        "ours": [run(2.0, 90, 80, tokens=1000), run(4.0, 70, tokens=1000)],
        "ours_deduplicated": [run(4.5, 90, tokens=990), run(4.5, 90, tokens=990)],
        "hf_processes": [run(9.0, 300), run(9.0, 310, 20)],
        "hf_threads": [run(12.0, 300), run(12.0, 300)],
    }
    found = corpus.result(runs)
    assert found["tokens"] == 1000 and found["unit"] == "tokens/s"
    assert (found["ratio"], found["ratios"]) == (3.0, {"ours": 3.0, "ours_deduplicated": 2.0})
    rows = found["contenders"]
    assert [rows[name]["value"] for name in ("ours", "hf_processes", "hf_threads")] == [333.3, 111.1, 83.33]
    assert rows["hf_processes"]["mib"] == [310, 20] and rows["hf_processes"]["peak_gb"] == 0.35
    assert corpus.result({"hf_threads": runs["hf_threads"]})["unit"] == "s"


def test_an_unknown_contender():
    with pytest.raises(corpus.UserError, match="no peer; there are ours, "):
        corpus.choose(["peer"])
