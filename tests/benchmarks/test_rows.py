"""The rows in small form: our workers run, and all contenders get the same input."""

import gzip
import itertools
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus, encode, made_up, mlm_step, page, search_vectors, tokenise
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import sentences, train_pieces

ROOT = Path(__file__).resolve().parents[2]


def last_line(script: str, *flags: str, **environment: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment or None)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", ["mlm_step.py", "finetune_step.py"])
def test_steps(script):
    flags = ["--layers=1", "--vocab=100", "--steps=1", "--batch=4", "--length=16"]
    found = last_line(script, "--worker=ours", *flags)
    layer, tables, dense = 12 * 768**2 + 13 * 768, (100 + 514) * 768, 768**2 + 768
    head = dense + 2 * 768 + 100 + 768 if script == "mlm_step.py" else 3 * 768 + 3
    assert found["kept"] == 16 * (tables + 2 * 768 + layer + dense + head)
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0 and found["kept"] < found["peak"] < 3e9


def test_masked_lm_batches_are_the_same_for_all():
    batches = itertools.islice(mlm_step.mmlm_batches(300), 2)
    for (batch,), (input_ids, labels) in zip(batches, mlm_step.ids_and_labels(300)):
        assert input_ids.shape == labels.shape == (16, 128) and len(batch.targets) == 16 * 19
        assert np.array_equal(batch.input_ids, input_ids.ravel())
        chosen = labels != mlm_step.IGNORED
        assert np.array_equal(np.flatnonzero(chosen), batch.targets)
        assert np.array_equal(labels[chosen], batch.target_ids)


def test_the_cost_of_the_full_strategy():
    flags = ["--layers=1", "--vocab=300", "--length=32", "--sequences=4", "--micro=1", "--alternations=2"]
    found = last_line("pretrain_cost.py", *flags)
    assert found["ratio"] > 0 and found["alternations"] == 2 and len(found["spread"]) == 5
    assert list(found["tokens_per_second"]) == ["mmlm + tlm", "full"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    made_up.write_files(folder, Namespace(sentences=40))
    return folder


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_texts_that_all_libraries_cut_alike(folder):
    texts = made_up.read_texts(folder)
    lengths = [len(text.split()) for text in texts]
    assert len(texts) == 40 and 1 <= min(lengths) < 10 and 25 < max(lengths) <= 120
    tokenizer = Tokenizer(None, folder / made_up.OURS)
    tokens = [token for text in texts for token in tokenizer.tokenize(text)]
    assert "▁" not in tokens and tokenizer.unk_id not in tokenizer.convert_tokens_to_ids(tokens)
    assert any("а" <= c <= "я" for token in tokens for c in token)
    other = Tokenizer.from_folder(folder / made_up.ERNIE_M)
    assert other.encode_batch(texts) == tokenizer.encode_batch(texts)


@pytest.mark.parametrize("engine", ["dygraph", "onnx"])
def test_encoding(folder, capsys, engine):
    encode.ours(folder, Namespace(layers=1, vocab=5000), engine)
    tokenizer, texts = Tokenizer(None, folder / made_up.OURS), made_up.read_texts(folder)
    expected = sum(len(tokenizer.build(text, max_seq_len=encode.MAX_SEQ_LEN)) for text in texts)
    assert told(capsys)["check"] == expected


def test_tokenisation(folder, capsys):
    tokenise.ours(folder, None)
    found = told(capsys)
    ids = Tokenizer(None, folder / made_up.OURS).encode_batch(made_up.read_texts(folder))
    assert len(found["seconds"]) == tokenise.REPEATS and found["check"][0] == sum(map(len, ids))
    tokenise.time_tokenizer(folder, lambda texts: [[*row[:-1], 9] for row in ids])
    assert told(capsys)["check"][1] != found["check"][1]


def test_search(tmp_path):
    found = last_line("search_vectors.py", "--vectors=300", "--queries=7", "--width=16", "--rounds=1",
                      "--contenders=ours,numpy")  # fmt: skip
    assert list(found["contenders"]) == ["ours", "numpy"] and found["fastest_peer"] == "numpy"
    right = np.arange(20).reshape(2, 10)
    np.save(tmp_path / "found_ours.npy", right)
    np.save(tmp_path / "found_numpy.npy", right[:, ::-1])
    search_vectors.check_found(tmp_path)
    np.save(tmp_path / "found_other.npy", right + 1)
    with pytest.raises(SystemExit, match="differ in 100.00% of the targets"):
        search_vectors.check_found(tmp_path)


def test_corpus(tmp_path):
    (tmp_path / "pretrain/mono").mkdir(parents=True)
    (tmp_path / "vocab").mkdir()
    train_pieces(tmp_path / "vocab/xnli15-32k.model")
    (tmp_path / "pretrain/mono/xx.txt.gz").write_bytes(gzip.compress("\n".join(sentences(50)).encode()))
    flags = ["--gigabytes", "0.0001", "--rounds", "1", "--processes", "2", "--contenders", "ours"]
    row = last_line("corpus.py", *flags, DATA=str(tmp_path), PATH="/usr/bin:/bin")["contenders"]["ours"]
    assert row["value"] > 0 and 0.02 < row["peak_gb"] < 1
    text = b"".join(corpus.numbered([b"one", b"two", b"three"], 300_000))
    lines = text.split(b"\n")
    assert len(text) > 300_000 and lines[:4] == [b"0 one", b"1 two", b"2 three", b"3 one"]
    assert len(set(lines)) == len(lines) and lines[-1] == b""


def test_rows_of_the_page_name_what_is_there():
    assert all((ROOT / "benchmarks" / row.script).is_file() for row in page.ROWS.values())
