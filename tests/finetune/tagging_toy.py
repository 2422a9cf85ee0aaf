"""A toy tagging task in the official layout: persons of one or two words, places, and other words."""

from pathlib import Path

import numpy as np

from reader.tagging import JOINT
from tests.finetune import toy

FIRST, LAST = ["anna", "bela", "carlo", "dora"], ["stone", "field", "brook"]
PLACES = ["rome", "oslo", "lima", "bern"]
WORDS = ["and", "sees", "near", "the", "old", "in", "now", "walks", "from", "to"]
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
LANGUAGES = ["en", "de"]
Row = tuple[list[str], list[str]]  # words, tags


def sentence(rng: np.random.Generator, parts: int) -> Row:
    words = []
    tags = []
    for kind in rng.choice(["person", "place", "word", "word"], parts):
        if kind == "person":
            first = str(rng.choice(FIRST))
            last = str(rng.choice(LAST))
            words.append(first)
            tags.append("B-PER")
            if rng.integers(1, 3) == 2:
                words.append(last)
                tags.append("I-PER")
        else:
            words.append(str(rng.choice(PLACES if kind == "place" else WORDS)))
            tags.append("B-LOC" if kind == "place" else "O")
        if kind != "word":  # so that no two entities touch
            words.append("the")
            tags.append("O")
    return words, tags


def rows(count: int, seed: int, parts: tuple[int, int] = (2, 7)) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [sentence(rng, int(rng.integers(*parts))) for _ in range(count)]


def write_tsv(path: Path, examples: list[Row], label: bool = True) -> Path:
    lines = ["text_a\tlabel" if label else "text_a"]
    lines += ["\t".join(JOINT.join(cell) for cell in (row if label else row[:1])) for row in examples]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(folder: Path) -> Path:
    """Write the whole layout into `folder`: data, vocabulary, config. The test files have long sentences."""
    texts = [" ".join(words) for words, _ in rows(300, seed=9)]
    toy.write_model(folder, texts, LANGUAGES, {tag: i for i, tag in enumerate(TAGS)}, vocab_size=44)
    write_tsv(folder / "train.tsv", rows(128, seed=1))
    for i, language in enumerate(LANGUAGES):
        write_tsv(folder / f"dev.{language}.tsv", rows(21, seed=20 + i))
        long = rows(3, seed=40 + i, parts=(30, 40))
        write_tsv(folder / f"test.{language}.tsv", rows(15, seed=30 + i) + long)
    return folder


def flags(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_sequence_labeling.py; None as a value leaves the flag out."""
    return toy.flags(folder, out, **{"num_labels": len(TAGS), "batch_size": 8, **changes})
