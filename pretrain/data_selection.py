"""Opens the corpus of a run and selects the text that the run trains on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pretrain import shares as mix
from pretrain.config import DataConfig, PretrainConfig
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
class Streams:
    """The part of a corpus that a run trains on.

    Args:
        languages: in alphabetical order; the index in this list is the number of the language.
        mono: language -> number of tokens of monolingual text.
        pairs: (a, b) -> number of sentence pairs.
    """

    languages: list[str]
    mono: dict[str, int]
    pairs: dict[tuple[str, str], int]

    @classmethod
    def of(cls, corpus: Corpus, config: PretrainConfig) -> "Streams":
        """Select `data.languages`, or every language.

        Raises:
            UserError: the corpus lacks a language or has no text for it, or an objective has no text.
        """
        active, listed = set(config.objectives.active), config.data.languages
        wanted = sorted(listed or corpus.languages)
        if unknown := [language for language in wanted if language not in corpus.languages]:
            raise UserError(
                f"data.languages: {_and(unknown)} not in {corpus.path}, which has {_and(corpus.languages)}"
            )
        mono = {language: text.num_tokens for language, text in corpus.mono.items() if language in wanted}
        pairs = {pair: len(stream) for pair, stream in corpus.parallel.items() if set(pair) <= set(wanted)}
        for kind, objectives, found in (
            ("monolingual", active & set(mix.MONOLINGUAL), mono),
            ("parallel", active & set(mix.PARALLEL), pairs),
        ):
            if objectives and not found:
                raise UserError(
                    f"objectives.active has {_and(sorted(objectives))}, but {corpus.path} holds no {kind} "
                    f"text of {_and(wanted)}"
                )
        read = set(mono) if active & set(mix.MONOLINGUAL) else set()
        if active & set(mix.PARALLEL):
            read |= {language for pair in pairs for language in pair}
        if empty := sorted(set(listed) - read):
            raise UserError(
                f"data.languages: {corpus.path} holds no text of {_and(empty)} that "
                f"{_and(config.objectives.active)} could read; leave it out, or add text to the corpus"
            )
        return cls(wanted, mono, pairs)


def _and(names: Iterable[str]) -> str:
    return ", ".join(names)
