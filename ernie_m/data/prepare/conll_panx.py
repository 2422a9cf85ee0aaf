"""CoNLL and PAN-X: words with tags that mark entities."""

from collections import Counter
from collections.abc import Iterator

from ernie_m.data.prepare.data_set import LANGUAGE, SPLIT, DataFile, DataSet, Prepared
from ernie_m.model.entity_tags import PLACES
from ernie_m.reader.files.tagged_words import read_words
from ernie_m.reader.tags import JOINT, entity_starts, tag_names, to_iob2


def read_tags(file: DataFile) -> Iterator[Prepared]:
    """Sentences in IOB2; arguments and errors as of `read_words`."""
    entities: Counter[str] = Counter()  # type -> number
    counts: Counter[str] = Counter()  # column of the printed table -> number
    output_lines = ["text_a\tlabel"]
    for sentence in read_words(file.path, PLACES, file.language, entities=True, options=file.options):
        iob2 = to_iob2(sentence.tags)
        entities.update(type_ for _, type_ in entity_starts(iob2))
        counts["sentences"] += 1
        counts["words"] += len(sentence.words)
        counts["tags rewritten"] += sum(old != new for old, new in zip(sentence.tags, iob2))
        output_lines.append(f"{JOINT.join(sentence.words)}\t{JOINT.join(iob2)}")
    types = [tag[2:] for tag in tag_names(entities) if tag.startswith("B-")]
    entity_counts = {type_: entities[type_] for type_ in types}
    content = "\n".join([*output_lines, ""]).encode()
    yield Prepared(file.language, content, types, {**entity_counts, **counts})


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
