"""The pairs of a training: the rows of a file, or the parallel text of a corpus."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.finetune.retrieval.pair_batches import CorpusPairBatches, PairBatches, PairFileBatches
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.split_pairs import (
    DedupedPairs,
    hold_out_rows,
    make_text_keys,
    select_training_rows,
)
from ernie_m.finetune.run_setup import digest_files
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.pipeline_config import DOCUMENT, NEITHER, QUERY, PipelineConfig
from ernie_m.model.tasks import SEARCH
from ernie_m.reader.corpus import Corpus, verify_corpus
from ernie_m.reader.files.pairs import PairRows, is_pair_notation
from ernie_m.reader.text_featurizer import (
    Example,
    TextFeaturizer,
    log_truncation,
    sample_evenly,
    warn_about_repeated_prompt,
    warn_if_truncated,
)
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# The languages of validation pairs, ("de", "en"), or their file, ("pairs.tsv",) -> (source ids, target ids).
ValidationPairs = dict[tuple[str, ...], Sequence]


class TrainingPairs(ABC):
    """The pairs of --train_set, which are checked when they are opened.

    Args:
        pipeline_config: the pipeline settings of the trained model, with the prompts of the pairs.
        paths: the files that decide which pairs there are.
        languages: the languages of the pairs; (): unknown.

    Attributes:
        digest: the SHA-256 of the files.
        text_keys: uint64 [n], the keys of all queries and positives, by `make_text_keys`; [0]: not known.
    """

    text_keys = np.empty(0, np.uint64)

    def __init__(
        self,
        flags: RetrievalFlags,
        tokenizer: Tokenizer,
        pipeline_config: PipelineConfig,
        paths: Iterable[str | Path],
        languages: Sequence[str] = (),
    ):
        self.flags = flags
        self.tokenizer = tokenizer
        self.pipeline_config = pipeline_config
        self.digest = digest_files(paths)
        self.languages = list(languages)

    @property
    def prompts(self) -> tuple[str, str]:
        """The prompt of queries, and that of positives and negatives."""
        return self.pipeline_config.get_prompt(QUERY), self.pipeline_config.get_prompt(DOCUMENT)

    @abstractmethod
    def split(self, seed: int) -> tuple[PairBatches, ValidationPairs]:
        """Return the training batches of a seed, and its validation pairs; {}: there are none."""

    def _get_batch_settings(self, seed: int) -> dict[str, Any]:
        """Return the fields of `PairBatches` for this process."""
        return {
            "tokenizer": self.tokenizer,
            "batch_size": self.flags.batch_size,
            "max_seq_len": self.flags.max_seq_len,
            "seed": seed,
            "rank": distributed.rank(),
            "world_size": distributed.world_size(),
        }


class FileTrainingPairs(TrainingPairs):
    """The rows of a file of pairs, or of two aligned files. Each seed has other validation rows.

    Queries and documents keep the prompts of the initial model; both sides of translations have one prompt.
    """

    def __init__(self, path: str, flags: RetrievalFlags, opened: OpenedModel):
        self.rows = rows = PairRows(path, flags)
        pipeline_config = get_embedding_config(opened)
        if rows.are_translations:
            pipeline_config = pipeline_config.replace_prompts(pipeline_config.get_prompt(NEITHER))
        super().__init__(flags, opened.tokenizer, pipeline_config, rows.paths)

        # Texts may already have their prompt, be too long, or be foreign to the vocabulary.
        sample = sample_evenly(rows)
        for index, prompt in enumerate(self.prompts):  # queries, then positives
            warn_about_repeated_prompt(prompt, [row[index] for row in sample], path)
        texts = [
            Example(self.prompts[min(index, 1)] + text) for row in sample for index, text in enumerate(row)
        ]
        warn_if_truncated(path, texts, TextFeaturizer(self.tokenizer, flags.max_seq_len))

        # Texts that the model cannot tell apart have one key.
        self.deduped = DedupedPairs.from_rows(rows, make_text_keys(opened, flags.max_seq_len))
        self.text_keys = self.deduped.keys[:, :2].ravel()
        if rows.with_negatives:
            logger.info(
                "%s: %d rows, %d with negatives; dropped %d false negatives (equal to the query or to "
                "one of its positives in any row)",
                path,
                len(rows),
                rows.with_negatives,
                self.deduped.false_negatives,
            )

    def split(self, seed: int) -> tuple[PairFileBatches, ValidationPairs]:
        held_out = hold_out_rows(self.deduped, self.flags.validation_pairs, seed)
        keys, (trained,) = select_training_rows([self.deduped], [held_out])
        logger.info(
            "%s: %d training rows, %d validation rows; dropped %d rows that share a query or "
            "positive with validation rows",
            self.rows.name,
            len(trained),
            len(held_out),
            len(self.rows) - len(trained) - len(held_out),
        )
        batches = PairFileBatches(
            rows=self.deduped,
            numbers=trained,
            held_out=keys,
            prompts=self.prompts,
            **self._get_batch_settings(seed),
        )
        held_out_ids = [
            self.tokenizer.encode_batch(
                [prompt + text for prompt, text in zip(self.prompts, self.rows[number])]
            )
            for number in held_out
        ]
        return batches, {(Path(self.rows.name).name,): held_out_ids} if held_out_ids else {}


class CorpusTrainingPairs(TrainingPairs):
    """The parallel text of a corpus, whose held-out text has the validation pairs. It has no prompts."""

    def __init__(self, path: str, flags: RetrievalFlags, opened: OpenedModel):
        self.corpus = corpus = Corpus(path, opened.tokenizer)
        distributed.run_on_main(lambda: verify_corpus(path))
        if not corpus.parallel:
            raise UserError(f"{path}: no parallel text in this corpus. Build one with --parallel")
        pipeline_config = get_embedding_config(opened).replace_prompts("")
        manifest = corpus.path / MANIFEST
        super().__init__(flags, opened.tokenizer, pipeline_config, [manifest], corpus.languages)
        sides = [ids for pairs in corpus.parallel.values() for pair in sample_evenly(pairs) for ids in pair]
        cut = sum(len(ids) > flags.max_seq_len - 2 for ids in sides)  # without [CLS] and [SEP]
        log_truncation(path, cut, len(sides), "sampled texts", flags.max_seq_len)

    def split(self, seed: int) -> tuple[CorpusPairBatches, ValidationPairs]:
        batches = CorpusPairBatches(
            path=str(self.corpus.path), alpha=self.flags.pair_alpha, **self._get_batch_settings(seed)
        )
        return batches, self.corpus.held_out_parallel


def open_training_pairs(flags: RetrievalFlags, opened: OpenedModel) -> TrainingPairs:
    """Open the pairs of --train_set: a file of pairs, or a corpus, which is a directory.

    Raises:
        UserError: the file or corpus is missing, is invalid, or has no pairs.
    """
    assert flags.train_set is not None  # with --do_train
    pairs_class = FileTrainingPairs if is_pair_notation(flags.train_set) else CorpusTrainingPairs
    return pairs_class(flags.train_set, flags, opened)


def get_embedding_config(opened: OpenedModel) -> PipelineConfig:
    """Return the pipeline settings of a model without those of a head, which differ from embeddings'."""
    is_tuned = opened.checkpoint is not None and opened.checkpoint.task not in (None, SEARCH)
    return opened.pipeline_config.adapt_for_task() if is_tuned else opened.pipeline_config
