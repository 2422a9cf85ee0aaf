"""A toy task in the official layout: the label is the kind of the first sentence's noun."""

import json
from pathlib import Path

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
LEARNS = {"epoch": 10, "learning_rate": 5e-3}  # with more seeds than at a higher rate, though not with all
LANGUAGES = ["en", "de", "fr"]


def sentence(rng: np.random.Generator, noun: str) -> str:
    words = [str(word) for word in rng.choice(WORDS, rng.integers(2, 6))]
    words.insert(int(rng.integers(0, len(words) + 1)), noun)
    return " ".join(words)


def rows(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    """qid, text_a, text_b, label."""
    rng = np.random.default_rng(seed)
    kinds = list(NOUNS)
    written = []
    for i in range(count):
        kind = kinds[int(rng.integers(3))]
        noun = str(rng.choice(NOUNS[kind]))
        written.append((str(100 + i), sentence(rng, noun), sentence(rng, "and"), kind))
    return written


def write_tsv(path: Path, examples: list, qid: bool = True, label: bool = True) -> Path:
    columns = ["qid", "text_a", "text_b", "label"]
    first = 0 if qid else 1
    last = 4 if label else 3
    lines = ["\t".join(row[first:last]) for row in [columns, *examples]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(folder: Path, train: int = 96, dev: int = 31) -> Path:
    """Write the whole layout into `folder`: data, vocabulary, config."""
    write_model(folder, [text for row in rows(400, seed=9) for text in row[1:3]], LANGUAGES, LABELS)
    write_tsv(folder / "train.tsv", rows(train, seed=1))
    for i, language in enumerate(LANGUAGES):
        write_tsv(folder / f"dev.{language}.tsv", rows(dev, seed=20 + i))
        write_tsv(folder / f"test.{language}.tsv", rows(dev + 2, seed=30 + i), label=False)
        write_tsv(folder / f"heldout.{language}.tsv", rows(dev + 4, seed=40 + i))
    return folder


def write_model(folder: Path, texts: list, languages: list, labels: dict, config=CONFIG, **options) -> None:
    """Write the piece model that is trained on texts, ernie_config.json and both maps."""
    train_pieces(folder / "piece.model", texts, **{"vocab_size": 50, "character_coverage": 0.9995} | options)
    maps = {"lang": {language: i for i, language in enumerate(languages)}, "label": labels}
    for name, value in maps.items():
        (folder / f"{name}_map.json").write_text(json.dumps(value))
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
