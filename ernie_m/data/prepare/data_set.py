"""What a public data set is: the names of its files, and how one of them is read."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.rows import TableOptions

SPLITS = ("train", "dev", "test", "xquad")
# Names in the files of the releases -> names here.
RENAMED = {
    "testa": "dev",
    "testb": "test",
    "translated_train": "train",
    "dev_2k": "dev",
    "test_2k": "test",
    "eng": "en",
    "deu": "de",
    "esp": "es",
    "ned": "nl",
}
# Parts of the patterns of `DataSet.names`.
SPLIT = "(?P<split>train|dev|test)"
LANGUAGE = r"(?P<language>(?!all\b)[a-z]{2,3})"


class DataFile(NamedTuple):
    """An input file. If its language is None, its rows name their languages."""

    path: Path
    split: str
    language: str | None
    options: TableOptions | None = None


class Prepared(NamedTuple):
    """What an input file has of a language.

    Attributes:
        content: the file to write.
        labels: all labels of its rows; () for questions.
        counts: column of the printed table, such as "rows" -> its number.
    """

    language: str
    content: bytes
    labels: Sequence[str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    languages: Sequence[str]  # in the order of the paper's tables; others follow in alphabetical order
    names: Sequence[str]  # patterns of the end of a path, with the groups "split" (train) and "language"
    read: Callable[[DataFile], Iterable[Prepared]]
    label_names: Callable[[set[str]], Sequence[str]] = sorted  # all labels -> in the order of their ids
    ending: str = "tsv"

    def recognise(self, path: Path) -> DataFile | None:
        """The file with the split and the language that its name says; None if the name is not known."""
        for pattern in self.names:
            # A pattern may begin with the name of the folder.
            match = re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}")
            if match:
                # A pattern of training files alone has no group of splits.
                groups = {"split": "train", "language": None, **match.groupdict()}
                renamed = {group: RENAMED.get(name, name) for group, name in groups.items()}
                return DataFile(path, **renamed)
        return None

    def place(self, key: tuple[str, str]) -> tuple[int, int, str]:
        """A sort key for (split, language)."""
        split, language = key
        # A language that is not listed comes after all that are.
        place = self.languages.index(language) if language in self.languages else len(self.languages)
        return SPLITS.index(split), place, language
