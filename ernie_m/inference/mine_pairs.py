"""The work of ernie-m mine_pairs: encode two texts, find their nearest neighbors, choose pairs.

The texts and their vectors are in memory.

<output>/pairs.tsv    source and translation, the best pair first
<output>/scores.tsv   of each pair: score, and the lines of both sentences, from 1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import VectorOptions
from ernie_m.inference.tasks import PredictionOptions, make_predictor
from ernie_m.inference.tasks.encode import EncodeTexts, encode_in_parts
from ernie_m.model.tasks import EMBEDDING
from ernie_m.reader.batching import Example, spread, warn_truncated
from ernie_m.reader.equal_texts import normal_form
from ernie_m.reader.files.aligned_lines import Sentences, sentences_by_language
from ernie_m.reader.files.find_files import split_label
from ernie_m.utils.args import PositiveInt, option
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, lock_writer, reject_overwrite
from ernie_m.utils.logging import logger
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.nearest import NEIGHBORS, Neighbors, build_index, load_faiss, margins, mine
from ernie_m.vectors.pooling import unit

PART_LINES = 16_384  # lines that are encoded between two lines of progress


@dataclass(kw_only=True)
class MiningOptions(VectorOptions):
    """What to mine, with which model, and which pairs to write."""

    source: str
    """Text file with one sentence per line, optionally with its language for centering, as in
    de<=news.de.txt."""

    target: str
    """Text file in the other language, in the same format."""

    model: str
    """Checkpoint in any supported format, or a directory of ernie-m export."""

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


class DistinctLines:
    """The lines of a text file that are neither blank nor equal to an earlier one.

    They are compared by `normal_form`. A tab in a line is a space, because a tab ends a cell.

    Args:
        file: the path of the file, or "language<=path".
        as_it_stands: whether every line is taken for text.

    Attributes:
        language: the language of the file; "" if it was not named.
        numbers: the normal form of each text -> the number of its first line, from 1.
        texts: the texts, in the same order.

    Raises:
        UserError: the file is missing, empty, not UTF-8, no text, or has blank lines only.
    """

    def __init__(self, file: str, as_it_stands: bool):
        label, path = split_label(file)
        self.language = label or ""
        if "<=" in path:
            raise UserError(f"{file}: give one file; run the command once for each language")
        self.path = Path(path)
        self.numbers: dict[str, int] = {}
        self.texts: list[str] = []
        number = 0
        for number, line in enumerate(Sentences(path, as_it_stands), 1):
            form = normal_form(line.text_a)
            if form and self.numbers.setdefault(form, number) == number:
                self.texts.append(line.text_a.strip().replace("\t", " "))
        if not self.texts:
            raise UserError(f"{path}: all lines are blank")
        logger.info("%s: %s lines, %s distinct", path, f"{number:,}", f"{len(self.texts):,}")


def mine_pairs(options: MiningOptions) -> None:
    """Run the command.

    Raises:
        UserError: faiss is not installed, a file is missing or damaged, or another command writes there.
    """
    load_faiss()
    output = Path(options.output)
    with lock_writer(output):
        source = DistinctLines(options.source, options.skip_text_checks)
        target = DistinctLines(options.target, options.skip_text_checks)
        reject_overwrite(
            [source.path, target.path], f"--output {output}", [output / "pairs.tsv", output / "scores.tsv"]
        )
        both = len(source.numbers.keys() & target.numbers.keys())
        if 2 * both > min(len(source.texts), len(target.texts)):
            logger.warning(
                "%s and %s: %s lines are in both; a line finds itself", source.path, target.path, f"{both:,}"
            )

        # The vectors.
        task_options = PredictionOptions(
            pooling=options.pooling, layer=options.layer, max_seq_len=options.max_seq_len, normalize=False
        )
        encoder = make_predictor(EMBEDDING, load(options.model), task_options)
        lines = [Example(text) for side in (source, target) for text in spread(side.texts)]
        warn_truncated(f"{source.path}, {target.path}", lines, encoder.encode, "lines")
        means = language_means(options, encoder, [source.language, target.language])
        sources, targets = (encode_side(encoder, side, means) for side in (source, target))

        # The pairs.
        logger.info("searching %s and %s vectors", f"{len(sources):,}", f"{len(targets):,}")
        forward = find_neighbors(sources, targets, options.num_neighbors)
        backward = find_neighbors(targets, sources, options.num_neighbors)
        scores = margins(forward, backward)
        if not scores.are_ratios:
            reason = (
                "the mean cosine of some lines with their nearest is not above 0, so a ratio says nothing"
            )
            if options.threshold is not None:
                raise UserError(
                    f"--threshold {options.threshold}: {reason}; leave it out, or give fewer --num_neighbors"
                )
            logger.warning("%s; the scores are differences", reason)
        candidates = mine(forward, backward, scores)
        pairs = candidates if options.threshold is None else candidates.at_least(options.threshold)
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
        f"{len(pairs.scores):,} of {len(candidates.scores):,} pairs, {same:,} with the same text on both "
        f"sides: {output}"
    )
    if options.threshold is None:
        counts += (
            f"; there was no threshold, scores are {pairs.scores[-1]:.3f} to {pairs.scores[0]:.3f}: the "
            "lowest pairs are hardly translations; see --threshold"
        )
    logger.info("%s", counts)


def encode_side(encoder: EncodeTexts, side: DistinctLines, means: LanguageCentering | None) -> np.ndarray:
    """The vectors of a text, float32 [lines, H], of length 1; with means, centered.

    It is said of a text if its vectors are nearer to the mean of the other language.
    """
    vectors = encode_in_parts(encoder.vectors, side.texts, "encoding", PART_LINES)
    if means is not None:
        (index,), _ = means.nearest(vectors.mean(axis=0, keepdims=True))
        nearest = means.languages[index]
        if nearest != side.language:
            logger.warning(
                "%s: its sentences are nearer to the mean of %s than to that of %s; check the languages that "
                "--source and --target name",
                side.path,
                nearest,
                side.language,
            )
        vectors = means.subtract(vectors, side.language)
    return unit(vectors)


def language_means(
    options: MiningOptions, encoder: EncodeTexts, languages: Sequence[str]
) -> LanguageCentering | None:
    """The means of the languages of the two texts; None: the vectors stay plain.

    Args:
        languages: of the source and of the target; "": not named.

    Raises:
        UserError: --center_on has no file of a language, or the languages of the texts were not named.
    """
    if options.center_on is not None:
        if not all(languages):
            raise UserError(
                "--center_on needs the languages of the texts: --source 'de<=de.txt' --target 'en<=en.txt'"
            )
        sentences = sentences_by_language(options.center_on, languages)
        means = {
            name: encode_in_parts(encoder.vectors, sentences[name], "encoding", PART_LINES).mean(axis=0)
            for name in languages
        }
    else:
        means = {}
        if encoder.model.language_means_path is not None and encoder.pooling == MEANS_POOLING:
            known = encoder.model.language_means.at(encoder.layer)
            means = dict(zip(known.languages, known.vectors))
        if not {*languages} <= means.keys():
            logger.info(
                "vectors: plain; with pooling %s the model has means of these languages: %s; the texts are "
                "in: %s; --center_on makes means",
                encoder.pooling,
                ", ".join(means) or "none",
                ", ".join(name or "not named" for name in languages),
            )
            return None
    logger.info("vectors: centered")
    return LanguageCentering([*languages], np.stack([means[name] for name in languages]))


def find_neighbors(queries: np.ndarray, targets: np.ndarray, neighbors: int) -> Neighbors:
    """The nearest targets of each query. All are unit vectors, float32 [N, H]."""
    return Neighbors(*build_index(targets).search(queries, min(neighbors, len(targets))))
