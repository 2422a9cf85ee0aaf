"""TMX files (Translation Memory eXchange 1.4b) as lines of two cells."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError, iterparse

from ernie_m.utils.errors import UserError

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # xml:lang
_CODES = {"bpt", "ept", "it", "ph", "ut"}  # elements in a text that hold the formatting of another program


def rows_of_tmx(file: BinaryIO, path: str, languages: Sequence[str]) -> Iterator[bytes]:
    """A line for each unit of a TMX file: one language, tab, the other language.

    The line of a unit without one of the languages has an empty cell. White space in a text becomes a space.

    Args:
        file: the XML.
        path: its name, for errors.
        languages: the two in their order, as in ("en", "pt_BR"); "en" also takes en-GB. (): the first two of
            the first unit.

    Raises:
        UserError: it is no TMX, or no unit has both languages.
    """
    has_both = False
    body: Element | None = None  # what the units are in
    try:
        # expat, below it, refuses entities that would make a small file endless.
        for event, element in iterparse(file, ("start", "end")):
            name = _name(element)
            if event == "start":
                body = element if body is None or name == "body" else body
            elif name in _CODES:
                element.text = None
                del element[:]
            elif name == "tu":
                texts = _texts(element)
                languages = languages or list(texts)[:2]
                sides = [_side(texts, language) for language in languages]
                has_both = has_both or (len(sides) == 2 and all(sides))
                yield "\t".join(sides).encode() + b"\n"
                body.clear()  # the units so far
    except (ParseError, ValueError, LookupError) as error:  # the last two: an encoding that is not known
        line, _ = getattr(error, "position", (1, 0))
        raise UserError(f"{path}, line {line}: no whole TMX ({error}); fetch it again") from error
    if not has_both:
        missing = " and in ".join(languages) or "two languages"
        raise UserError(
            f"{path}: no unit has a text in {missing}; name the languages as the file does, in en-de<=PATH"
        )


def _name(element: Element) -> str:
    """The name of an element without a namespace."""
    return element.tag.rpartition("}")[2]


def _texts(unit: Element) -> dict[str, str]:
    """Language -> the text of a unit."""
    texts: dict[str, str] = {}
    for variant in unit:
        language = variant.get(_LANGUAGE) or variant.get("lang") or ""
        for element in variant:
            if _name(element) == "seg":
                texts.setdefault(language, " ".join("".join(element.itertext()).split()))
    return texts


def _side(texts: dict[str, str], language: str) -> str:
    """The text of a language, or of one of its regions; "" if there is none."""
    wanted = language.lower().replace("_", "-")
    for name, text in texts.items():
        found = name.lower().replace("_", "-")
        if wanted in (found, found.split("-")[0]):
            return text
    return ""
