"""Tags of words: {"words"} or {"text"} -> {"tags", "entities"}. A text is cut into words at white space.

A word's tag is found as in training: by its first piece, or by all of them (--label_pieces). Long sentences
are read in overlapping windows.
"""

import re
from typing import NamedTuple

from finetune.tagging import Tagging
from inference.engines import predictions
from inference.loading import Loaded
from inference.requests import text_of
from reader.tagging import JOINT, Sentence, entity_starts
from utils.errors import UserError


class Words(NamedTuple):
    """Words, and where they stand in the text; None where words were given."""

    words: list[str]
    text: str | None
    places: list[tuple[int, int]] | None


class Tag:
    """Args: model; max_seq_len: of a window."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int):
        self.task = Tagging.from_reading(model.reading, model.tokenizer, model.labels, max_seq_len)
        self.engine, self.batch_tokens = model.engine(self.task.name), batch_tokens

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
        features = self.task.encode([Sentence(JOINT.join(sentence.words), None) for sentence in sentences])
        found = predictions(self.task, self.engine, features, self.batch_tokens)
        return [self._answer(sentence, self.task.tags(tags)) for sentence, tags in zip(sentences, found)]

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
