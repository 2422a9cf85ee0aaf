"""Opens the corpus of a run and selects the text that the run trains on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pretrain.config import DataConfig, PretrainConfig
from pretrain.masking import Vocabulary
from pretrain.shares import MONOLINGUAL, PARALLEL
from reader.corpus import Corpus, read_manifest
from reader.tokenization import Tokenizer
from utils.errors import UserError


def open_corpus(config: DataConfig) -> tuple[Corpus, Tokenizer]:
    """The corpus and the tokenizer in its folder.

    Raises:
        UserError: the corpus is unfinished or damaged, or its shards were made with another vocabulary.
    """
    read_manifest(Path(config.corpus))  # first: it has the clearest message for an unfinished corpus
    tokenizer = Tokenizer.from_folder(config.corpus)
    return Corpus(config.corpus, tokenizer.digest, verify=config.verify), tokenizer


@dataclass(frozen=True)
class TrainingText:
    """The part of a corpus that a run trains on.

    Args:
        corpus: opened with the run's vocabulary.
        vocabulary: of the corpus.
        languages: in alphabetical order; the index in this list is the number of the language.
        mono: language -> number of tokens of monolingual text.
        pairs: (a, b) -> number of sentence pairs.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    languages: list[str]
    mono: dict[str, int]
    pairs: dict[tuple[str, str], int]

    @cached_property
    def number(self) -> dict[str, int]:
        """Language -> its number."""
        return {language: i for i, language in enumerate(self.languages)}

    @classmethod
    def of(cls, corpus: Corpus, vocabulary: Vocabulary, config: PretrainConfig) -> "TrainingText":
        """Select `data.languages`, or every language.

        Raises:
            UserError: the corpus lacks a language or has no text for it, or an objective has no text.
        """
        active, listed = config.objectives.active, config.data.languages
        wanted = sorted(listed or corpus.languages)
        if unknown := [language for language in wanted if language not in corpus.languages]:
            raise UserError(
                f"data.languages: {', '.join(unknown)} not in {corpus.path}, which has "
                f"{', '.join(corpus.languages)}"
            )
        mono = {language: text.num_tokens for language, text in corpus.mono.items() if language in wanted}
        pairs = {pair: len(stream) for pair, stream in corpus.parallel.items() if set(pair) <= set(wanted)}
        read: set[str] = set()
        for kind, names, found in (("monolingual", MONOLINGUAL, mono), ("parallel", PARALLEL, pairs)):
            asking = sorted(set(active) & set(names))
            if asking and not found:
                raise UserError(
                    f"objectives.active has {', '.join(asking)}, but {corpus.path} holds no {kind} text of "
                    f"{', '.join(wanted)}"
                )
            if asking:
                read |= set(mono) if found is mono else {language for pair in pairs for language in pair}
        if empty := sorted(set(listed) - read):
            raise UserError(
                f"data.languages: {corpus.path} holds no text of {', '.join(empty)} that "
                f"{', '.join(active)} could read; leave it out, or add text to the corpus"
            )
        return cls(corpus, vocabulary, wanted, mono, pairs)
