"""TMX files (Translation Memory eXchange 1.4b) as lines of two cells."""

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO
from xml.etree.ElementTree import ParseError, XMLParser

from utils.errors import UserError

_BLOCK = 1 << 16  # bytes that are parsed at a time
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # xml:lang
_CODES = {"bpt", "ept", "it", "ph", "ut"}  # elements in a text that hold the formatting of another program


class TmxRows(io.RawIOBase):
    """The bytes of a text with one line for each unit of a TMX file: one language, tab, the other language.

    The line of a unit without one of the languages has an empty cell. White space in a text becomes a space.

    Args:
        file: the XML.
        path: its name, for errors.
        languages: the two in their order, as in ("en", "pt_BR"); "en" also takes en-GB. (): the first two of
            the first unit.

    Raises:
        UserError: when it is read: it is no TMX, or no unit has both languages.
    """

    def __init__(self, file: BinaryIO, path: str, languages: Sequence[str]):
        self._file = file  # without this it would be closed when the last unit is read
        self._rows = _rows(file, path, list(languages))
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._rest:
            self._rest = next(self._rows, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Units:
    """What the parser finds, as the target of an `XMLParser`.

    Attributes:
        ended: the units that have ended: language -> text.
    """

    def __init__(self):
        self.ended: list[dict[str, str]] = []
        self._texts: dict[str, str] = {}  # of the unit
        self._language = ""
        self._parts: list[str] | None = None  # of the text; None outside of one
        self._codes = 0  # how many of the elements around this place are of `_CODES`

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]  # without a namespace
        if name == "tu":
            self._texts = {}
        elif name == "tuv":
            self._language = attributes.get(_LANGUAGE) or attributes.get("lang") or ""
        elif name == "seg":
            self._parts = []
        elif name in _CODES:
            self._codes += 1

    def data(self, text: str) -> None:
        if self._parts is not None and not self._codes:
            self._parts.append(text)

    def end(self, tag: str) -> None:
        name = tag.rpartition("}")[2]
        if name == "seg":
            self._texts.setdefault(self._language, " ".join("".join(self._parts or ()).split()))
            self._parts = None
        elif name == "tu":
            self.ended.append(self._texts)
        elif name in _CODES:
            self._codes -= 1


def _rows(file: BinaryIO, path: str, languages: list[str]) -> Iterator[bytes]:
    """The lines of `TmxRows`."""
    units = _Units()
    parser = XMLParser(target=units)  # expat refuses entities that would make a small file endless
    line = 1
    has_both = False
    is_end = False
    while not is_end:
        block = file.read(_BLOCK)
        is_end = not block
        try:
            if is_end:
                parser.close()
            else:
                parser.feed(block)
        except (ParseError, ValueError, LookupError) as error:  # the last two: an encoding that is not known
            line, _ = getattr(error, "position", (line, 0))
            raise UserError(f"{path}, line {line}: no whole TMX ({error}); fetch it again") from error
        for texts in units.ended:
            languages = languages or list(texts)[:2]
            sides = [_side(texts, language) for language in languages]
            has_both = has_both or (len(sides) == 2 and all(sides))
            yield "\t".join(sides).encode() + b"\n"
        units.ended.clear()
        line += block.count(b"\n")
    if not has_both:
        missing = " and in ".join(languages) or "two languages"
        raise UserError(
            f"{path}, line {line}: no unit has a text in {missing}; name the languages as the file does, in "
            "en-de<=PATH"
        )


def _side(texts: dict[str, str], language: str) -> str:
    """The text of a language, or of one of its regions; "" if there is none."""
    wanted = language.lower().replace("_", "-")
    for name, text in texts.items():
        found = name.lower().replace("_", "-")
        if found == wanted or found.split("-")[0] == wanted:
            return text
    return ""
