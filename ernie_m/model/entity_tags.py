"""The schemes by which the labels of a tagger mark entities."""

import re
from collections.abc import Sequence

from ernie_m.utils.errors import UserError

# The letters that say where a word is in its entity -> those of IOBES. L and U are BILOU's, M is BMES's, W is
# BMEWO's.
PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_TAG = re.compile(r"([A-Za-z])[-_](.+)")
NO_ENTITIES = "NONE"  # a chunk_scheme


def entity_tags(labels: Sequence[str]) -> dict[str, str]:
    """The labels of a tagger -> their tags in the scheme IOBES, "O" or as in "B-PER".

    The schemes that are known are IOB, IOE, IOBES, BILOU, BMES and BMEWO in capital or small letters, and IO,
    in which a label is the name of a type. Labels without "O" and without letters before them, such as parts
    of speech, mark no entities: {}.

    Raises:
        UserError: some labels have the letters of a scheme, and others, which it names, do not.
    """
    outside = {label: "O" for label in labels if label in ("O", "o")}
    inside: dict[str, str] = {}  # a label with a letter before its type -> its tag
    others = []  # labels that are neither
    for label in labels:
        match = _TAG.fullmatch(label)
        place = PLACES.get(match[1].upper()) if match else None
        if place:
            inside[label] = f"{place}-{match[2]}"
        elif label not in outside:
            others.append(label)
    if inside and others:
        raise UserError(f"the labels {', '.join(others[:5])} are beside tags with B- or I-")
    if inside:
        return outside | inside
    if outside:  # the scheme IO
        return outside | {label: f"I-{label}" for label in others}
    return {}
