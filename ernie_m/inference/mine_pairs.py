"""Bitext mining: ernie-m mine_pairs.

The texts and their embeddings are held in memory.

<output>/pairs.tsv    source and translation, best pair first
<output>/scores.tsv   for each pair: score, and the line numbers of both sentences, from 1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import EmbeddingOptions, PredictionOptions
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.tasks import EMBEDDING
from ernie_m.reader.files.aligned_lines import read_sentences_by_language
from ernie_m.reader.files.distinct_lines import PART_LINES, DistinctLines
from ernie_m.reader.text_featurizer import Example, sample_evenly, warn_if_truncated
from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, lock_for_writing, reject_overwrite
from ernie_m.utils.logging import logger
from ernie_m.utils.value_types import PositiveInt
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.nearest import (
    NEIGHBORS,
    Neighbors,
    build_index,
    compute_margins,
    load_faiss,
    mine_greedily,
)
from ernie_m.vectors.pooling import encode_in_parts, normalize_vectors


@dataclass(kw_only=True)
class MiningOptions(EmbeddingOptions):
    """Command-line options of `ernie-m mine_pairs`."""

    source: str
    """Text file with one sentence per line, optionally with its language for centering, as in
    de<=news.de.txt."""

    target: str
    """Text file in the other language, in the same format."""

    model: str
    """Checkpoint in any supported format, or the output directory of ernie-m export."""

    output: str = "mined"
    """Output directory for pairs.tsv and scores.tsv."""

    num_neighbors: PositiveInt = NEIGHBORS
    """Number of nearest neighbors per sentence."""

    threshold: float | None = None
    """Minimum margin score of a pair to write (default: none)."""

    max_seq_len: PositiveInt | None = None
    """Maximum sentence length in tokens; longer sentences are truncated (default: the model's maximum)."""

    center_on: str | None = None
    """Text files whose mean embedding is subtracted per language, as in de<=de.txt,en<=en.txt (default: the
    model's language means, if known for both languages)."""

    skip_text_checks: bool = option(False, free=True)
    """Whether to skip the checks that find line numbers, ids, tags and HTML in text."""


def mine_pairs(options: MiningOptions) -> None:
    """Mine translation pairs from two texts by margin scores, and write them to the output directory.

    Raises:
        UserError: faiss is not installed, a file is missing or corrupt, or the output is locked.
    """
    load_faiss()
    output = Path(options.output)
    with lock_for_writing(output):
        source = DistinctLines(options.source, options.skip_text_checks)
        target = DistinctLines(options.target, options.skip_text_checks)
        reject_overwrite(
            [source.path, target.path], f"--output {output}", [output / "pairs.tsv", output / "scores.tsv"]
        )
        both = len(source.numbers.keys() & target.numbers.keys())
        if 2 * both > min(len(source.texts), len(target.texts)):
            logger.warning(
                "%s and %s: %s lines are in both and will be paired with themselves",
                source.path,
                target.path,
                f"{both:,}",
            )

        # Encode.
        task_options = PredictionOptions(
            pooling=options.pooling, layer=options.layer, max_seq_len=options.max_seq_len, normalize=False
        )
        encoder = make_predictor(EMBEDDING, load(options.model), task_options)
        lines = [Example(text) for side in (source, target) for text in sample_evenly(side.texts)]
        warn_if_truncated(f"{source.path}, {target.path}", lines, encoder.encode, "lines")
        means = resolve_language_means(options, encoder, [source.language, target.language])
        sources, targets = (encode_lines(encoder, side, means) for side in (source, target))

        # Mine.
        logger.info(
            "nearest-neighbor search: %s source and %s target embeddings",
            f"{len(sources):,}",
            f"{len(targets):,}",
        )
        forward = search_index(sources, targets, options.num_neighbors)
        backward = search_index(targets, sources, options.num_neighbors)
        scores = compute_margins(forward, backward)
        if not scores.are_ratios:
            reason = (
                "ratio margins are undefined: the mean cosine of some lines with their "
                "neighbors is not positive"
            )
            if options.threshold is not None:
                raise UserError(
                    f"--threshold {options.threshold}: {reason}. Remove it, or decrease --num_neighbors"
                )
            logger.warning("%s; using difference margins", reason)
        candidates = mine_greedily(forward, backward, scores)
        pairs = candidates if options.threshold is None else candidates.filter_by_score(options.threshold)
        same = 0
        source_lines, target_lines = ([*side.numbers.items()] for side in (source, target))
        with (
            atomic_file(output / "pairs.tsv", "w", newline="\n") as texts_file,
            atomic_file(output / "scores.tsv", "w", newline="\n") as scores_file,
        ):
            for source_index, target_index, score in zip(*pairs):
                source_form, source_line = source_lines[source_index]
                target_form, target_line = target_lines[target_index]
                same += source_form == target_form
                texts_file.write(f"{source.texts[source_index]}\t{target.texts[target_index]}\n")
                scores_file.write(f"{score:.6f}\t{source_line}\t{target_line}\n")
    counts = (
        f"{len(pairs.scores):,} of {len(candidates.scores):,} pairs, {same:,} of them with "
        f"equal sides: {output}"
    )
    if options.threshold is None:
        counts += (
            f"; scores: {pairs.scores[-1]:.3f} to {pairs.scores[0]:.3f}. Low-scoring pairs are rarely "
            "translations; set --threshold"
        )
    logger.info("%s", counts)


def encode_lines(
    encoder: EmbeddingPredictor, lines: DistinctLines, means: LanguageCentering | None
) -> np.ndarray:
    """Compute the normalized embeddings of the lines of a text, float32 [lines, H].

    Log a warning if the embeddings are nearer to the mean of the other language.

    Args:
        means: the language means for centering; None: no centering.
    """
    embeddings = encode_in_parts(encoder.encode_texts, lines.texts, "encoding", PART_LINES)
    if means is not None:
        (index,), _ = means.detect_languages(embeddings.mean(axis=0, keepdims=True))
        nearest = means.languages[index]
        if nearest != lines.language:
            logger.warning(
                "%s: the embeddings are nearer to the mean of %s than to the mean of %s. Check the "
                "languages in --source and --target",
                lines.path,
                nearest,
                lines.language,
            )
        embeddings = means.subtract_mean(embeddings, lines.language)
    return normalize_vectors(embeddings)


def resolve_language_means(
    options: MiningOptions, encoder: EmbeddingPredictor, languages: Sequence[str]
) -> LanguageCentering | None:
    """Return the mean embeddings of the languages of both texts; None: no centering.

    Args:
        encoder: the encoder, with which the means for --center_on are computed.
        languages: the languages of source and target; "" if not specified.

    Raises:
        UserError: --center_on has no file for a language, or a language is not specified.
    """
    if options.center_on is not None:
        if not all(languages):
            raise UserError(
                "--center_on requires the languages of the texts, as in --source "
                "'de<=de.txt' --target 'en<=en.txt'"
            )
        sentences = read_sentences_by_language(options.center_on, languages)
        means = {
            name: encode_in_parts(encoder.encode_texts, sentences[name], "encoding", PART_LINES).mean(axis=0)
            for name in languages
        }
    else:
        means = {}
        if encoder.model.language_means_path is not None and encoder.pooling == MEANS_POOLING:
            known = encoder.model.language_means.select_layer(encoder.layer)
            means = dict(zip(known.languages, known.vectors))
        if not {*languages} <= means.keys():
            logger.info(
                "centering: none (pooling: %s; languages with a mean: %s; languages of the texts: %s). To "
                "compute means, set --center_on",
                encoder.pooling,
                ", ".join(means) or "none",
                ", ".join(name or "not specified" for name in languages),
            )
            return None
    logger.info("centering: by language")
    return LanguageCentering([*languages], np.stack([means[name] for name in languages]))


def search_index(queries: np.ndarray, targets: np.ndarray, num_neighbors: int) -> Neighbors:
    """Find near targets of each query by cosine, by an index that may miss some of many (`build_index`).

    Args:
        queries, targets: normalized embeddings, float32 [N, H] and [M, H].
    """
    return Neighbors(*build_index(targets).search(queries, min(num_neighbors, len(targets))))
