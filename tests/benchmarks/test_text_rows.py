"""The rows that begin with text: what all get is the same, and our workers run in small form."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    answer_questions,
    encode,
    evaluate,
    first_step,
    from_clone,
    made_up,
    search_vectors,
    suite,
    tokenise,
)
from reader.tokenization import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    words = made_up.write_tokenizers(folder)
    made_up.write_texts(folder, words, 40)
    made_up.write_pairs(folder, words, 12)
    made_up.write_questions(folder, words, 3)
    return folder


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_texts_are_ones_that_all_libraries_cut_alike(folder):
    texts = (folder / made_up.TEXTS).read_text().splitlines()
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
    encode.ours(folder, Namespace(layers=1, vocab=5000, sentences=40), engine)
    found = told(capsys)
    texts = (folder / made_up.TEXTS).read_text().splitlines()
    tokenizer = Tokenizer(None, folder / made_up.OURS)
    assert found["check"] == sum(len(tokenizer.build(text, max_seq_len=encode.MAX_SEQ_LEN)) for text in texts)


def test_evaluation(folder, capsys):
    evaluate.ours(folder, Namespace(layers=1, vocab=5000, pairs=12))
    found = told(capsys)
    assert found["seconds"] > 0 and found["check"][0] == 12
    lines = (folder / made_up.PAIRS).read_text().splitlines()[1:]
    tokenizer = Tokenizer(None, folder / made_up.OURS)
    rows = [tokenizer.build(*line.split("\t")[:2], evaluate.MAX_SEQ_LEN) for line in lines]
    assert found["check"][1] == sum(map(len, rows))


def test_a_peers_loop_sees_every_pair_once(folder, capsys):
    seen = []

    def encode_pairs(a, b):
        return [[0, *range(5, 5 + len(text.split())), 2] for text in a]

    def logits_and_loss(ids, labels):
        seen.append(ids)
        return np.eye(made_up.LABELS)[labels], 0.5

    evaluate.time_evaluation(folder, encode_pairs, logits_and_loss, batch=5, sort=True)
    found = told(capsys)
    assert [len(ids) for ids in seen] == [5, 5, 2]
    widths = [ids.shape[1] for ids in seen]
    assert widths == sorted(widths)
    assert found["check"] == [12, sum(int((ids != 1).sum()) for ids in seen)]


def test_question_answering(folder, capsys):
    answer_questions.ours(folder, Namespace(layers=1, vocab=5000, questions=3))
    found = told(capsys)
    assert found["check"] == 3 and 3 <= found["windows"] <= 12


def test_tokenisation(folder, capsys):
    tokenise.ours(folder, None)
    found = told(capsys)
    ids = Tokenizer(None, folder / made_up.OURS).encode_batch(
        (folder / made_up.TEXTS).read_text().splitlines()
    )
    assert len(found["seconds"]) == tokenise.REPEATS and found["check"][0] == sum(map(len, ids))
    tokenise.time_tokenizer(folder, lambda texts: [[*row[:-1], 9] for row in ids])
    assert told(capsys)["check"][1] != found["check"][1]


def test_search_from_the_command_line(tmp_path):
    flags = ("--vectors=300", "--queries=7", "--width=16", "--rounds=1", "--contenders=ours,numpy")
    found = suite.run_row("search_vectors.py", flags, tmp_path / "log")
    assert list(found["contenders"]) == ["ours", "numpy"] and found["fastest_peer"] == "numpy"
    assert found["ratio"] > 0 and found["unit"] == "queries/s" and found["left_out"] == []


def test_searches_that_disagree_end_the_run(tmp_path):
    right = np.arange(20).reshape(2, 10)
    np.save(tmp_path / "found_ours.npy", right)
    np.save(tmp_path / "found_numpy.npy", right[:, ::-1])
    search_vectors.check_found(tmp_path)
    np.save(tmp_path / "found_other.npy", right + 1)
    with pytest.raises(SystemExit, match="differ in 100.00% of the targets"):
        search_vectors.check_found(tmp_path)


def test_first_step(monkeypatch, capsys):
    args = Namespace(layers=1, vocab=100)
    monkeypatch.setattr(first_step, "BATCH", 2)
    monkeypatch.setattr(first_step, "LENGTH", 8)
    first_step.one_step("ours")(None, args)
    found = told(capsys)
    assert found["seconds"] > 1 and "gflops" not in found  # this process began long ago


@pytest.mark.skipif(not (suite.ROOT / ".git").exists(), reason="not a git checkout")
def test_from_a_clone(tmp_path, capsys):
    args = Namespace(layers=1, vocab=100)
    note = ["sh", "-c", f"pwd > {tmp_path / 'where'}"]
    from_clone.time_commands(args, [note], sys.executable, "ours")
    found = told(capsys)
    where = Path((tmp_path / "where").read_text().strip())
    assert where.name == "clone" and not where.exists()  # it was made and is gone
    assert 1 < found["seconds"] < 120 and 1e8 < found["peak"] < 3e9
