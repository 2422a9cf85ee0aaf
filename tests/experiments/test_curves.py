"""Nats a character: which words are masked, what they cost along a run, and the published page."""

import json
import math

import numpy as np
import paddle
import pytest

from experiments import curves
from model.checkpoint.folder import save_model
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from reader.corpus import Blocks, Corpus
from reader.tokenization import Tokenizer
from tests.launching import as_flags, error_of
from tests.pretrain.tiny_run import make_corpus
from utils.files import read_json


def test_the_published_page_is_that_of_the_figures():
    page = curves.FIGURES.with_suffix(".md").read_text(encoding="utf-8")
    assert page == curves.page(read_json(curves.FIGURES))


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("tiny"))


def ignorant_model(vocab_size: int, languages: list[str]) -> PreTrainingModel:
    """A model for which all pieces are equally probable."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PreTrainingModel(ErnieMConfig(vocab_size=vocab_size, **shape), languages)
    model.eval()
    with paddle.no_grad():
        model.ernie_m.embeddings.word_embeddings.weight.zero_()
    return model


def test_whole_words_are_masked(tiny_corpus):
    """In each line 15 % of the words, at least one; their characters are counted, not the sign of a word."""
    corpus = Corpus(tiny_corpus)
    tokenizer = Tokenizer.from_folder(tiny_corpus)
    examples, characters = curves.masked_lines(corpus, tokenizer, "de", 0, most=5)
    lines = Blocks(corpus.held_out_mono["de"], 126, one_line=True)
    assert len(examples) == 5
    counted = 0
    for line, example in zip(lines, examples):
        (sequence,) = example.sequences
        words = tokenizer.decode(line).split()
        masked = tokenizer.decode(sequence.target_ids).split()
        assert len(masked) == max(1, round(0.15 * len(words))) and set(masked) <= set(words)
        assert (sequence.input_ids[sequence.targets] == tokenizer.mask_id).all()
        counted += sum(map(len, masked))
    assert characters == counted


def test_the_loss_of_a_model_that_knows_nothing(tiny_corpus):
    corpus = Corpus(tiny_corpus)
    tokenizer = Tokenizer.from_folder(tiny_corpus)
    # More lines than are run at a time.
    examples, characters = curves.masked_lines(corpus, tokenizer, "de", 0, most=40)
    model = ignorant_model(tokenizer.vocab_size, corpus.languages)
    masked = sum(len(example.sequences[0].targets) for example in examples)
    expected = masked * math.log(tokenizer.vocab_size) / characters
    np.testing.assert_allclose(curves.loss_of(model, examples, characters), expected, rtol=1e-5)


def test_the_curves_of_two_seeds(tiny_corpus, tmp_path, monkeypatch):
    """Each checkpoint that is there is measured; runs of a name replace the earlier ones, others stay."""
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "curves.json")
    monkeypatch.setattr(curves, "CHART", tmp_path / "curves.png")
    earlier = {"frequencies": 1.0, "runs": {"a": [[[1, 9.0]]], "b": [[[0, 4.0], [10_000_000, 2.0]]]}}
    curves.FIGURES.write_text(json.dumps(earlier))
    corpus = Corpus(tiny_corpus)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.5}
    vocab_size = Tokenizer.from_folder(tiny_corpus).vocab_size
    model = PreTrainingModel(ErnieMConfig(vocab_size=vocab_size, **shape), corpus.languages)
    model.eval()
    files = {"vocab_path": tiny_corpus / "vocab.txt", "piece_model_path": tiny_corpus / "piece.model"}
    run = tmp_path / "run"
    for step in (20, 30):
        save_model(run / f"checkpoints/step_{step}", model, model.ernie_m.config, **files)
    records = [{"step": step, "tokens": 1000 * step} for step in (10, 20, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curves.main(as_flags({"corpus": tiny_corpus, "lines": 2, "runs": f"[a<={run}, a<={run}]"}))
    figures = read_json(curves.FIGURES)
    masked, frequencies = curves.masked_text(corpus, 2)
    nats = round(float(np.mean([curves.loss_of(model, *lines) for lines in masked])), 4)
    curve = [[20_000, nats], [30_000, nats]]
    assert figures == {"frequencies": frequencies, "runs": {"a": [curve, curve], "b": earlier["runs"]["b"]}}
    assert 0 < frequencies < nats
    rows = (tmp_path / "curves.md").read_text().splitlines()
    cells = " | ".join(f"{value:.3f} ({value:.3f})" for value in (3.6, 3.2, 2.8, 2.4, 2.0))
    assert f"| b | {cells} |" in rows
    assert curves.CHART.stat().st_size > 0


def test_a_run_without_a_name(tiny_corpus):
    line = error_of(curves.main, as_flags({"corpus": tiny_corpus, "runs": "[output/a]"}))
    assert line.startswith("--runs 'output/a': ")
