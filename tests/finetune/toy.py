"""A toy task in the official layout: the label is the kind of the first sentence's noun."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.helpers.small_corpus import train_pieces
from tests.launching import as_flags

NOUNS = {"animal": ["cat", "dog", "hen"], "drink": ["tea", "milk", "beer"], "tool": ["saw", "axe", "nail"]}
LABELS = {"animal": 0, "drink": 1, "tool": 2}
WORDS = ["the", "a", "old", "new", "red", "big", "is", "was", "here", "there", "now", "then"]
CONFIG = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 514,
    "initializer_range": 0.1,
}
# Flags with which the task is learned from most seeds; at a higher rate it is learned from fewer.
LEARNS = {"epoch": 10, "learning_rate": 5e-3}
# Flags for a command without training. Everything else is in the folder that --init_checkpoint names.
FOLDER_ALONE = {
    "do_train": "false",
    "train_set": None,
    "ernie_config_path": None,
    "piece_model_path": None,
}
LANGUAGES = ["en", "de", "fr"]


class Row(NamedTuple):
    """A row of the toy's files. The label is a key of `LABELS`."""

    qid: str
    text_a: str
    text_b: str
    label: str


def sentence(rng: np.random.Generator, noun: str) -> str:
    """A few words, and the noun at any place among them."""
    words = [str(word) for word in rng.choice(WORDS, rng.integers(2, 6))]
    words.insert(int(rng.integers(0, len(words) + 1)), noun)
    return " ".join(words)


def rows(count: int, seed: int) -> list[Row]:
    """Rows with the qids 100, 101, ... The second text has no noun, so it says nothing of the label."""
    rng = np.random.default_rng(seed)
    kinds = list(NOUNS)
    drawn = []
    for i in range(count):
        kind = kinds[int(rng.integers(3))]
        noun = str(rng.choice(NOUNS[kind]))
        drawn.append(Row(str(100 + i), sentence(rng, noun), sentence(rng, "and"), kind))
    return drawn


def write_tsv(path: Path, examples: list, label: bool = True) -> Path:
    """Write rows (qid, text_a, text_b, label), below a header; with `label=False` without the last column."""
    lines = []
    for row in [Row._fields, *examples]:
        cells = row if label else row[:-1]
        lines.append("\t".join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(folder: Path, train: int = 96, dev: int = 31) -> Path:
    """Write the whole layout into `folder`: data, vocabulary, config.

    Args:
        train: rows of train.tsv.
        dev: rows of each dev file. A test file, which has no labels, has 2 more, and a heldout file 4 more.
    """
    write_model(folder, texts_of(rows(400, seed=9)), LANGUAGES, LABELS)
    write_tsv(folder / "train.tsv", rows(train, seed=1))
    for i, language in enumerate(LANGUAGES):
        write_tsv(folder / f"dev.{language}.tsv", rows(dev, seed=20 + i))
        write_tsv(folder / f"test.{language}.tsv", rows(dev + 2, seed=30 + i), label=False)
        write_tsv(folder / f"heldout.{language}.tsv", rows(dev + 4, seed=40 + i))
    return folder


def texts_of(examples: list[Row]) -> list[str]:
    """Both texts of each row."""
    texts = []
    for row in examples:
        texts += [row.text_a, row.text_b]
    return texts


def write_model(folder: Path, texts: list, languages: list, labels: dict, config=CONFIG, **options) -> None:
    """Write ernie_config.json, lang_map.json, label_map.json, and a piece model that is trained on texts.

    Args:
        labels: label -> id.
        options: of sentencepiece's trainer.
    """
    train_pieces(folder / "piece.model", texts, **{"vocab_size": 50, "character_coverage": 0.9995} | options)
    language_map = {language: i for i, language in enumerate(languages)}
    (folder / "lang_map.json").write_text(json.dumps(language_map))
    (folder / "label_map.json").write_text(json.dumps(labels))
    (folder / "ernie_config.json").write_text(json.dumps(config))


def flags(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_classifier.py; None as a value leaves the flag out."""
    values = {
        "ernie_config_path": folder / "ernie_config.json",
        "piece_model_path": folder / "piece.model",
        "train_set": folder / "train.tsv",
        "dev_set": f"{folder}/dev.%s.tsv",
        "do_test": "false",
        "label_map_config": folder / "label_map.json",
        "lang_map_config": folder / "lang_map.json",
        "num_labels": 3,
        "checkpoints": out,
        "batch_size": 8,
        "epoch": 2,
        "learning_rate": 5e-3,
        "weight_decay": 0,
        "layerwise_lr_decay": 1.0,
        "max_seq_len": 64,
        "random_seed": 1,
        "skip_steps": 4,
        "use_cuda": "false",
    }
    return as_flags(values | changes)


def read_log(folder: Path) -> str:
    """What the commands that ran in a folder have logged."""
    return (folder / "log" / "job.log.0").read_text()


def retrieval_flags(corpus: Path, out: Path, **changes) -> list[str]:
    """A command line for run_retrieval.py: a few steps on the fixture `corpus`."""
    values = {
        "do_train": "true",
        "train_set": corpus,
        "checkpoints": out,
        "use_cuda": "false",
        "ernie_config_path": corpus.parent / "config.json",
        "piece_model_path": corpus / "piece.model",
        "vocab_path": corpus / "vocab.txt",
        "max_seq_len": 32,
        "max_steps": 6,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "save_steps": 3,
        "validation_steps": 3,
        "keep_checkpoints": 9,
        "skip_steps": 2,
    }
    return as_flags(values | changes)
