"""Evaluation of bitext retrieval: the bitexts of --pairs, searched with the model of each seed."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import paddle

from ernie_m.finetune import score_tables
from ernie_m.finetune.retrieval.encoder import Encode, make_encode_function, resolve_layer
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.search_bitexts import (
    CHOSEN,
    SearchResult,
    search_layer,
    search_layers,
    write_matches,
    write_sweep,
)
from ernie_m.finetune.retrieval.split_pairs import make_text_keys
from ernie_m.finetune.run_setup import log_and_write_report
from ernie_m.finetune.score_tables import BOTH_DIRECTIONS, get_paper_rows
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.layers import use_bfloat16
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.pipeline_config import NEITHER, PipelineConfig, get_pair_text_kinds
from ernie_m.model.tasks import SEARCH, get_stored_name
from ernie_m.reader.files.aligned_lines import Bitext
from ernie_m.reader.labels import find_label_issues
from ernie_m.reader.text_featurizer import Example, TextFeaturizer, warn_if_truncated
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.precision import is_bf16_on_cpu
from ernie_m.utils.logging import logger
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.retrieval_accuracy import Matches, log_repeated_texts

WITH_ENGLISH = ("en -> xx", "xx -> en")
OF_ANY_PAIRS = ("second side -> first side", "first side -> second side")
SAME_LINE = "same line"  # accuracy where only the same line counts, not equal texts elsewhere, as in XTREME


class BitextEvaluation:
    """Evaluation of bitext retrieval. The constructor checks the texts of the bitexts.

    Args:
        opened: the model of the first seed.
        bitexts: the bitexts of --pairs, without keys.
        sentences: language -> its sentences in --center_on; {}: use the language means of the model.

    Attributes:
        results: seed -> its result; a seed without bitexts, or with --layer sweep, has none.
    """

    def __init__(
        self,
        flags: RetrievalFlags,
        opened: OpenedModel,
        bitexts: Sequence[Bitext],
        sentences: dict[str, list[str]],
    ):
        self.flags = flags
        self.config = opened.config
        self.sentences = sentences
        self.bitexts: list[Bitext] = []
        self.results: dict[int, SearchResult] = {}
        hash_texts = make_text_keys(opened, flags.max_seq_len)
        for bitext in bitexts:
            # The vocabulary may not cover a bitext, or its pairs may be too easy.
            sides = (bitext.sentences, bitext.translations)
            examples = [
                Example(opened.pipeline_config.get_prompt(kind) + text)
                for kind, texts in zip(get_pair_text_kinds(bitext.are_translations), sides)
                for text in texts
            ]
            warn_if_truncated(bitext.name, examples, TextFeaturizer(opened.tokenizer, flags.max_seq_len))
            keys = np.stack([hash_texts(texts) for texts in sides])
            log_repeated_texts(bitext.name, keys)
            self.bitexts.append(bitext._replace(keys=keys))

    def warn_about_training_texts(self, keys: np.ndarray) -> None:
        """Warn if a bitext has texts of the training data, by their keys, uint64 [n]."""
        for bitext in self.bitexts:
            for issue in find_label_issues(
                bitext.keys.ravel(), np.empty(0), str, trained_inputs=keys, noun="sentences"
            ):
                logger.warning("%s: %s", bitext.name, issue)

    def search(
        self,
        seed: int,
        model: ErnieMModel,
        tokenizer: Tokenizer,
        pipeline_config: PipelineConfig,
        start: Checkpoint | None = None,
    ) -> None:
        """Search the bitexts with the model of a seed, and write its predictions, or its sweep of all layers.

        Args:
            pipeline_config: the pipeline settings of the model.
            start: the checkpoint of the model; None: the model was just trained or is random, so it has no
                language means.
        """
        flags = self.flags
        bitexts = self.bitexts
        if not bitexts:
            return
        folder = Path(flags.checkpoints, f"seed_{seed}" if len(flags.seeds) > 1 else "")
        layer = None if flags.layer == "sweep" else resolve_layer(flags, model.config.num_hidden_layers)

        def make_encode(model: ErnieMModel) -> Encode:
            if is_bf16_on_cpu(flags.amp):
                use_bfloat16(model)
            encoder = PaddleEncoder(model, flags.pooling, layer)
            return make_encode_function(encoder, tokenizer, pipeline_config, flags.max_seq_len)

        # Centered embeddings have scores of their own: with the means of given sentences, or of the model.
        encode = make_encode(model)
        if self.sentences:
            means: LanguageCentering | None = self._compute_means(encode)
        else:
            means = self._load_means(start, model.config, layer)

        # A randomly initialized model is the baseline. It is evaluated once, with the first seed, unless the
        # seeds' weights are random themselves.
        has_weights = flags.do_train or flags.init_pretraining_params
        encode_at_random = None
        if flags.untrained and has_weights and seed == flags.seeds[0]:
            paddle.seed(seed)
            encode_at_random = make_encode(ErnieMModel(model.config))

        # A sweep scores every layer and has a report of its own.
        if layer is None:
            sweep = search_layers(encode, bitexts, means)
            if encode_at_random is not None:
                untrained_sweep = search_layers(encode_at_random, bitexts)
                sweep.rows[f"untrained, {CHOSEN}"] = untrained_sweep.rows[CHOSEN]
                sweep.layers[f"untrained, {CHOSEN}"] = untrained_sweep.layers[CHOSEN]
            if distributed.is_main():
                write_sweep(folder, f"retrieval by layer: {flags.pooling}, both directions", sweep)
            return

        # One layer is searched by every measure; the predictions are those of --score.
        trained = search_layer(encode, bitexts, means)
        untrained = {} if encode_at_random is None else search_layer(encode_at_random, bitexts)
        self.results[seed] = SearchResult(layer, trained, untrained)
        if distributed.is_main():
            write_matches(folder / "predictions" / "tatoeba", bitexts, trained[flags.score])

    def _compute_means(self, encode: Encode) -> LanguageCentering:
        """Compute the mean embedding of each language in --center_on, at the evaluated layer or at each."""
        mean_of = {  # language -> [H] or [L + 1, H]
            language: encode(texts, NEITHER).mean(axis=-2, dtype=np.float64)
            for language, texts in self.sentences.items()
        }
        return LanguageCentering(list(mean_of), np.stack(list(mean_of.values())))

    def _load_means(
        self, checkpoint: Checkpoint | None, config: ErnieMConfig, layer: int | None
    ) -> LanguageCentering | None:
        """Load the language means of a checkpoint at a layer; None: at each layer.

        Returns:
            None if the means are missing, were computed with another pooling, or lack a language.
        """
        path = checkpoint.language_means_path if checkpoint else None
        if path is None or self.flags.pooling != MEANS_POOLING:
            return None
        means = LanguageCentering.read(path, (config.num_hidden_layers + 1, config.hidden_size))
        missing = [name for name in list_languages(self.bitexts) if name not in means.languages]
        if missing:
            logger.info(
                "%s: no language means for %s; skipping centered scores. To compute means, set --center_on",
                path,
                ", ".join(missing),
            )
            return None
        return means if layer is None else means.select_layer(layer)

    def report(self) -> None:
        """Log and write score tables: one per direction, and per measure one with the mean of both.

        With --layer sweep each seed has a report of its own.
        """
        flags = self.flags
        results = self.results
        if not results:
            return

        # Equal texts are hits. Where that matters, a row has the score of the same line alone, as in XTREME.
        layers = {str(seed): result.layer for seed, result in results.items()}
        distinct_layers = dict.fromkeys(str(layer) for layer in layers.values())
        kind_of_vectors = f"{flags.pooling}, layer {', '.join(distinct_layers)}"  # for the titles
        first = next(iter(results.values()))  # it has the result with random weights, if any
        pairs = sum(len(bitext.sentences) for bitext in self.bitexts)
        keys = {bitext.language: bitext.keys for bitext in self.bitexts}
        line_keys = {bitext.language: bitext.line_keys for bitext in self.bitexts}
        tables = []

        def add_table(direction: str, measure: str, directions: Sequence[int], **paper: Any) -> None:
            """Add a score table of a measure, averaged over directions, indices of `WITH_ENGLISH`."""
            rows, by_line = (
                {
                    seed: _compute_accuracies(result.trained[measure], rule, directions)
                    for seed, result in results.items()
                }
                for rule in (keys, line_keys)
            )
            comparison = {
                "untrained": _compute_accuracies(first.untrained.get(measure, {}), keys, directions)
            }
            if by_line != rows:
                comparison[SAME_LINE] = {
                    language: fmean(row[language] for row in by_line.values()) for language in keys
                }
            title = f"{direction}, {measure}, {kind_of_vectors}"
            shown = {"direction": direction, "measure": measure}
            tables.append(score_tables.ScoreTable(title, rows, comparison=comparison, facts=shown, **paper))

        # Each direction by --score, as the paper reports it.
        are_with_english = all(bitext.with_english for bitext in self.bitexts)
        for number, direction in enumerate(WITH_ENGLISH if are_with_english else OF_ANY_PAIRS):
            paper = get_paper_rows(flags.paper, self.config, pairs, direction, list(keys))
            add_table(direction, flags.score, [number], paper=paper)

        # Both directions by every measure that all seeds have.
        measures = chain.from_iterable(result.trained for result in results.values())
        for measure in dict.fromkeys(measures):  # each once, in this order
            seeds_without = [str(seed) for seed, result in results.items() if measure not in result.trained]
            if seeds_without:
                seeds = ", ".join(seeds_without)
                logger.warning("skipping the table of %s: no language means for seed %s", measure, seeds)
                continue
            add_table(BOTH_DIRECTIONS, measure, [0, 1])
        facts: dict[str, Any] = {
            "task": get_stored_name(SEARCH),
            "pooling": flags.pooling,
            "score": flags.score,
            "layers": layers,
        }
        log_and_write_report(flags.checkpoints, "retrieval", tables, facts)


def list_languages(bitexts: Sequence[Bitext]) -> list[str]:
    """Return English and the other language of each bitext; [] without bitexts."""
    return ["en", *(bitext.language for bitext in bitexts)] if bitexts else []


def _compute_accuracies(
    results: Mapping[str, Matches], keys: Mapping[str, np.ndarray], directions: Sequence[int]
) -> dict[str, float]:
    """Compute language -> accuracy in percent, averaged over directions.

    Args:
        keys: language -> the keys of its texts; see `ernie_m.vectors.retrieval_accuracy.mark_hits`.
        directions: indices of `WITH_ENGLISH`.
    """
    found = {language: matches.compute_accuracies(keys[language]) for language, matches in results.items()}
    return {language: fmean(both[index] for index in directions) for language, both in found.items()}
