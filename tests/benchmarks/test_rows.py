"""The rows in small form: our workers run, and all contenders get the same input."""

import gzip
import inspect
import itertools
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpus, encode, finetune_real, mlm_step, search_vectors, tokenise
from benchmarks.contenders import CONTENDERS
from benchmarks.training_steps import torch_step
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import sentences, train_pieces
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def last_line(script: str, *flags: str, **environment: str) -> dict:
    """The result that a benchmark prints in its last line. `environment`: all variables, if there are any."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment or None)
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("row", [corpus, encode, finetune_real, mlm_step, search_vectors, tokenise])
def test_the_options_of_a_contender_are_those_of_its_work(row):
    """What the peers of transformers do not take themselves is for `torch_step`."""
    for name, work in row.WORKS.items():
        bound = inspect.signature(work).bind(Path(), Namespace(), **CONTENDERS[name].options)
        for_torch = bound.arguments.get("options", {})
        assert for_torch.keys() <= inspect.signature(torch_step).parameters.keys() - {"more"}


def test_fine_tuning_steps(tmp_path):
    """Two checkouts run the same batches, of random tokens or of real pairs.

    Here both checkouts are this one.
    """
    small = ["--layers=1", "--hidden=64", "--vocab=40000", "--steps=2", "--batch=4", "--rounds=1"]
    random = last_line("finetune_real.py", *small, "--length=16", f"--against={ROOT}")
    train_pieces(tmp_path / "piece.model")
    write_pairs(tmp_path / "pairs.tsv")
    files = {"data": str(tmp_path / "pairs.tsv"), "piece_model_path": str(tmp_path / "piece.model")}
    flags = [f"--{name}={path}" for name, path in files.items()]
    script = f"--against={ROOT}/benchmarks/finetune_real.py"
    real = last_line("finetune_real.py", *small, *flags, script)
    for result in (random, real):
        assert list(result["contenders"]) == ["ours", "previous"] and result["ratio"] > 0
        assert result["fastest_peer"] == "previous" and result["left_out"] == []


def write_pairs(path: Path) -> None:
    """69 lines of premise, hypothesis and one of three labels."""
    lines = []
    for number, (premise, hypothesis) in enumerate(itertools.pairwise(sentences(70))):
        lines.append(f"{premise}\t{hypothesis}\tlabel{number % 3}")
    path.write_text("\n".join(lines) + "\n")


def test_fine_tuning_batches(tmp_path):
    """Grouped batches have the pairs of the padded ones. Arrays of ids have as many tokens as the pairs."""
    train_pieces(tmp_path / "piece.model")
    write_pairs(tmp_path / "pairs.tsv")
    files = {"data": str(tmp_path / "pairs.tsv"), "piece_model_path": str(tmp_path / "piece.model")}
    args = Namespace(**files, batch=16, steps=2, max_seq_len=64, length=0)
    finetune_real.draw(tmp_path, args)
    batches = finetune_real.read_batches(tmp_path)
    pairs = sorted(itertools.chain(*batches["padded"]))
    assert sorted(itertools.chain(*batches["grouped"])) == pairs and len(pairs) == 32
    assert batches["padded"] != batches["grouped"]
    assert batches["tokens"] == sum(len(ids) for ids, _ in pairs)
    for batch in batches["padded"]:
        input_ids, labels = finetune_real.to_arrays(batch)
        is_token = input_ids != finetune_real.PAD
        assert is_token.sum(1).tolist() == [len(ids) for ids, _ in batch] and len(labels) == 16
    (tmp_path / "pairs.tsv").write_text("no tab\n")
    with pytest.raises(UserError, match="pairs.tsv, line 1: not premise, hypothesis and label"):
        finetune_real.draw(tmp_path, args)


def test_masked_lm_steps():
    """A worker of ours runs.

    The peers get the ids and labels that ours gets, with 19 labels in a row of 128: 15 % of 126 tokens.
    """
    flags = ["--layers=1", "--vocab=100", "--steps=1", "--batch=4", "--length=16"]
    result = last_line("mlm_step.py", "--worker=ours", *flags)
    assert len(result["seconds"]) == 1 and result["seconds"][0] > 0 and result["peak"] < 3e9
    args = Namespace(vocab=300, batch=16, length=128)
    batches = itertools.islice(mlm_step.mmlm_batches(args), 2)
    for (batch,), (input_ids, labels) in zip(batches, mlm_step.ids_and_labels(args)):
        assert input_ids.shape == labels.shape == (16, 128) and len(batch.targets) == 16 * 19
        assert np.array_equal(batch.input_ids, input_ids.ravel())
        is_target = labels != mlm_step.IGNORED
        assert np.array_equal(np.flatnonzero(is_target), batch.targets)
        assert np.array_equal(labels[is_target], batch.target_ids)


def test_the_cost_of_the_full_strategy():
    flags = ["--layers=1", "--vocab=300", "--length=32", "--sequences=4", "--micro=1", "--alternations=2"]
    result = last_line("pretrain_cost.py", *flags)
    assert result["ratio"] > 0 and result["alternations"] == 2
    assert len(result["spread"]) == 5  # least, three quartiles, most
    assert list(result["tokens_per_second"]) == ["mmlm + tlm", "full"]


def printed_result(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_tokenisation(tmp_path, capsys):
    """All libraries cut the texts alike, which have no bare "▁" and no unknown piece. Other ids are seen."""
    tokenise.write_files(tmp_path, Namespace(sentences=40))
    texts = tokenise.read_texts(tmp_path)
    lengths = [len(text.split()) for text in texts]
    assert len(texts) == 40 and 1 <= min(lengths) < 10 and 25 < max(lengths) <= 120
    tokenizer = Tokenizer(None, tmp_path / tokenise.PIECE_MODEL)
    tokens = [token for text in texts for token in tokenizer.tokenize(text)]
    assert "▁" not in tokens and tokenizer.unk_id not in tokenizer.convert_tokens_to_ids(tokens)
    of_ernie_m = Tokenizer.from_folder(tmp_path / tokenise.ERNIE_M)
    assert of_ernie_m.encode_batch(texts) == tokenizer.encode_batch(texts)
    tokenise.ours(tmp_path, Namespace())
    result = printed_result(capsys)
    assert len(result["seconds"]) == tokenise.REPETITIONS

    def encode_wrongly(texts: list[str]) -> list[list[int]]:
        return [[*row[:-1], 9] for row in tokenizer.encode_batch(texts)]

    tokenise.time_tokenizer(tmp_path, encode_wrongly)
    assert printed_result(capsys)["check"] != result["check"]


@pytest.mark.parametrize("engine", ["dygraph", "onnx"])
def test_encoding(tmp_path, capsys, engine):
    """The check of a worker is the number of tokens."""
    args = Namespace(layers=1, vocab=5000, sentences=40)
    encode.write_files(tmp_path, args)
    encode.ours(tmp_path, args, engine)
    tokenizer = Tokenizer(None, tmp_path / tokenise.PIECE_MODEL)
    texts = tokenise.read_texts(tmp_path)
    expected = sum(len(tokenizer.build(text, max_seq_len=encode.MAX_SEQ_LEN)) for text in texts)
    assert printed_result(capsys)["check"] == expected


def test_search(tmp_path):
    """numpy finds what ours finds; a contender that finds other targets fails."""
    flags = ["--vectors=300", "--queries=7", "--width=16", "--rounds=1", "--contenders", "ours", "numpy"]
    assert list(last_line("search_vectors.py", *flags)["contenders"]) == ["ours", "numpy"]
    search_vectors.write_vectors(tmp_path, Namespace(vectors=300, queries=7, width=16))
    search_vectors.with_numpy(tmp_path, Namespace())
    with pytest.raises(SystemExit, match="100.00% of the targets found differ"):
        # The targets are 0 to 299, so none is number 300.
        search_vectors.time_search(tmp_path, lambda queries, _: np.full([len(queries), 10], 300))


def test_corpus(tmp_path):
    """Ours builds shards of 0.1 MB of text, from a folder in place of the real data."""
    (tmp_path / "pretrain/mono").mkdir(parents=True)
    (tmp_path / "vocab").mkdir()
    train_pieces(tmp_path / "vocab/xnli15-32k.model")
    (tmp_path / "pretrain/mono/xx.txt.gz").write_bytes(gzip.compress("\n".join(sentences(50)).encode()))
    flags = ["--gigabytes", "0.0001", "--rounds", "1", "--processes", "2", "--contenders", "ours"]
    row = last_line("corpus.py", *flags, DATA=str(tmp_path), PATH="/usr/bin:/bin")["contenders"]["ours"]
    assert row["value"] > 0 and 0.02 < row["peak_gb"] < 1
