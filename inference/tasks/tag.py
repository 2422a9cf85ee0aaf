"""Tags of words: {"words"} or {"text"} -> {"tags", "entities"}. A text is cut into words at white space.

The tag of a word is that of its first piece. Long sentences are read in overlapping windows, as in training.
"""

import re
from typing import NamedTuple

import numpy as np

from inference.loading import Loaded
from inference.requests import text_of
from inference.rows import run
from reader.tagged_features import EncodeTagged
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
        self.encode = EncodeTagged(model.tokenizer, max_seq_len, range(len(model.labels)))

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
        best: list[np.ndarray] = [np.empty(0)] * len(rows)  # of each window, the label of each piece
        for numbers, _, outputs in run(self.engine, rows, self.model, self.batch_tokens):
            for number, logits in zip(numbers, outputs["logits"]):
                best[number] = logits.argmax(axis=-1)
        tags = [self.model.labels[int(best[row][start])] for row, start, _ in batch.words]
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
    found: list[tuple[str, int, int]] = []
    open_type = ""
    for number, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if not kind:
            open_type = ""
        elif mark == "B" or kind != open_type:
            found.append((kind, number, number + 1))
            open_type = kind
        else:
            found[-1] = (kind, found[-1][1], number + 1)
    return found
