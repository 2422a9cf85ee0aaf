"""The distinct lines of a text file, for mining."""

from pathlib import Path

from ernie_m.reader.equal_texts import normalize_text
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.find_files import split_language_prefix
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

PART_LINES = 16_384  # lines between two progress updates


class DistinctLines:
    """The distinct, non-blank lines of a text file.

    Lines are equal if their normalized texts are (`normalize_text`). Tabs become spaces, because tabs
    separate the columns of the output.

    Args:
        file: the path of the file, or "language<=path".
        skip_text_checks: whether to skip the text checks.

    Attributes:
        language: the language of the file; "" if not specified.
        numbers: normalized text -> number of the first line with this text, from 1.
        texts: the distinct texts, in the same order.

    Raises:
        UserError: the file is missing, empty, not UTF-8, not text, or has only blank lines.
    """

    def __init__(self, file: str, skip_text_checks: bool):
        label, path = split_language_prefix(file)
        self.language = label or ""
        if "<=" in path:
            raise UserError(f"{file}: expected one file. Run the command once for each language")
        self.path = Path(path)
        self.numbers: dict[str, int] = {}
        self.texts: list[str] = []
        number = 0
        for number, line in enumerate(Sentences(path, skip_text_checks), 1):
            form = normalize_text(line.text_a)
            if form and self.numbers.setdefault(form, number) == number:
                self.texts.append(line.text_a.strip().replace("\t", " "))
        if not self.texts:
            raise UserError(f"{path}: all lines are blank (expected one sentence per line)")
        logger.info("%s: %s lines, %s distinct", path, f"{number:,}", f"{len(self.texts):,}")
