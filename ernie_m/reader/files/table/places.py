"""Which columns of a table have the texts, and which the labels."""

import re
import shlex
from collections.abc import Sequence

from ernie_m.reader.files.labels import number_in
from ernie_m.reader.files.table.form import OpenedTable
from ernie_m.reader.files.table.given_labels import NO, YES
from ernie_m.reader.files.table.words import (
    ALIKE,
    CLASSES,
    EMPTY,
    ID,
    IN_LANGUAGE,
    LABEL,
    LANGUAGE,
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
)
from ernie_m.utils.errors import UserError

NO_TEXT = (EMPTY, NUMBERS, LANGUAGE, SPLIT, ID)  # kinds of columns that a name does not make texts
# Names of columns of a table with a word in each row.
_OF_WORDS, _OF_TAGS = {"word", "words", "token", "tokens"}, {"tag", "tags", "ner_tag", "ner_tags"}
_FEW_ROWS = 10  # fewer do not tell what a column holds; then its place does


def names_of(table: OpenedTable) -> list[str]:
    """The names of the columns, or "column 1", ..."""
    return table.names or [f"column {number}" for number in range(1, len(table.kinds) + 1)]


def find_places(
    table: OpenedTable, names: str | None, labels: bool, multi_label: bool = False, regression: bool = False
) -> tuple[list[int], list[int]]:
    """The places of the text, perhaps a second text; and of the label, or of several that are 0 or 1.

    Args:
        names: of the columns, in this order; None: they are found.

    Raises:
        UserError: the header does not have the wanted columns, or it is not clear which are meant.
    """
    if names:
        given = [table.place(name.strip()) for name in names.split(",")]
        if not labels:
            return given[:2], []
        if len(given) < 2 or (len(given) > 3 and not multi_label):
            raise UserError(f"--columns {names}: it names text, perhaps a second text, and label")
        has_each = multi_label and all(_says_yes_or_no(table, place) for place in given[1:])
        if len(given) > 3 and not has_each:
            raise UserError(
                f"--columns {names}: behind the text a column for each label has 1 and 0, or x and nothing"
            )
        is_pair = len(given) == 3 and not has_each
        texts, label_places = (given[:2], given[2:]) if is_pair else (given[:1], given[1:])
        if len(label_places) > 1 and not table.names:
            raise UserError(
                f"{table.path}, line {table.line}: a column for each label needs its name; add a header"
            )
        return texts, label_places
    if labels:
        _refuse_words(table)
    label_places = possible_labels(table, multi_label, regression) if labels else []
    texts = _texts(table, label_places, labels, regression)
    if labels and not table.names and (len(texts) != 1 or len(label_places) != 1):
        # Of two columns the first has the texts, if there are few rows, or fewer values in the second.
        kept = [place for place, kind in enumerate(table.kinds) if kind not in (EMPTY, LANGUAGE, SPLIT)]
        if len(kept) > 2:
            kept = [place for place in kept if table.kinds[place] not in (NUMBERS, ID, ONE)]
        value_counts = [len({cells[place] for cells in table.sample}) for place in kept]
        if len(kept) == 2 and (len(table.sample) < _FEW_ROWS or value_counts[1] < value_counts[0]):
            return kept[:1], kept[1:]
    has_each = multi_label and all(_says_yes_or_no(table, place) for place in label_places)
    are_labels_clear = not labels or len(label_places) == 1 or (has_each and label_places)
    is_pair = len(texts) == 2 and table.purposes[texts[1]] in (SECOND, POSITIVE)
    are_texts_clear = len(texts) == 1 or is_pair
    if not are_labels_clear or not are_texts_clear:
        _ask(table, texts, label_places, labels)
    return texts, label_places


def _refuse_words(table: OpenedTable) -> None:
    """Refuse a table with a word of a sentence and its tag in each row.

    Raises:
        UserError: the names of its columns say so, and its cells are single words.
    """
    words = [place for place, name in enumerate(table.folded) if name in _OF_WORDS]
    tags = [place for place, name in enumerate(table.folded) if name in _OF_TAGS]
    cells = [row[place] for row in table.sample for place in words]
    are_single = all(len(cell.split()) < 2 for cell in cells)
    if tags and are_single and any(number_in(cell) is None for cell in cells):
        columns = shlex.quote(",".join(table.names[place] for place in (words[0], tags[0])))
        raise UserError(
            f"{table.path}, line {table.line}: words of sentences are not read from a table; write each word "
            "and its tag on a line, a space between them, and a blank line behind each sentence. If a row is "
            f"a text of its own, name the columns: --columns {columns}"
        )


def possible_labels(table: OpenedTable, multi_label: bool, regression: bool) -> list[int]:
    """The places of the columns that may be the label."""
    kinds, purposes = table.kinds, table.purposes
    exact = [place for place, name in enumerate(table.folded) if name in ("label", "labels", "gold_label")]
    wanted = (LABEL, NUMBERS) if regression else (LABEL,)
    named = [place for place, purpose in enumerate(purposes) if purpose in wanted and kinds[place] != EMPTY]
    if regression:
        numeric = [place for place in named if kinds[place] in (NUMBERS, CLASSES, VERDICTS, ONE)]
        named = numeric or named
    for found in (exact, named):
        if len(found) == 1 or (found and not multi_label):
            return found
    # The columns whose values repeat, or, for numbers, that hold numbers.
    others = (ID, LANGUAGE, SPLIT, TEXT, SECOND, QUERY)
    repeating = (NUMBERS, CLASSES, VERDICTS) if regression else (CLASSES, VERDICTS)
    found = [place for place, kind in enumerate(kinds) if kind in repeating and purposes[place] not in others]
    found = [place for place in found if purposes[place] != NOT_READ] or found
    if regression:  # "86 %" is none, but may have been meant as one
        begins = re.compile(r"\s*[+-]?[.,]?\d")
        columns = _columns_of_labels(table, found)
        numbers = {place for place in found if any(begins.match(row[place]) for row in table.sample)}
        found = sorted(numbers.union(columns)) or found
    elif any(_has_words(table, place) for place in found):  # queries, perhaps, and numbers are their scores
        found += [place for place, kind in enumerate(kinds) if kind == NUMBERS and not purposes[place]]
    if not found and not multi_label:  # the label may be the language of the text
        found = [place for place, kind in enumerate(kinds) if kind == LANGUAGE and purposes[place] is None]
    columns = _columns_of_labels(table, found)
    if multi_label and columns:
        # That of a rare label may hold a single value here, or nothing. One of classes may have all labels.
        of_rare = (ONE, EMPTY) if any(_has_marks(table, place) for place in columns) else (ONE,)
        free = [place for place, name in enumerate(table.names) if name.strip() and _is_free(purposes[place])]
        rare = [place for place in free if kinds[place] in of_rare and _says_yes_or_no(table, place)]
        return sorted({*rare, *columns, *found})
    return found


def _columns_of_labels(table: OpenedTable, found: Sequence[int]) -> list[int]:
    """The places of the columns of which each says whether a row has one label; none: there is none, or one.

    Args:
        found: those of columns whose values repeat.
    """
    columns = [place for place in found if table.kinds[place] == VERDICTS]
    columns += [
        place
        for place, purpose in enumerate(table.purposes)
        if _is_free(purpose) and _has_marks(table, place)
    ]
    return columns if table.names and len(columns) > 1 else []


def _is_free(purpose: str | None) -> bool:
    """Whether a column may be for a label: its name says nothing, or only looks like a language, as IT."""
    return purpose in (None, IN_LANGUAGE)


def _has_words(table: OpenedTable, place: int) -> bool:
    """Whether a cell of a column has several words."""
    return any(" " in row[place].strip() for row in table.sample)


def _says_yes_or_no(table: OpenedTable, place: int) -> bool:
    """Whether most cells of a column say yes or no."""
    say = [row[place].strip().lower() in YES | NO for row in table.sample]
    return 2 * sum(say) >= len(say)


def _has_marks(table: OpenedTable, place: int) -> bool:
    """Whether cells of a column are blank, and most of the others say yes, as x."""
    cells = [row[place].strip().lower() for row in table.sample]
    given = [cell for cell in cells if cell]
    return len(given) < len(cells) and 2 * sum(cell in YES for cell in given) > len(given)


def _texts(
    table: OpenedTable, label_places: Sequence[int], labels: bool, regression: bool = False
) -> list[int]:
    """The places of the columns that may be the text, or the two texts of a pair."""
    kinds, purposes, names = table.kinds, table.purposes, table.folded
    free = [place for place in range(len(kinds)) if place not in label_places]
    usable = [place for place in free if kinds[place] not in NO_TEXT]
    for first, second in ((TEXT, SECOND), (QUERY, POSITIVE)):
        texts = [place for place in usable if purposes[place] == first]
        seconds = [place for place in usable if purposes[place] == second]
        official = [place for place in texts if names[place] == "text_a"]
        exact = [place for place in texts if names[place] == "text"]
        texts = official or texts
        if exact and not official and not seconds:
            texts = exact
        if len(texts) == 1 and len(seconds) == 1:
            is_other = official and names[seconds[0]] != "text_b"  # text_a has no other second text
            return texts if is_other else texts + seconds
        if texts and (first == TEXT or len(texts) > 1):
            return texts
    not_named = (ID, LANGUAGE, SPLIT, NOT_READ, LABEL, NUMBERS)
    if regression:  # a query may stand in many rows, and look like a class
        repeated = {place for place in free if kinds[place] in (ALIKE, CLASSES) and _has_words(table, place)}
        kinds = [TEXTS if place in repeated else kind for place, kind in enumerate(kinds)]
    may_repeat = not labels or not table.names  # then a few texts may look like classes
    for kind in (TEXTS, ALIKE, CLASSES) if may_repeat else (TEXTS, ALIKE):
        found = [place for place in free if kinds[place] == kind and purposes[place] not in not_named]
        if found:
            return found
    return []


def _ask(table: OpenedTable, texts: Sequence[int], label_places: Sequence[int], labels: bool) -> None:
    """Ask which columns are meant.

    Raises:
        UserError: always.
    """
    names = table.names or list(map(str, range(1, len(table.kinds) + 1)))
    places_of = {"text": texts, "label": label_places} if labels else {"text": texts}
    guesses, example = [], []
    for what, places in places_of.items():
        is_there = f"the {what} may be {table.called(places)}"
        guesses.append(is_there if places else f"no column looks like {what}s")
        example.append(names[places[0]].strip() if places else what.upper())
    ways = [f"--columns {shlex.quote(','.join(example))}"]
    if len(texts) == 2:
        pair = ",".join([example[0], names[texts[1]].strip(), *example[1:]])
        ways.append(f"for pairs of texts --columns {shlex.quote(pair)}")
    if _columns_of_labels(table, label_places):
        ways.append("--multi_label true for a column of each label")
    raise UserError(
        f"{table.path}, line {table.line}: {', and '.join(guesses)}; say which, as in {', or '.join(ways)}"
    )
