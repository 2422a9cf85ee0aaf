"""Nats a character: which words are masked, what they cost along a run, and the published page."""

import json
import math

import numpy as np
import paddle
import pytest

from experiments import curves, nats
from model.checkpoint.folder import save_model
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from reader.corpus import Blocks, Corpus
from reader.tokenization import Tokenizer
from tests.launching import as_flags, error_of
from tests.pretrain.tiny_run import make_corpus
from utils.errors import UserError
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
    examples, characters = nats.masked_lines(corpus, tokenizer, "de", 0, most=5)
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
    examples, characters = nats.masked_lines(corpus, tokenizer, "de", 0, most=40)
    model = ignorant_model(tokenizer.vocab_size, corpus.languages)
    masked = sum(len(example.sequences[0].targets) for example in examples)
    expected = masked * math.log(tokenizer.vocab_size) / characters
    np.testing.assert_allclose(nats.loss_of(model, examples, characters), expected, rtol=1e-5)


def save_run(folder, corpus_folder, steps, kept):
    """A run of a random model with much dropout, which has checkpoints of the steps `kept`."""
    corpus = Corpus(corpus_folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.5}
    vocab_size = Tokenizer.from_folder(corpus_folder).vocab_size
    model = PreTrainingModel(ErnieMConfig(vocab_size=vocab_size, **shape), corpus.languages)
    model.eval()
    files = {"vocab_path": corpus_folder / "vocab.txt", "piece_model_path": corpus_folder / "piece.model"}
    for step in kept:
        save_model(folder / f"checkpoints/step_{step}", model, model.ernie_m.config, **files)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(f"data: {{corpus: {corpus_folder}}}")
    records = [{"step": step, "tokens": 1000 * step} for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return model


def test_the_figures_of_a_run(tiny_corpus, tmp_path):
    """Each checkpoint that is there is measured, without dropout; the figures are means over languages."""
    model = save_run(tmp_path, tiny_corpus, steps=(10, 20, 30), kept=(20, 30))
    curve, frequencies = nats.figures_of(tmp_path, 2)
    corpus = Corpus(tiny_corpus)
    tokenizer = Tokenizer.from_folder(tiny_corpus)
    of_model = []
    of_frequencies = []
    for number, language in enumerate(corpus.languages):
        examples, characters = nats.masked_lines(corpus, tokenizer, language, number, 2)
        of_model.append(nats.loss_of(model, examples, characters))
        counts = corpus.piece_counts(language) + 1
        ids = np.concatenate([example.sequences[0].target_ids for example in examples])
        of_frequencies.append(-np.log(counts / counts.sum())[ids].sum() / characters)
    expected = round(float(np.mean(of_model)), 4)
    assert curve == [[20_000, expected], [30_000, expected]]
    assert frequencies == round(float(np.mean(of_frequencies)), 4)


def test_a_run_without_checkpoints(tiny_corpus, tmp_path):
    save_run(tmp_path, tiny_corpus, steps=(10, 20), kept=())
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoints: "):
        nats.figures_of(tmp_path, 2)


def test_the_table_and_the_chart(tmp_path, monkeypatch):
    """Runs of a name replace the earlier ones, others stay. Before the first checkpoint nothing is known."""
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "curves.json")
    monkeypatch.setattr(curves, "CHART", tmp_path / "curves.png")
    of_folder = {"1": ([[3_000_000, 4.0], [7_000_000, 2.0]], 5.0), "2": ([[1_000_000, 3.0]], 5.0)}
    monkeypatch.setattr(nats, "figures_of", lambda folder, most: of_folder[folder.name])
    curves.main(as_flags({"runs": "[a<=2, b<=2]"}))
    curves.main(as_flags({"runs": "[a<=1, a<=2]"}))
    rows = (tmp_path / "curves.md").read_text().splitlines()
    mean = "nan (nan, 3.000) | 3.250 (3.500, 3.000) | 2.750 (2.500, 3.000) | 2.500 (2.000, 3.000)"
    assert f"| a | {mean} | 2.500 (2.000, 3.000) | 5.000 |" in rows
    assert rows[-3].startswith("| b | 3.000 (3.000) | ")
    chart = curves.CHART.read_bytes()
    curves.CHART.unlink()
    curves.main([])
    assert curves.CHART.read_bytes() == chart


def test_a_run_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "curves.json")
    assert error_of(curves.main, as_flags({"runs": "[output/a]"})).startswith("--runs 'output/a': ")
    assert error_of(curves.main, []).startswith(str(curves.FIGURES))
