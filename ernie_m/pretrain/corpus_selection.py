"""Selects the training data of a run from a corpus, and makes its objectives."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ernie_m.pretrain.config import DataConfig, PretrainConfig
from ernie_m.pretrain.masking import ObjectiveContext, Pair, Text, Vocabulary
from ernie_m.pretrain.objective import Objective, list_names_for_input
from ernie_m.pretrain.objective_mix import drop_objectives_without_text
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.reader.corpus import Blocks, Corpus, CorpusPairs, CorpusText, open_corpus_tokenizer
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger


def open_corpus(config: DataConfig) -> tuple[Corpus, Tokenizer]:
    """Open a corpus and its tokenizer, without verifying checksums.

    Raises:
        UserError: the corpus is unfinished, a file is missing or truncated, or the shards were made with
            another vocabulary.
    """
    tokenizer = open_corpus_tokenizer(config.corpus)
    return Corpus(config.corpus, tokenizer), tokenizer


def drop_unsupported_objectives(config: PretrainConfig, corpus: Corpus) -> PretrainConfig:
    """Return the config without objectives for which the corpus has no text, if `skip_unsupported` is set."""
    if not config.objectives.skip_unsupported:
        return config
    languages = select_languages(config.data, corpus)
    monolingual = any(language in corpus.mono for language in languages)
    parallel = any(set(pair) <= set(languages) for pair in corpus.parallel)
    objectives = drop_objectives_without_text(config.objectives, monolingual, parallel)
    left_out = [name for name in config.objectives.names if name not in objectives.names]
    if left_out:
        trained = ", ".join(objectives.names)
        logger.info("%s: no text for %s; training %s", corpus.path, ", ".join(left_out), trained)
    return dataclasses.replace(config, objectives=objectives)


def select_languages(config: DataConfig, corpus: Corpus) -> list[str]:
    """Return the languages to train on, in alphabetical order: `data.languages`, or those of the corpus.

    Raises:
        UserError: the corpus lacks a language.
    """
    languages = sorted(set(config.languages or corpus.languages))
    unknown = [language for language in languages if language not in corpus.languages]
    if unknown:
        raise UserError(
            f"data.languages: unknown {', '.join(unknown)} (found in "
            f"{corpus.path}: {', '.join(corpus.languages)})"
        )
    return languages


@dataclass(frozen=True)
class TrainingData:
    """The text of a corpus that a run trains on, and the run's objectives.

    Args:
        corpus: a corpus that was opened with the run's vocabulary.
        data: settings of truncation and sampling.
        setting: settings of the objectives. Languages are in alphabetical order; their indices are the
            language ids.
        mono: language -> number of tokens of monolingual text.
        pairs: (a, b) -> the sentence pairs, a < b.
    """

    corpus: Corpus
    data: DataConfig
    setting: ObjectiveContext
    mono: dict[str, int]
    pairs: dict[tuple[str, str], CorpusPairs]

    @property
    def languages(self) -> Sequence[str]:
        """Return the language names, in the order of the language ids."""
        return self.setting.languages

    @cached_property
    def objectives(self) -> dict[str, Objective]:
        """Return the trained objectives by name."""
        return make_objectives(self.setting, self.setting.config.names)

    def split_into_examples(self, text: CorpusText) -> Blocks:
        """Divide monolingual text into examples for MMLM and BTMLM."""
        longest = self.data.max_seq_len - 2  # without [CLS] and [SEP]
        return Blocks(text, longest, one_line=not self.data.pack_lines)

    def make_pair(
        self, languages: tuple[str, str], sides: tuple[np.ndarray, np.ndarray], reverse: bool = False
    ) -> Pair:
        """Make an example from a sentence pair.

        Args:
            languages: language names of the sides.
            sides: ids of the sides.
            reverse: whether the second side is the source.
        """
        first = Text(sides[0], self.languages.index(languages[0]))
        second = Text(sides[1], self.languages.index(languages[1]))
        return Pair(second, first) if reverse else Pair(first, second)

    def count_subwords(self) -> np.ndarray:
        """Return the subword counts of each language's training text, int64 [languages, V]."""
        return np.stack([self.corpus.count_subwords(language) for language in self.languages])

    @classmethod
    def from_corpus(cls, corpus: Corpus, vocabulary: Vocabulary, config: PretrainConfig) -> "TrainingData":
        """Select the training data of a run from a corpus.

        Raises:
            UserError: the corpus lacks a language, or has no text for an objective.
        """
        languages = select_languages(config.data, corpus)
        mono = {language: text.num_tokens for language, text in corpus.mono.items() if language in languages}
        pairs = {pair: stream for pair, stream in corpus.parallel.items() if set(pair) <= set(languages)}
        active = set(config.objectives.names)
        for kind, reads, text in (("monolingual", Text, mono), ("parallel", Pair, pairs)):
            of_kind = active & set(list_names_for_input(reads))
            if of_kind and not text:
                key = "mixing_ratios" if config.objectives.mixing_ratios else "active"
                others = active - of_kind
                advice = "; objectives.skip_unsupported true trains only the others" if others else ""
                raise UserError(
                    f"objectives.{key} has {', '.join(sorted(of_kind))}, but {corpus.path} has no "
                    f"{kind} text of {', '.join(languages)}{advice}"
                )
        setting = ObjectiveContext(
            config.objectives,
            vocabulary,
            config.data.max_seq_len,
            config.model.language_embedding,
            languages,
            pairs={(languages.index(a), languages.index(b)): len(stream) for (a, b), stream in pairs.items()},
        )
        return cls(corpus, config.data, setting, mono, pairs)


def make_objectives(context: ObjectiveContext, names: Iterable[str]) -> dict[str, Objective]:
    """Make the objectives with these names, in the order of `OBJECTIVES`."""
    return {name: get_objective_class(name)(context) for name in sorted(names, key=OBJECTIVES.index)}
