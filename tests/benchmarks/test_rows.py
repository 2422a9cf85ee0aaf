"""The rows in small form: our workers run, and all contenders get the same input."""

import inspect
import itertools
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import encode, finetune_real, mlm_step
from benchmarks.contenders import CONTENDERS
from benchmarks.training_steps import torch_step
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import sentences, train_pieces
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def last_line(script: str, *flags: str) -> dict:
    """The result that a benchmark prints in its last line."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("row", [encode, finetune_real, mlm_step])
def test_the_options_of_a_contender_are_those_of_its_work(row):
    """What the peers of transformers do not take themselves is for `torch_step`."""
    for name, work in row.WORKS.items():
        bound = inspect.signature(work).bind(Path(), Namespace(), **CONTENDERS[name].options)
        for_torch = bound.arguments.get("options", {})
        assert for_torch.keys() <= inspect.signature(torch_step).parameters.keys() - {"more"}


def test_fine_tuning_steps(tmp_path):
    """Two checkouts run the same batches of real pairs. Here both checkouts are this one."""
    small = ["--layers=1", "--hidden=64", "--vocab=40000", "--steps=2", "--batch=4"]
    train_pieces(tmp_path / "piece.model")
    write_pairs(tmp_path / "pairs.tsv")
    files = {"data": str(tmp_path / "pairs.tsv"), "piece_model_path": str(tmp_path / "piece.model")}
    flags = [f"--{name}={path}" for name, path in files.items()]
    script = f"--against={ROOT}/benchmarks/finetune_real.py"
    result = last_line("finetune_real.py", *small, *flags, script)
    assert list(result["contenders"]) == ["ours", "previous"]
    assert result["contenders"]["previous"]["times"] > 0
    assert result["fastest_peer"] == "previous"


def test_batches_of_random_tokens(tmp_path):
    """All have the full length, and the times are those of a batch."""
    args = Namespace(vocab=100, batch=4, steps=2, length=16)
    assert finetune_real.draw(tmp_path, args) == 4 * 16
    batches = finetune_real.read_batches(tmp_path)
    assert [[len(ids) for ids, _ in batch] for batch in batches["padded"]] == [[16] * 4] * 2
    assert batches["tokens"] == 2 * 4 * 16 and set(batches["labels"]) == {"0", "1", "2"}


def write_pairs(path: Path) -> None:
    """69 lines of premise, hypothesis and one of three labels."""
    lines = []
    for number, (premise, hypothesis) in enumerate(itertools.pairwise(sentences(70))):
        lines.append(f"{premise}\t{hypothesis}\tlabel{number % 3}")
    path.write_text("\n".join(lines) + "\n")


def test_fine_tuning_batches(tmp_path):
    """Grouped batches have the pairs of the padded ones."""
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
    (tmp_path / "pairs.tsv").write_text("no tab\n")
    with pytest.raises(UserError, match="pairs.tsv, line 1: 1 columns"):
        finetune_real.draw(tmp_path, args)


def test_masked_lm_steps():
    """A worker of ours runs.

    The peers get the ids and labels that ours gets, with 19 labels in a row of 128: 15 % of 126 tokens.
    """
    flags = ["--layers=1", "--vocab=100", "--steps=1", "--batch=4", "--length=16"]
    result = last_line("mlm_step.py", "--worker=ours", *flags)
    assert len(result["seconds"]) == 1 and result["seconds"][0] > 0 and result["peak"] < 3e9
    args = Namespace(vocab=300, batch=16, length=128, steps=0)  # two for the warm-up
    for (batch,), (input_ids, labels) in zip(mlm_step.mmlm_batches(args), mlm_step.ids_and_labels(args)):
        assert input_ids.shape == labels.shape == (16, 128) and len(batch.targets) == 16 * 19
        assert np.array_equal(batch.input_ids, input_ids.ravel())
        is_target = labels != mlm_step.IGNORED
        assert np.array_equal(np.flatnonzero(is_target), batch.targets)
        assert np.array_equal(labels[is_target], batch.target_ids)


@pytest.mark.parametrize("engine", ["dygraph", "onnx"])
def test_encoding(tmp_path, capsys, engine):
    """The check of a worker is the number of tokens. The texts have no bare "▁" and no unknown piece."""
    args = Namespace(layers=1, vocab=5000, sentences=40)
    encode.write_files(tmp_path, args)
    texts = (tmp_path / encode.TEXTS).read_text().splitlines()
    lengths = [len(text.split()) for text in texts]
    assert len(texts) == 40 and 1 <= min(lengths) < 10 and 25 < max(lengths) <= 120
    tokenizer = Tokenizer(None, tmp_path / encode.PIECE_MODEL)
    tokens = [token for text in texts for token in tokenizer.tokenize(text)]
    assert "▁" not in tokens and tokenizer.unk_id not in tokenizer.convert_tokens_to_ids(tokens)
    encode.ours(tmp_path, args, engine)
    expected = sum(len(tokenizer.build(text, max_seq_len=encode.MAX_SEQ_LEN)) for text in texts)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["check"] == expected
