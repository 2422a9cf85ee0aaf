"""The schemes by which tags mark entities: the labels of a model, and the tags of a file."""

import re
from collections.abc import Collection

# The letters that say where a word is in its entity -> those of IOBES. L and U are BILOU's, M is BMES's, W is
# BMEWO's.
_PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_BEFORE = re.compile("(?P<place>[BIMELSUW])[-_](?P<type>.+)", re.IGNORECASE)
_BEHIND = re.compile("(?P<type>.+)[-_](?P<place>[BIMELSUW])", re.IGNORECASE)
NO_ENTITIES = "NONE"  # a chunk_scheme


def entity_tags(labels: Collection[str]) -> dict[str, str]:
    """Labels or tags -> the same in the scheme IOBES, "O" or as in "B-PER"; {} if they mark no entities.

    The schemes that are known are IOB, IOE, IOBES, BILOU, BMES and BMEWO, in capital or small letters before
    the type or behind it, and IO, in which a label is the name of a type. Labels without "O", of which some
    have no letter, mark no entities, such as parts of speech. Beside "O" and letters, others are left out.
    """
    outside = {label: "O" for label in labels if label in ("O", "o")}
    others = [label for label in labels if label not in outside]
    for pattern in (_BEFORE, _BEHIND):
        matches = {label: match for label in others if (match := pattern.fullmatch(label))}
        if matches and (len(matches) == len(others) or (outside and pattern is _BEFORE)):
            tags = {
                label: f"{_PLACES[match['place'].upper()]}-{match['type']}"
                for label, match in matches.items()
            }
            return outside | tags
    return outside | {label: f"I-{label}" for label in others if outside}  # the scheme IO
