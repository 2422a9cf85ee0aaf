"""A toy tagging task in the official layout: persons of one or two words, places, and other words."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.tagging import JOINT
from tests.finetune import toy

FIRST_NAMES = ["anna", "bela", "carlo", "dora"]
LAST_NAMES = ["stone", "field", "brook"]
PLACES = ["rome", "oslo", "lima", "bern"]
WORDS = ["and", "sees", "near", "the", "old", "in", "now", "walks", "from", "to"]
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
LANGUAGES = ["en", "de"]


class Row(NamedTuple):
    """A sentence."""

    words: list[str]
    tags: list[str]


def sentence(rng: np.random.Generator, parts: int) -> Row:
    """A sentence of `parts` persons, places and other words."""
    words = []
    tags = []
    for kind in rng.choice(["person", "place", "word", "word"], parts):  # half of the parts are other words
        if kind == "person":
            first_name = str(rng.choice(FIRST_NAMES))
            last_name = str(rng.choice(LAST_NAMES))
            words.append(first_name)
            tags.append("B-PER")
            has_last_name = rng.integers(1, 3) == 2
            if has_last_name:
                words.append(last_name)
                tags.append("I-PER")
        else:
            words.append(str(rng.choice(PLACES if kind == "place" else WORDS)))
            tags.append("B-LOC" if kind == "place" else "O")
        if kind != "word":  # so that no two entities touch
            words.append("the")
            tags.append("O")
    return Row(words, tags)


def rows(count: int, seed: int, parts: tuple[int, int] = (2, 7)) -> list[Row]:
    """`count` sentences of parts[0] to parts[1] - 1 parts; see `sentence`."""
    rng = np.random.default_rng(seed)
    return [sentence(rng, int(rng.integers(*parts))) for _ in range(count)]


def rows_of_test_file(language_number: int) -> list[Row]:
    """The rows of the test file of LANGUAGES[language_number]: 15, then 3 long ones."""
    long_rows = rows(3, seed=40 + language_number, parts=(30, 40))
    return rows(15, seed=30 + language_number) + long_rows


def write_tsv(path: Path, examples: list[Row], label: bool = True) -> Path:
    """Write sentences below a header; with `label=False` without the column of tags."""
    lines = ["text_a\tlabel" if label else "text_a"]
    for row in examples:
        line = JOINT.join(row.words)
        if label:
            line += "\t" + JOINT.join(row.tags)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(folder: Path) -> Path:
    """Write the whole layout into `folder`: data, vocabulary, config."""
    texts = [" ".join(row.words) for row in rows(300, seed=9)]
    toy.write_model(folder, texts, LANGUAGES, {tag: i for i, tag in enumerate(TAGS)}, vocab_size=44)
    write_tsv(folder / "train.tsv", rows(128, seed=1))
    for i, language in enumerate(LANGUAGES):
        write_tsv(folder / f"dev.{language}.tsv", rows(21, seed=20 + i))
        write_tsv(folder / f"test.{language}.tsv", rows_of_test_file(i))
    return folder


def flags(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_sequence_labeling.py; None as a value leaves the flag out."""
    values = {"num_labels": len(TAGS), "batch_size": 8, "official_compat": "false"}
    return toy.flags(folder, out, **values | changes)
