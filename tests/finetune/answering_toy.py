"""A toy of question answering in the official layout: where is who, in text that normalisation changes."""

import json
from pathlib import Path

import numpy as np

from tests.finetune import toy

PEOPLE = ["anna", "bela", "carl", "dora", "emil"]
# Curly quotes, a dropped character, a double space, a full-width letter: no answer is its joined pieces.
PLACES = ["“old”  rome", "new\u200b oslo", "ｂig lima", "‘red’ bern", "the  port"]
FILLERS = ["and then", "but now", "they say that"]
CONFIG = {
    **toy.CONFIG,
    "vocab_size": 60,
    "hidden_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LANGUAGES = ["en", "de"]


def context(rng: np.random.Generator, number: int, length: int) -> tuple[str, list[tuple[str, str, int]]]:
    """A text of some facts, and (person, place, where it stands)."""
    text, facts = "", []
    for k, i in enumerate(rng.permutation(len(PEOPLE)).tolist()[:length]):
        place = PLACES[(number * length + k) % len(PLACES)]
        text += f"{rng.choice(FILLERS)} {PEOPLE[i]} is in "
        facts.append((PEOPLE[i], place, len(text)))
        text += f"{place} . "
    return text.strip(), facts


def squad(paragraphs: int, seed: int, facts: int = 2) -> dict:
    """SQuAD v1.1 JSON: a question on every fact."""
    rng = np.random.default_rng(seed)
    written = []
    for number in range(paragraphs):
        text, facts_of_text = context(rng, number, facts)
        qas = [
            {
                "id": f"{seed}-{number}-{person}",
                "question": f"where is {person} ?",
                "answers": [{"text": place, "answer_start": start}],
            }
            for person, place, start in facts_of_text
        ]
        written.append({"context": text, "qas": qas})
    return {"version": "1.1", "data": [{"title": "people", "paragraphs": written}]}


def questions(value: dict) -> list[tuple[str, dict]]:
    """(context, question) of SQuAD JSON."""
    return [
        (paragraph["context"], qa)
        for article in value["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def make(folder: Path) -> Path:
    """Write the whole layout into `folder`: data, pairs of languages, vocabulary, config."""
    texts = [context for context, _ in questions(squad(200, seed=9))]
    options = {"vocab_size": 80, "character_coverage": 1.0, "user_defined_symbols": PEOPLE}
    toy.write_model(folder, texts, LANGUAGES, {}, CONFIG, **options)
    learned = squad(3, seed=1)
    files = {"train": {"data": learned["data"] * 300}, "dev.en": learned, "dev.de": squad(3, seed=2)}
    files |= {"pair-en-en": learned, "pair-en-de": squad(2, seed=3), "pair-de-de": learned}
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return folder


def flags(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_mrc.py; None as a value leaves the flag out."""
    values = {
        "train_set": folder / "train.json",
        "dev_set": f"{folder}/dev.%s.json",
        "label_map_config": None,
        "num_labels": None,
        "batch_size": 6,
        "epoch": 1,
        "learning_rate": 3e-3,
        "max_seq_len": 80,
        "max_query_length": 16,
        "doc_stride": 20,
        "skip_steps": 20,
    }
    return toy.flags(folder, out, **values | changes)
