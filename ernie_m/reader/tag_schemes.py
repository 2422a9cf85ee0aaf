"""Tagging schemes of entities, detected from the tags of a file or a model.

    words   U.N.   official  Ekeus   heads    for      Baghdad
    IO      I-ORG  O         I-PER   O        O        I-LOC     every word of an entity has I-
    IOB1    I-ORG  O         I-PER   O        O        I-LOC     B- only between two neighbors of one type
    IOB2    B-ORG  O         B-PER   O        O        B-LOC     B- at the beginning of every entity
    IOE     E-ORG  O         E-PER   O        O        E-LOC     E- at the end of every entity, I- before it
    IOBES   S-ORG  O         S-PER   O        O        S-LOC     B-, I-, E-; S- is an entity of one word
    NONE    PROPN  ADJ       PROPN   VERB     ADP      PROPN     tags that do not mark entities

An entity begins at each B-, and at an I- whose type differs from that of the previous word, as in conlleval.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ernie_m.utils.errors import UserError

OUTSIDE = "O"
JOINT = "\x02"  # delimiter of words, and of tags, in the official format
ENTITIES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order
# scheme -> letters of its tags; IOB: IOB1 or IOB2
SCHEMES = {"IO": "I", "IOB": "BI", "IOE": "IE", "IOBES": "BIES", "NONE": ""}


def find_entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the (type, first word, last word) of each entity, by the rules of conlleval.

    The tags are in the scheme IO, IOB, IOE or IOBES. Also in invalid sequences, an I- or E- continues an
    entity only after a B- or I- of the same type; otherwise it begins an entity.

    For tags without prefixes, the result is that of `get_entities` of seqeval 1.2.2, which XTREME's
    evaluate.py calls. seqeval takes the first letter of a tag as the prefix and the rest as the type: NOUN is
    N-OUN. The consequences are kept, so that scores are comparable:
      A run of equal tags is one chunk.
      Each SCONJ and SYM is a separate chunk, because S- is a chunk of one word in IOBES.
      SCONJ and CCONJ have the same type, CONJ.
      X has the empty type of O: no chunk ends at an X before an O, and none begins at an X after an O.
    """
    spans = set()
    first = 0  # the first word of the current entity
    last_prefix = "O"
    last_type = ""
    for index, tag in enumerate([*tags, "O"]):  # the last O ends an entity at the end
        prefix = tag[0]
        # "OUN" of NOUN; the part after "-" if there is one; "_" is seqeval's empty type.
        type_ = tag[1:].split("-", 1)[-1] or "_"
        is_other_type = type_ != last_type
        # There are two prefixes outside of entities, "O" and ".".
        ends_before = last_prefix in "ES" or (last_prefix in "BI" and prefix in "BSO")
        starts_here = prefix in "BS" or (last_prefix in "ESO" and prefix in "EI")
        if ends_before or (is_other_type and last_prefix not in "O."):
            spans.add((last_type, first, index - 1))
        if starts_here or (is_other_type and prefix not in "O."):
            first = index
        last_prefix = prefix
        last_type = type_
    return spans


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Convert entity tags of any scheme that `find_entities` supports to IOB2."""
    iob2 = [f"I-{tag[2:]}" if tag[2:] else tag for tag in tags]  # O has no type
    for type_, first, _last in find_entities(tags):
        iob2[first] = f"B-{type_}"
    return iob2


def get_inside_labels(labels: Sequence[str]) -> list[int]:
    """Return, for each label id, the label id of a word's tokens after the first: I-X for B-X.

    Other labels map to themselves.

    Args:
        labels: the names of the labels, in the order of their ids.
    """
    ids = {label: id_ for id_, label in enumerate(labels)}
    return [ids.get(f"I-{label[2:]}", id_) for id_, label in enumerate(labels)]  # no label is just "I-"


def make_tag_names(entity_types: Collection[str]) -> list[str]:
    """Return the IOB2 tags of entity types in the official order: B- and I- of every type, and then O."""
    in_order = [type_ for type_ in ENTITIES if type_ in entity_types] + sorted(
        set(entity_types) - set(ENTITIES)
    )
    return [*(f"{letter}-{type_}" for type_ in in_order for letter in "BI"), OUTSIDE]


def check_tag_map(label_map: Mapping[str, int], path: str | os.PathLike) -> None:
    """Check that the labels of a tagging task are IOB2 tags.

    Args:
        label_map: tag -> id.
        path: the file of the label map, for errors.

    Raises:
        UserError: B- or I- of a type is missing, or O does not have the last id.
    """
    for tag in label_map:
        if tag == OUTSIDE:
            continue
        type_ = tag[2:]
        both = {f"B-{type_}", f"I-{type_}"}
        if not type_ or tag not in both or not both <= label_map.keys():
            raise UserError(
                f"{path}: invalid label '{tag}' (expected B-<type> and I-<type> of each type). For tags "
                "that do not mark entities, set --chunk_scheme NONE"
            )
    if label_map.get(OUTSIDE) != len(label_map) - 1:
        raise UserError(f"{path}: invalid id of O (expected the last one, {len(label_map) - 1})")


# Letters for the position of a word in its entity -> letters of IOBES. L and U are from BILOU, M from BMES, W
# from BMEWO.
_POSITIONS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_PREFIX = re.compile("(?P<position>[BIMELSUW])[-_](?P<type>(?!o$).+)", re.IGNORECASE)
_SUFFIX = re.compile("(?P<type>.+)[-_](?P<position>[BIMELSUW])", re.IGNORECASE)
_OUTSIDE = re.compile("[BI][-_]O", re.IGNORECASE)
NO_ENTITIES: Final = "NONE"  # a chunk_scheme
PARTS_OF_SPEECH: Final = "parts-of-speech"  # --task of `fit`: tags do not mark entities


def is_entity_tag(tag: str) -> bool:
    """Return whether a tag is O, or a prefix of any scheme, "-" or "_", and a type, as in B-PER or l_LOC."""
    return tag == OUTSIDE or _PREFIX.fullmatch(tag) is not None


def map_labels_to_iobes(labels: Collection[str]) -> dict[str, str]:
    """Return label -> IOBES tag, such as "O" or "B-PER"; {} if the labels do not mark entities.

    Supports IOB, IOE, IOBES, BILOU, BMES and BMEWO, with the prefix in upper or lower case, before or after
    the type, and IO without prefixes. Labels do not mark entities if "O" is missing and some have no prefix,
    such as parts of speech. If there are "O" and labels with prefixes, labels without a prefix are ignored.
    Without "O", "I-O" or "B-O" is the tag outside of entities.
    """
    outside = dict.fromkeys({"O", "o"} & {*labels} or filter(_OUTSIDE.fullmatch, labels), "O")
    others = [label for label in labels if label not in outside]
    for pattern in (_PREFIX, _SUFFIX):
        matches = {label: match for label in others if (match := pattern.fullmatch(label))}
        types = {match["type"] for match in matches.values()}
        are_mixed = pattern is _PREFIX and (outside or not types.isdisjoint(others))
        if matches and (len(matches) == len(others) or are_mixed):
            tags = {
                label: f"{_POSITIONS[match['position'].upper()]}-{match['type']}"
                for label, match in matches.items()
            }
            return outside | tags
    return outside | {label: f"I-{label}" for label in others if outside}  # the scheme IO
