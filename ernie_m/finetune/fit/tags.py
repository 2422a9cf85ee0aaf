"""Words with tags, from which `fit` learns a tagger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ernie_m.finetune.fit.units import TAGS, Units, known_languages, language_of
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.metrics import NO_LABEL, Confusion
from ernie_m.finetune.open_model import OpenedModel
from ernie_m.finetune.tasks.entity_scores import entities
from ernie_m.finetune.tasks.tagging import Tagging
from ernie_m.model.entity_tags import PLACES
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.tagged_sentences import JOINT, Sentence
from ernie_m.reader.files.tagged_words import TaggedWords, read_words
from ernie_m.reader.tags import entity_starts, is_tag, tag_names, to_iob2
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.logging import logger


@dataclass
class TaggedUnits(Units):
    """Words with a tag each. `items`: `Sentence`s.

    Attributes:
        tags: the names of the tags, in the order of their ids.
        scheme: that of the tags, "IOB" or "NONE"; see `ernie_m.reader.tags`.
        unlearned: further tags, with the ids after those of `tags`, that the model cannot predict.
    """

    tags: Sequence[str] = ()
    scheme: str = "IOB"
    unlearned: Sequence[str] = ()
    kind = TAGS
    noun = "sentences"

    def open(self, opened: OpenedModel, flags: FinetuneFlags) -> None:
        self.task = Tagging(opened.tokenizer, self.tags, flags.max_seq_len, flags.label_pieces, self.scheme)
        self.task.labels.extend(self.unlearned)  # to be named in scores
        self.task.look_at(self.items, flags.train_set)

    def to_predict(self, numbers: Sequence[int]) -> list[Sentence]:
        # Without tags, because the model has no id for some of a test.
        return [sentence._replace(labels=None) for sentence in self.training(numbers)]

    def inputs(self) -> list[Sequence[str]]:
        return [[" ".join(sentence.words)] for sentence in self.items]

    @property
    def counted(self) -> tuple[str, str]:
        return ("tag", "words") if self.task.scheme == "NONE" else ("type", "entities")

    def confusion(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Confusion:
        """Of types of entities, with `NO_LABEL` for none; of tags of words, if they mark no entities."""
        gold = self._marked([self.items[number].labels for number in numbers])
        predicted = self._marked(outcomes)
        confusion: dict[str, Counter[str]] = {}
        for place in gold | predicted:
            row = confusion.setdefault(gold.get(place, NO_LABEL), Counter())
            row[predicted.get(place, NO_LABEL)] += 1
        return confusion

    def _marked(self, labels: Sequence[Sequence[int]]) -> dict[tuple[int, int, int], str]:
        """(sentence, first word, last word) of each entity, or word -> its type, or its tag."""
        begin = "B-" if self.task.scheme == "NONE" else ""
        return {
            (number, first, last): type_
            for number, labels_of_words in enumerate(labels)
            for type_, first, last in entities([begin + tag for tag in self.task.tags(labels_of_words)])
        }


def read(files: Sequence[LabelledFile], options: TableOptions, like: Units | None = None) -> "TaggedUnits":
    """The sentences of files; see `ernie_m.finetune.fit.read_units.read_units`."""
    read = [read_words(file.path, PLACES, language_of(file) or None, options=options) for file in files]
    languages = known_languages(files, list(map(len, read)))
    return sentences_of(list(chain.from_iterable(read)), files[0].path, like, languages)


def sentences_of(
    sentences: Sequence[TaggedWords],
    name: str | Path,
    like: Units | None = None,
    languages: Sequence[str] = (),
) -> TaggedUnits:
    """Sentences to learn from. Their tags become IOB2, unless they mark no entities.

    Args:
        name: what has them, for errors.
        like: see `read_units`.

    Raises:
        UserError: there is one tag alone, or one that marks no entity, unlike the tags of `like`.
    """
    counts = Counter(chain.from_iterable(sentence.tags for sentence in sentences))
    others = sorted(tag for tag in counts if not is_tag(tag, "IOBES"))
    scheme = like.scheme if like else "NONE" if others else "IOB"
    if scheme == "IOB":
        if others:
            raise UserError(f"{name}: the tag '{others[0]}' marks no entity, as the tags of the training do")
        tags_of = [to_iob2(sentence.tags) for sentence in sentences]
        names = tag_names({type_ for tags in tags_of for _, type_ in entity_starts(tags)})
    else:
        tags_of = [sentence.tags for sentence in sentences]
        names = sorted(counts)
    unlearned = []
    if like is not None:
        unlearned = [tag for tag in names if tag not in like.tags]
        names = like.tags
        if unlearned:
            logger.warning(
                "%s: the training has no %s; the model cannot predict them, and each counts as wrong",
                name,
                listed(unlearned),
            )
    elif len(names) < 2:
        raise UserError(f"{name}: the only tag is '{names[0]}'; there is nothing to learn")
    ids = {tag: id_ for id_, tag in enumerate([*names, *unlearned])}
    items = [
        Sentence(JOINT.join(sentence.words), tuple(ids[tag] for tag in tags))
        for sentence, tags in zip(sentences, tags_of)
    ]
    return TaggedUnits(items, languages, tags=names, scheme=scheme, unlearned=unlearned)


def of(
    texts: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], languages: Sequence[str]
) -> TaggedUnits:
    """Lists of words, and a tag for each word, to learn from."""
    sentences = [
        TaggedWords.of_line(number, list(row), list(tags))
        for number, (row, tags) in enumerate(zip(texts, labels))
    ]
    return sentences_of(sentences, "finetune", languages=languages)
