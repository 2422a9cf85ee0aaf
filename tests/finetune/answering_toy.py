"""A toy of question answering in the official layout: in which place a person is.

The tokenizer normalises the texts, so an answer must be found again in the original text.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.finetune import toy

PEOPLE = ["anna", "bela", "carl", "dora", "emil"]
# Curly quotes, a character that is dropped, a double space, a full-width letter: the pieces of a place, put
# together, are never the place itself.
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


class Fact(NamedTuple):
    """That a person is in a place. `start` is the character of the text at which the place begins."""

    person: str
    place: str
    start: int


def context(rng: np.random.Generator, number: int, count: int) -> tuple[str, list[Fact]]:
    """Text number `number`, which has `count` facts, and these facts. The texts take the places in turn."""
    text = ""
    facts = []
    people = [PEOPLE[i] for i in rng.permutation(len(PEOPLE))[:count]]
    for k, person in enumerate(people):
        place = PLACES[(number * count + k) % len(PLACES)]
        text += f"{rng.choice(FILLERS)} {person} is in "
        facts.append(Fact(person, place, len(text)))
        text += f"{place} . "
    return text.strip(), facts


def squad(paragraphs: int, seed: int, facts: int = 2) -> dict:
    """SQuAD v1.1 JSON of `paragraphs` texts, each with `facts` facts and a question on every fact."""
    rng = np.random.default_rng(seed)
    json_paragraphs = []
    for number in range(paragraphs):
        text, facts_of_text = context(rng, number, facts)
        qas = [
            {
                "id": f"{seed}-{number}-{fact.person}",
                "question": f"where is {fact.person} ?",
                "answers": [{"text": fact.place, "answer_start": fact.start}],
            }
            for fact in facts_of_text
        ]
        json_paragraphs.append({"context": text, "qas": qas})
    return {"version": "1.1", "data": [{"title": "people", "paragraphs": json_paragraphs}]}


def questions(squad_json: dict) -> list[tuple[str, dict]]:
    """(context, entry of "qas") of each question of SQuAD JSON."""
    pairs = []
    for article in squad_json["data"]:
        for paragraph in article["paragraphs"]:
            pairs += [(paragraph["context"], qa) for qa in paragraph["qas"]]
    return pairs


def make(folder: Path) -> Path:
    """Write the whole layout into `folder`: data, pairs of languages, vocabulary, config.

    The training data are a few questions, many times. dev.en, pair-en-en and pair-de-de are these questions,
    and the other files are new ones.
    """
    texts = [text for text, _ in questions(squad(200, seed=9))]
    options = {"vocab_size": 80, "character_coverage": 1.0, "user_defined_symbols": PEOPLE}
    toy.write_model(folder, texts, LANGUAGES, {}, CONFIG, **options)
    learned = squad(3, seed=1)
    files = {
        "train": {"data": learned["data"] * 300},
        "dev.en": learned,
        "dev.de": squad(3, seed=2),
        "pair-en-en": learned,
        "pair-en-de": squad(2, seed=3),
        "pair-de-de": learned,
    }
    for name, squad_json in files.items():
        (folder / f"{name}.json").write_text(json.dumps(squad_json, ensure_ascii=False), encoding="utf-8")
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
        "official_compat": "false",
    }
    return toy.flags(folder, out, **values | changes)
