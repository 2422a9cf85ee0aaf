"""CoNLL and PAN-X: words with tags that mark entities."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ernie_m.data.prepare.data_set import LANGUAGE, SPLIT, DataFile, DataSet, Prepared, read_lines
from ernie_m.model.checkpoint.conventions import PLACES
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.tagged_sentences import JOINT, read_columns
from ernie_m.reader.tags import OUTSIDE, entity_starts, is_tag, to_iob2
from ernie_m.utils.errors import UserError

COMMENT = re.compile(r"# *id\b|#.*=")  # a line before a sentence in MultiCoNER, or in CoNLL-U
ENTITIES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order


def read_tags(file: DataFile) -> Iterator[Prepared]:
    """Sentences in IOB2. The first column is the word and the last its tag, read as conlleval reads it.

    Raises:
        UserError: the number of columns changes, a tag is none, or there is no sentence.
    """
    lines = read_lines(file.path, or_latin=True)
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    # Of each sentence, the number of its first line, and the cells of its lines.
    sentences = list(read_columns(lines, file.path, _cells, form))
    for first_line, rows in sentences:
        for line, cells in enumerate(rows, first_line):
            tag = normal_label(cells[-1])
            cells[-1] = PLACES.get(tag[:1], tag[:1]) + tag[1:]
            if not is_tag(cells[-1], "IOBES"):
                raise UserError(
                    f"{file.path}, line {line}: '{tag}' in the last column is not O, nor B-<type> or another "
                    "letter of a scheme; where there are types alone, write I-<type>"
                )
    prefix = prefix_of_words(file, [cells[0] for _, rows in sentences for cells in rows])
    entities: Counter[str] = Counter()  # type -> number
    counts: Counter[str] = Counter()  # column of the printed table -> number
    output_lines = ["text_a\tlabel"]
    for _, rows in sentences:
        words, tags = words_and_tags(rows, prefix)
        if not words:
            continue
        iob2 = to_iob2(tags)
        entities.update(type_ for _, type_ in entity_starts(iob2))
        counts["sentences"] += 1
        counts["words"] += len(words)
        counts["tags rewritten"] += sum(old != new for old, new in zip(tags, iob2))
        output_lines.append(f"{JOINT.join(words)}\t{JOINT.join(iob2)}")
    if not counts:
        raise UserError(f"{file.path}: no sentence in it")
    types = sorted(entities, key=_place_of_type)
    entity_counts = {type_: entities[type_] for type_ in types}
    content = "\n".join([*output_lines, ""]).encode()
    yield Prepared(file.language, content, types, {**entity_counts, **counts})


def prefix_of_words(file: DataFile, words: Sequence[str]) -> str:
    """What stands before each word of a file: "de:" in WikiANN, and "" in CoNLL."""
    prefix = f"{file.language}:"
    without = sum(not word.startswith(prefix) for word in words)
    if 2 * without > len(words):
        return ""
    if without:
        print(f"{file.path}: {without:,} of {len(words):,} words are without the prefix {prefix}")
    return prefix


def words_and_tags(rows: Iterable[Sequence[str]], prefix: str) -> tuple[list[str], list[str]]:
    """The words of a sentence without the prefix, and their tags; rows without a word are left out.

    Args:
        rows: the cells of each line, of which the first is the word and the last its tag.
    """
    words = []
    tags = []
    for word, *_, tag in rows:
        # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other
        # as a space.
        word = word.removeprefix(prefix).replace(JOINT, "").replace("\t", " ")
        if word:
            words.append(word)
            tags.append(tag)
    return words, tags


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line, of -DOCSTART-, and of a comment such as "# id = 7"."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    if "\t" in line:
        cells = line.split("\t")
    else:
        cells = [cell for cell in line.split(" ") if cell]
    is_blank = not any(cells)
    if COMMENT.match(line) and not is_tag(cells[-1], "IOBES"):
        return []
    if is_blank or cells[0] == "-DOCSTART-":
        return []
    return cells


def _place_of_type(type_: str) -> tuple[int, str]:
    """A sort key for a type of entity."""
    place = ENTITIES.index(type_) if type_ in ENTITIES else len(ENTITIES)
    return place, type_


def tag_names(types: Iterable[str]) -> list[str]:
    """B- and I- of every type, in the official order, and O."""
    names = []
    for type_ in sorted(types, key=_place_of_type):
        names += [f"B-{type_}", f"I-{type_}"]
    return [*names, OUTSIDE]


TAGGED = DataSet(
    languages=("en", "nl", "es", "de"),
    names=(
        r"(?P<language>eng|deu|esp|ned)\.(?P<split>train|testa|testb)",
        rf"{SPLIT}[.-]{LANGUAGE}\.(?:tsv|txt)",
        rf"{LANGUAGE}/{SPLIT}(?:\.(?:tsv|txt|conll))?",
    ),
    read=read_tags,
    label_names=tag_names,
)
