"""Tags that mark entities: IOB1, IOB2, and how conlleval reads either.

    words   U.N.   official  Ekeus   heads    for      Baghdad
    IOB1    I-ORG  O         I-PER   O        O        I-LOC     B- only parts two neighbours of one type
    IOB2    B-ORG  O         B-PER   O        O        B-LOC     B- begins every entity

An entity begins at each B-, and at an I- whose type is not that of the word before. That is conlleval's
reading; it gives every sequence of tags, regular or not, one meaning.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from utils.errors import UserError

OUTSIDE = "O"
SCHEMES = ("IOB", "IOB1", "IOB2")  # IOB: a file is either, as a whole


class Start(NamedTuple):
    """The first word of an entity. `adjoins`: the word before it is of an entity of the same type."""

    position: int
    tag: str
    adjoins: bool


def entity_starts(tags: Sequence[str]) -> Iterator[Start]:
    """Where entities begin, as conlleval reads the tags of one sentence."""
    before = ""
    for position, tag in enumerate(tags):
        type_ = tag[2:]  # nothing for O
        if type_ and (tag[0] == "B" or type_ != before):
            yield Start(position, tag, type_ == before)
        before = type_


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2."""
    written = list(tags)
    for start in entity_starts(tags):
        written[start.position] = f"B-{start.tag[2:]}"
    return written


def inside(labels: Sequence[str]) -> list[int]:
    """Of each label, by its id, that of a further piece of a word: I-X for B-X and I-X; else its own."""
    ids = {label: id_ for id_, label in enumerate(labels)}
    return [ids.get(f"I-{label[2:]}", id_) for id_, label in enumerate(labels)]


def is_tag(tag: str) -> bool:
    """Whether it is O, or B- or I- with a type after it."""
    return tag == OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2)


class SchemeCheck:
    """Finds the first tag of a file that its scheme does not have.

    Args:
        scheme: one of `SCHEMES`.
        path: of the file, for messages.
    """

    def __init__(self, scheme: str, path: str | os.PathLike):
        self.scheme, self.path = scheme, path
        self._first: dict[str, str] = {}  # "I", "B" -> where an entity began in a way only one scheme has

    def add(self, tags: Sequence[str], line_number: int) -> None:
        """Check one sentence.

        Raises:
            UserError: names the file, the line, the token.
        """
        for position, tag, adjoins in entity_starts(tags):
            if tag[0] == "B" and adjoins:
                continue  # the same in both schemes
            place = f"line {line_number}, token {position + 1}: {tag} begins an entity"
            self._first.setdefault(tag[0], place)
            other = self._first.get("B" if tag[0] == "I" else "I")
            fault = None
            if self.scheme == "IOB2" and tag[0] == "I":
                fault = f"which IOB2 (--chunk_scheme) writes B-{tag[2:]}"
            elif self.scheme == "IOB1" and tag[0] == "B":
                fault = f"which IOB1 (--chunk_scheme) writes I-{tag[2:]}"
            elif self.scheme == "IOB" and other is not None:
                fault = f"but {other}: neither IOB1 nor IOB2"
            if fault:
                raise UserError(
                    f"{self.path}, {place}, {fault}; scripts/data/prepare_conll.py rewrites such a file"
                )


def check_tag_map(label_map: Mapping[str, int], path: str | os.PathLike) -> None:
    """Check that a label map is one of tags: B- and I- of each type, and O with the last id.

    Raises:
        UserError: names the file and the label.
    """
    for tag in label_map:
        if not is_tag(tag):
            raise UserError(f"{path}: the label '{tag}' is not O, B-<type> or I-<type>")
        other = ("I-" if tag[0] == "B" else "B-") + tag[2:]
        if tag != OUTSIDE and other not in label_map:
            raise UserError(f"{path}: there is {tag} but no {other}; each type has both")
    if label_map.get(OUTSIDE) != len(label_map) - 1:
        found = "is not there" if OUTSIDE not in label_map else f"has the id {label_map[OUTSIDE]}"
        raise UserError(
            f"{path}: O {found}; it must have the last id, {len(label_map) - 1}: B- and I- first, O last"
        )
