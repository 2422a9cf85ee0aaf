"""Which columns of a table hold pairs: the texts, and what judges them or divides the rows."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.columns import counted, is_number
from ernie_m.reader.files.table.form import Form, OpenedTable, Wanted
from ernie_m.reader.files.table.words import (
    ALIKE,
    CLASSES,
    EMPTY,
    ID,
    IN_LANGUAGE,
    LABEL,
    LANGUAGE,
    NEGATIVE,
    NOT_READ,
    NUMBERS,
    ONE,
    POSITIVE,
    QUERY,
    SECOND,
    SPLIT,
    TEXT,
    TEXTS,
    VERDICTS,
    purpose_of,
)
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.logging import logger

_NO_SIDE = (EMPTY, NUMBERS, LANGUAGE, SPLIT, ID, ONE)  # kinds of columns that a name does not make texts
# Those of the words for query and positive that say that the two are translations, beside languages.
_OF_TRANSLATIONS = {"source", "src", "source_sentence", "target", "tgt", "target_sentence", "translation"}
_FEW_ROWS = 5  # fewer do not tell that a column has one value
_MOST_SAID = 9  # columns that a line names


@dataclass(frozen=True)
class Columns:
    """Which columns of a file of pairs hold the texts.

    Attributes:
        form: how cells are written.
        skipped: the number of lines before the first row: a header, and Excel's sep=;.
        texts: the numbers of the columns, from 0: query, positive, negatives.
        width: the number of columns.
        split: the column that says which rows are for training.
        wanted: which rows are read; None: all.
        left_out: the other columns, for the log.
        are_translations: whether a header says that query and positive are translations of each other.
        chosen: whether the user named the columns.
    """

    form: Form
    skipped: int = 0
    texts: tuple[int, ...] = (0, 1)
    width: int = 2
    split: int | None = None
    wanted: Wanted | None = None
    left_out: str = ""
    are_translations: bool = False
    chosen: bool = False

    def log(self, path: str | os.PathLike) -> None:
        """Say which columns are not read, if there are any."""
        if self.left_out:
            query, positive, *_ = self.texts
            line = "%s: columns %d and %d are the pair; not read: %s"
            logger.info(line, path, query + 1, positive + 1, self.left_out)

    def texts_of(self, cells: Sequence[str]) -> tuple[list[str], str]:
        """The texts of a row without white space at both ends, and what is wrong with it, or ""."""
        texts = [cells[column].strip() for column in self.texts if column < len(cells)]
        # Negatives at the end may be missing; what the user named may have further columns beside it.
        may_be_short = self.chosen or len(self.texts) > 2
        fewest = max(self.texts[:2]) + 1 if may_be_short else self.width
        is_too_long = len(cells) > self.width and not self.chosen
        if len(cells) < fewest or is_too_long:
            return texts, f"{counted(len(cells))}, and others have {self.width}"
        fault = "" if all(texts) else "a text is empty"
        return texts, fault

    def is_read(self, cells: Sequence[str]) -> bool:
        """Whether a row is one to train on."""
        split = cells[self.split] if self.split is not None and self.split < len(cells) else ""
        return split.strip().lower() in ("", "train", "training")


def columns_of_pairs(table: OpenedTable, options: TableOptions, languages: Sequence[str] = ()) -> Columns:
    """Find the columns of the texts of a table.

    A header names them, or the content tells: columns of numbers, languages, ids or one value have no texts.
    The first column of texts is the query and the second one the positive; without a header further ones are
    negatives.

    Args:
        languages: names of columns in a header, in the order of the texts.

    Raises:
        UserError: there are no two columns of texts, it has to be asked which they are, or another column
            judges the pairs and no `options.only` says which of them are meant.
    """
    kinds = table.kinds
    names = table.folded or [""] * len(kinds)
    purposes = table.purposes
    for language, purpose in zip(languages, (QUERY, POSITIVE)):
        if language.lower() in names:
            purposes[names.index(language.lower())] = purpose
    if options.columns:
        texts = tuple(table.place(name.strip()) for name in options.columns.split(","))
        if len(texts) < 2 or len(set(texts)) < len(texts):
            raise UserError(
                f"--columns {options.columns}: it names query and positive, two different columns"
            )
    else:
        texts = _sides(table, purposes)
    left_out = [place for place in range(len(kinds)) if place not in texts]
    judges = [place for place in left_out if _judges(table, place, purposes[place])]
    if judges and not options.only:
        place = judges[0]
        name = table.names[place].strip() if table.names else str(place + 1)
        values = sorted({cells[place].strip() for cells in table.sample if len(cells) > place})
        example = f"'{name}>=0.8'" if kinds[place] == NUMBERS else f"'{name}={values[-1]}'"
        raise UserError(
            f"{table.path}, line {table.line}: column {place + 1} judges the pairs "
            f"({listed(values, 3)}); all would be trained on as equals; say which are: --only {example}, or "
            "--only all"
        )
    split = next((place for place in left_out if kinds[place] == SPLIT), None)
    named = {names[place] for place in texts[:2]}
    are_translations = all(name in _OF_TRANSLATIONS or purpose_of(name) == IN_LANGUAGE for name in named)
    return Columns(
        form=table.form or Form("\t", False),
        skipped=table.line if table.names else table.line - 1,
        texts=texts,
        width=len(kinds),
        split=split,
        wanted=table.wanted,
        left_out=listed([f"column {place + 1} ({kinds[place]})" for place in left_out], _MOST_SAID),
        are_translations=bool(table.names) and are_translations,
        chosen=bool(options.columns),
    )


def _judges(table: OpenedTable, place: int, purpose: str | None) -> bool:
    """Whether a column judges the pairs: by verdicts, or by scores of which some are much lower than others.

    The scores of mined pairs do not, because these are the best of many. Whole numbers without a name may be
    ids.

    Args:
        purpose: what the name of the column says of it; None: nothing, or it has no name.
    """
    kind = table.kinds[place]
    if kind == VERDICTS:
        return purpose in (LABEL, NUMBERS, None)
    is_score_by_name = purpose in (LABEL, NUMBERS) if table.names else purpose is None
    if not is_score_by_name or kind not in (NUMBERS, CLASSES):
        return False
    scores = [cells[place].strip().replace(",", ".") for cells in table.sample if len(cells) > place]
    numbers = [float(score) for score in scores if is_number(score)]
    may_be_ids = len(numbers) < len(scores) or all(number.is_integer() for number in numbers)
    if may_be_ids and not table.names:
        return False
    return not numbers or min(numbers) < max(numbers) / 3


def _sides(table: OpenedTable, purposes: Sequence[str | None]) -> tuple[int, ...]:
    """The places of query, positive and negatives.

    Raises:
        UserError: as `columns_of_pairs`.
    """
    kinds = table.kinds
    has_one_value = all(kind in (ONE, EMPTY) for kind in kinds)  # one row, again and again
    if has_one_value or len(table.sample) < _FEW_ROWS:
        kinds = [TEXTS if kind == ONE else kind for kind in kinds]
    usable = [place for place, kind in enumerate(kinds) if kind not in _NO_SIDE]
    places_of: dict[str | None, list[int]] = defaultdict(list)  # purpose -> columns
    for place in usable:
        places_of[purposes[place]].append(place)
    queries = places_of[QUERY]
    positives = places_of[POSITIVE]
    negatives = places_of[NEGATIVE]
    if not queries and len(places_of[TEXT]) == 1:
        queries = places_of[TEXT]
    if not positives and len(places_of[SECOND]) == 1:
        positives = places_of[SECOND]
    if not (queries and positives):  # they are the first columns of texts that have no name
        named = (*queries, *positives, *negatives)
        no_texts = (ID, NOT_READ, NUMBERS, LABEL, SPLIT, LANGUAGE)
        may_be_texts = [place for place in usable if place not in named and purposes[place] not in no_texts]
        wanted = 1 if queries or positives else 2
        texts: list[int] = []
        for kind in (TEXTS, ALIKE, CLASSES):  # the last: a few texts that repeat
            texts += [place for place in may_be_texts if kinds[place] == kind]
            if len(texts) >= wanted:
                break
        if not queries:
            queries, texts = texts[:1], texts[1:]
        if not positives:
            positives, texts = texts[:1], texts[1:]
        is_uneven = any(len(cells) != len(kinds) for cells in table.sample)  # negatives may be missing
        if is_uneven and not table.names:
            negatives = texts
        elif texts:
            numbers = listed([str(place + 1) for place in sorted(queries + positives + texts)], _MOST_SAID)
            raise UserError(
                f"{table.path}, line {table.line}: which columns are the pair, of {numbers}? say it, as in "
                f"--columns {queries[0] + 1},{positives[0] + 1}; negatives may follow"
            )
    if not (queries and positives):
        found = listed([f"column {place + 1}: {kind}" for place, kind in enumerate(kinds)], _MOST_SAID)
        raise UserError(
            f"{table.path}, line {table.line}: no two columns of texts ({found}); give query, tab, positive "
            "on each line, or name the columns: --columns 1,2"
        )
    return queries[0], positives[0], *negatives
