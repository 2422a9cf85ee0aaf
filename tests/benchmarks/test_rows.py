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

from benchmarks import encode, finetune_real, made_up, mlm_step, page, search_vectors, tokenise
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import sentences, train_pieces
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def last_line(script: str, *flags: str, **environment: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment or None)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", ["mlm_step.py", "finetune_step.py"])
def test_steps(script):
    flags = ["--layers=1", "--vocab=100", "--steps=1", "--batch=4", "--length=16"]
    found = last_line(script, "--worker=ours", *flags)
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0 and found["peak"] < 3e9


def test_steps_on_real_pairs(tmp_path):
    """Two checkouts run the same batches; the last line has the figures of both sizes."""
    train_pieces(tmp_path / "piece.model")
    lines = [f"{a}\t{b}\tlabel{i % 3}" for i, (a, b) in enumerate(itertools.pairwise(sentences(70)))]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    flags = [f"--data={tmp_path}/pairs.tsv", f"--piece_model_path={tmp_path}/piece.model"]
    flags += ["--layers=1", "--hidden=64", "--vocab=40000", "--steps=2"]
    found = last_line("finetune_real.py", *flags, "--rounds=1", f"--against={ROOT}")
    assert found["batch"] == 32 and found["batch_16"]["batch"] == 16
    assert found["ratio"] == found["ratio_to_previous"]["32"] > 0 and found["ratio_to_previous"]["16"] > 0
    files = {"data": tmp_path / "pairs.tsv", "piece_model_path": tmp_path / "piece.model"}
    args = Namespace(**files, batch=16, steps=2, max_seq_len=64)
    finetune_real.draw(tmp_path, args)
    drawn = finetune_real.read_drawn(tmp_path)
    padded, grouped = (sorted(itertools.chain(*drawn[order])) for order in ("padded", "grouped"))
    assert padded == grouped and len(padded) == 32 and drawn["padded"] != drawn["grouped"]
    assert drawn["tokens"] == sum(len(ids) for ids, _ in padded)
    for batch in drawn["padded"]:
        input_ids, labels = finetune_real.to_arrays(batch)
        assert (input_ids != 1).sum(1).tolist() == [len(ids) for ids, _ in batch] and len(labels) == 16
    (tmp_path / "pairs.tsv").write_text("no tab\n")
    with pytest.raises(UserError, match="pairs.tsv, line 1: not premise, hypothesis and label"):
        finetune_real.draw(tmp_path, args)


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
def test_encoding(tmp_path, folder, capsys, engine):
    args = Namespace(layers=1, vocab=5000, sentences=40)
    encode.write_files(tmp_path, args)
    encode.ours(tmp_path, args, engine)
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


def test_rows_of_the_page_name_what_is_there():
    assert all((ROOT / "benchmarks" / command.split()[0]).is_file() for _, _, command in page.ROWS.values())
