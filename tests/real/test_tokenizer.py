"""A real model's tokenizer gives the ids of transformers' slow XLMRobertaTokenizer."""

import os
from pathlib import Path

import pytest
from transformers import XLMRobertaTokenizer

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import open_model
from tests.real.lines import converted, raw_lines

MODEL = Path(os.environ["REAL_MODEL"])
COUNT = 20_000


@pytest.fixture(scope="module")
def lines(data_dir):
    lines = [line for line in raw_lines(data_dir, COUNT) if "<s>" not in line]
    # A typographic quote, no width, full width, an accent apart.
    assert {"“", "\u200b", "\uff11", "\u0301"} <= set("".join(lines)) and len(lines) > COUNT - 10
    return lines


@pytest.fixture(scope="module")
def expected(lines):
    reference = XLMRobertaTokenizer(str(MODEL / "sentencepiece.bpe.model"))
    return reference(lines, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("target", [None, "ernie-m", "xlm-roberta"])
def test_ids_on_all_lines(tmp_path, lines, expected, target):
    """Of the model as its makers have it, and of what ernie-m convert makes of it."""
    folder = MODEL
    if target is not None:
        folder = converted(MODEL, tmp_path / "converted", target)
    ids = open_model(open_checkpoint(folder)).tokenizer.encode_batch(lines)
    assert [number for number in range(len(lines)) if ids[number] != expected[number]] == []


def test_ids_of_pairs_equal_transformers(lines, expected):
    reference = XLMRobertaTokenizer(str(MODEL / "sentencepiece.bpe.model"))
    tokenizer = open_model(open_checkpoint(MODEL)).tokenizer
    for first, second in zip(lines[:100], lines[100:200]):
        assert tokenizer.build_inputs(first, second, 512) == reference(first, second)["input_ids"]
