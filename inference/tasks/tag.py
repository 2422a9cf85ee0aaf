"""Tags of words: {"words"} or {"text"} -> {"tags", "entities"}. A text is cut into words at white space.

A word's tag is found as in training: by its first piece, or by all of them (--label_pieces). Long sentences
are read in overlapping windows.
"""

import re
from typing import NamedTuple

import numpy as np

from inference.loading import Loaded
from inference.requests import text_of
from inference.rows import run
from reader.tag_schemes import entity_starts, inside
from reader.tagged_features import EncodeTagged, word_scores
from reader.tagged_text import JOINT, Sentence
from utils.errors import UserError


class Words(NamedTuple):
    """Words, and where they stand in the text; None where words were given."""

    words: list[str]
    text: str | None
    places: list[tuple[int, int]] | None


class Tag:
    """Args: model; max_seq_len: of a window."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self.engine = model.engine("tag")
        self.inside = inside(model.labels)
        # --official_compat: the first piece decides, even one that is a "▁" alone
        self.official = model.reading.get("official_compat", False)
        pieces = "all" if self.official else model.reading.get("label_pieces", "first")
        self.encode = EncodeTagged(model.tokenizer, max_seq_len, self.inside, pieces)

    def parse(self, request: dict) -> Words:
        if "words" not in request:
            text = text_of(request, "text")
            found = list(re.finditer(r"\S+", text))
            return Words([match[0] for match in found], text, [match.span() for match in found])
        words = request["words"]
        if not isinstance(words, list) or not words:
            raise UserError("'words' is no list of strings with something in it")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word.strip() or JOINT in word:
                raise UserError(f"'words': word {number} of {len(words)} is empty or no string")
        return Words(words, None, None)

    def answer(self, sentences: list[Words]) -> list[dict]:
        features = self.encode([Sentence(JOINT.join(sentence.words), None) for sentence in sentences])
        batch = self.encode.collate(features, np.arange(len(features)), 0)
        pads = batch.input_ids != self.model.config["pad_token_id"]
        rows = [ids[:length] for ids, length in zip(batch.input_ids, pads.sum(axis=1))]
        words = batch.words.copy()  # [W, 3], in the order of their windows
        if self.official:
            words[:, 2] = 1
        bounds = np.searchsorted(words[:, 0], np.arange(len(rows) + 1))  # a window's words
        words[:, 0] = 0
        labels = np.empty(len(words), np.int64)
        for numbers, _, outputs in run(self.engine, rows, self.model, self.batch_tokens):
            for number, logits in zip(numbers, outputs["logits"]):
                own = slice(*bounds[number : number + 2])
                scores = word_scores(logits[None].astype(np.float64), words[own], self.inside)
                labels[own] = scores.argmax(axis=-1)
        tags = [self.model.labels[label] for label in labels]
        answers, first = [], 0
        for sentence, length in zip(sentences, batch.lengths.tolist()):
            answers.append(self._answer(sentence, tags[first : first + length]))
            first += length
        return answers

    def _answer(self, sentence: Words, tags: list[str]) -> dict:
        found = []
        for kind, first, last in entities(tags):
            if sentence.places is None:
                found.append(
                    {"type": kind, "words": sentence.words[first:last], "first": first, "last": last}
                )
            else:
                start, end = sentence.places[first][0], sentence.places[last - 1][1]
                found.append({"type": kind, "text": sentence.text[start:end], "start": start, "end": end})
        return {"words": sentence.words, "tags": tags, "entities": found}


def entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word behind the last) of each; an I- that continues nothing begins one."""
    found = []
    for start in entity_starts(tags):
        kind, last = start.tag[2:], start.position + 1
        while last < len(tags) and tags[last] == f"I-{kind}":
            last += 1
        found.append((kind, start.position, last))
    return found
