"""The work of ernie-m mine_pairs: encode two texts in parts, find their nearest neighbours, choose pairs.

Each part is one file with a checksum beside it, NAME.digest. The same command goes on after an interruption,
and makes the parts that are missing or damaged:

<output>/.work/settings.json             what decides the vectors; a folder is continued only with the same
<output>/.work/source/00000.npy          vectors of distinct lines, float32 [lines, H]; target/ likewise
<output>/.work/forward-<key>/00000.npz   the nearest targets of a part's sources; backward-<key>/ likewise
<output>/pairs.tsv                       source and translation, the best pair first
<output>/scores.tsv                      of each pair: score, and the lines of both sentences, from 1
<output>/mining.json                     numbers of lines and pairs, and the threshold
<output>/manifest.json                   sizes and checksums of these three files
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ernie_m.inference.load import load
from ernie_m.inference.tasks import TaskOptions, make_answerer
from ernie_m.inference.tasks.encode import EncodeTexts
from ernie_m.model.checkpoint.files import LANGUAGE_MEANS
from ernie_m.model.checkpoint.hub import local_folder
from ernie_m.pretrain.build_corpus.workers import LocalWorkers, RayWorkers
from ernie_m.reader.batching import Example, spread, warn_if_some_are_cut
from ernie_m.reader.files.aligned_lines import Sentences, sentences_by_language
from ernie_m.reader.files.find_pairs import split_label
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.rows import TableOptions
from ernie_m.training.claim import claim_file, only_run_in
from ernie_m.utils.checksums import MANIFEST, is_whole, write_digest, write_manifest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, sha256_of, write_json
from ernie_m.utils.logging import Progress, logger
from ernie_m.utils.options import PositiveInt
from ernie_m.vectors.centring import MEANS_POOLING, LanguageMeans
from ernie_m.vectors.mine_by_margin import MinedPairs, Neighbours, margins, mine
from ernie_m.vectors.mined_quality import choose_threshold, quality
from ernie_m.vectors.nearest import NEIGHBOURS, index_of, load_faiss
from ernie_m.vectors.pooling import unit

PART_LINES = 16_384  # sentences that are encoded, and searched, between two files
Encode = Callable[[list[str]], np.ndarray]  # texts -> their vectors, float32 [N, H]


@dataclass(unsafe_hash=True)
class MiningOptions(TableOptions):
    """What to mine, with which model, and which pairs to write."""

    source: str
    """A text file with one sentence on each line. With its language, as in de<=news.de.txt, vectors can be
    centred."""

    target: str
    """The text of the other language, in the same form."""

    model: str
    """A checkpoint of any supported format, or a folder that ernie-m export wrote."""

    output: str = "mined"
    """The folder for pairs.tsv and scores.tsv. The same command goes on after an interruption."""

    margin: Literal["ratio", "distance", "absolute"] = "ratio"
    """The score of a pair: its cosine divided by the mean cosine of the nearest neighbours of both sentences,
    their difference, or the cosine itself."""

    retrieval: Literal["max", "intersect", "forward", "backward"] = "max"
    """max: the best pairs of both directions, each sentence in one pair only. intersect: pairs that are the
    best in both directions. forward, backward: the best pair of each source, or of each target."""

    neighbours: PositiveInt = NEIGHBOURS
    """The number of nearest neighbours of a sentence."""

    threshold: float | None = None
    """The lowest score of a pair that is written. Default: the one with the best F1 on --gold, otherwise all
    pairs are written."""

    gold: str | None = None
    """A TSV file of all pairs that the two texts are known to have: source, translation."""

    pooling: Literal["mean", "specials", "cls", "pooled"] | None = None
    """A vector is the mean of the tokens, the mean with [CLS] and [SEP] (specials), the state of [CLS] (cls),
    or the pooled [CLS]. Default: as the model's files say, otherwise mean."""

    layer: str | None = None
    """The layer of the vectors: a number, middle or top. Default: as in training for retrieval, otherwise
    top."""

    max_seq_len: PositiveInt | None = None
    """The longest sentence in tokens. Longer ones are cut. Default: what the model can read."""

    centre_on: str | None = None
    """Files of sentences, "de<=de.txt,en<=en.txt": vectors are without the mean of their language. Default:
    the means beside the weights, if there are any for both languages."""

    ray: str | None = None
    """The head of a Ray cluster, whose CPUs encode: host:port, auto for the one of this machine, or local to
    start one."""


class DistinctLines:
    """The lines of a text file that are neither blank nor equal to an earlier one.

    Args:
        file: the path of the file, or "language<=path".
        as_it_stands: whether every line is taken for text.

    Attributes:
        language: the language of the file; "" if it was not named.
        numbers: int64 [N], the number of each line in the file, from 0.
        hashes: uint64 [N], equal for equal lines, also of another text.

    Raises:
        UserError: the file is missing, empty, not UTF-8, no text, or has blank lines only.
    """

    def __init__(self, file: str, as_it_stands: bool):
        label, path = split_label(file)
        self.language = label or ""
        if "<=" in path:
            raise UserError(f"{file}: give one file; run the command once for each language")
        self.path = Path(path)
        self.sentences = Sentences(path, as_it_stands)
        hashes = np.array([_hash(example.text_a) for example in self.sentences], np.uint64)
        distinct_hashes, first_lines = np.unique(hashes, return_index=True)
        is_blank = distinct_hashes == _hash("")  # a blank line is hashed without its white space
        numbers = np.sort(first_lines[~is_blank])
        if not len(numbers):
            raise UserError(f"{path}: all lines are blank")
        self.numbers = numbers
        self.hashes = hashes[numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def text(self, index: int) -> str:
        """A line without white space at both ends. A tab in it is a space, because a tab ends a cell."""
        return _clean(self.sentences[int(self.numbers[index])].text_a)

    def parts(self) -> list[range]:
        """The indices of the lines in each part."""
        return [range(first, min(first + PART_LINES, len(self))) for first in range(0, len(self), PART_LINES)]

    def index_by_hash(self) -> dict[int, int]:
        """The hash of each line -> its index."""
        return dict(zip(self.hashes.tolist(), range(len(self))))


class VectorParts(Sequence[np.ndarray]):
    """The vectors of a text, part by part: float32 [lines, H], of length 1, centred if there is a mean."""

    def __init__(self, paths: list[Path], mean: np.ndarray | None):
        self.paths = paths
        self.mean = mean

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        vectors = np.load(self.paths[number])
        if self.mean is not None:
            vectors = vectors - self.mean
        return unit(vectors)


def mine_pairs(options: MiningOptions) -> None:
    """Run the command.

    Raises:
        UserError: faiss is not installed, a file is missing or damaged, or the folder holds other work.
    """
    load_faiss()
    model = local_folder(options.model)
    if not model.exists():
        raise UserError(f"--model {options.model}: no such folder")
    # Absolute, because the workers of a cluster run in another folder.
    options = replace(options, model=str(model.absolute()))
    source = DistinctLines(options.source, options.text_as_it_stands)
    target = DistinctLines(options.target, options.text_as_it_stands)
    both = len(source.index_by_hash().keys() & target.index_by_hash().keys())
    if 2 * both > min(len(source), len(target)):
        logger.warning(
            "%s and %s: %s lines are in both; a line finds itself", source.path, target.path, f"{both:,}"
        )
    gold = gold_pairs(options.gold, source, target, options) if options.gold else None
    for side in (source, target):
        logger.info("%s: %s lines, %s distinct", side.path, f"{len(side.sentences):,}", f"{len(side):,}")

    # Only what decides the vectors decides whether a folder can be continued.
    settings = vector_settings(options, source, target)
    work = Path(options.output).absolute() / ".work"
    with only_run_in(work):
        if not (work / "settings.json").exists():
            encoder = encoder_of(options)  # a layer that the model does not have must not claim the folder
            lines = [
                Example(side.text(index)) for side in (source, target) for index in spread(range(len(side)))
            ]
            warn_if_some_are_cut(f"{source.path}, {target.path}", lines, encoder.encode, "lines")
        claim_file(work / "settings.json", settings, f"choose another --output, or delete {work}")
        # The vectors of both texts.
        means = language_means(options, source.language, target.language)
        facts = {"settings": digest_of_settings(settings)}  # a part of other work is not taken
        sides = {work / "source": source, work / "target": target}
        sources, targets = encode_sides(options, sides, means, facts)

        # The neighbours.
        digest = hashlib.sha256(json.dumps([options.neighbours, list(means)]).encode())
        for mean in means.values():
            digest.update(mean.tobytes())
        key = digest.hexdigest()[:12]  # searches of one work folder differ in it if their results may
        forward_paths = part_paths(work / f"forward-{key}", source, "npz")
        backward_paths = part_paths(work / f"backward-{key}", target, "npz")
        forward = find_neighbours(sources, targets, len(target), options.neighbours, forward_paths, facts)
        backward = find_neighbours(targets, sources, len(source), options.neighbours, backward_paths, facts)

        # The pairs.
        scores = margins(forward, backward, options.margin)
        if scores.kind != options.margin:
            reason = (
                "the mean cosine of some lines with their nearest is not above 0, so a ratio says nothing"
            )
            if options.threshold is not None:
                raise UserError(
                    f"--threshold {options.threshold}: {reason}; give --margin distance and a threshold for "
                    "it, or fewer --neighbours"
                )
            logger.warning("%s; the scores are differences (--margin distance)", reason)
        candidates = mine(forward, backward, scores, options.retrieval)
        pairs, threshold_facts = above_threshold(candidates, options.threshold, gold)
        facts_of_pairs = {"margin": scores.kind, "candidates": len(candidates.scores)}
        results = {**threshold_facts, **facts_of_pairs, "centred": bool(means)}
        write(Path(options.output), source, target, pairs, results)
    same = np.count_nonzero(source.hashes[pairs.sources] == target.hashes[pairs.targets])
    counts = (
        f"{len(pairs.scores):,} of {len(candidates.scores):,} pairs, {same:,} with the same text on both "
        f"sides: {options.output}"
    )
    if not threshold_facts and len(pairs.scores):
        counts += (
            f"; there was no threshold, scores are {pairs.scores[-1]:.3f} to {pairs.scores[0]:.3f}: the "
            "lowest pairs are hardly translations; see --threshold and --gold"
        )
    logger.info("%s", counts)


def above_threshold(
    pairs: MinedPairs, threshold: float | None, gold: set[tuple[int, int]] | None
) -> tuple[MinedPairs, dict[str, Any]]:
    """Choose the pairs with a score of at least a threshold.

    Args:
        threshold: the value of --threshold; None: the threshold with the best F1 on the gold pairs, or
            without gold pairs no threshold: all pairs are chosen. Without pairs there is none, either.
        gold: the gold pairs, as indices of lines; None: there is no --gold.

    Returns:
        The pairs, and what mining.json says of the threshold: {} if there is none, otherwise {"threshold"},
        with gold pairs also {"precision", "recall", "f1"} in per cent.
    """
    if not len(pairs.scores) or (gold is None and threshold is None):
        return pairs, {}
    if gold is None:
        return pairs.at_least(threshold), {"threshold": threshold}
    index_pairs = zip(pairs.sources.tolist(), pairs.targets.tolist())
    is_correct = np.array([pair in gold for pair in index_pairs])  # bool [P]
    if threshold is None:
        scored = choose_threshold(pairs.scores, is_correct, len(gold))
    else:
        scored = quality(pairs.scores, is_correct, len(gold), threshold)
    line = "%s gold pairs, threshold %.6f: precision %.2f, recall %.2f, F1 %.2f"
    logger.info(line, f"{len(gold):,}", scored.threshold, scored.precision, scored.recall, scored.f1)
    return pairs.at_least(scored.threshold), scored._asdict()


def gold_pairs(
    path: str, source: DistinctLines, target: DistinctLines, options: TableOptions | None = None
) -> set[tuple[int, int]]:
    """The pairs of --gold: (index in the source, index in the target), as `DistinctLines` counts.

    Args:
        path, options: what `PairRows` reads.

    Raises:
        UserError: it has no pairs, or more than two texts on a line, or one of them is not in its text.
    """
    sides = (source, target)
    index_by_hash = [side.index_by_hash() for side in sides]
    rows = PairRows(path, options)
    pairs = set()
    for number, texts in zip(rows.lines.tolist(), rows):
        if len(texts) != 2:
            raise UserError(
                f"{path}, line {number}: {len(texts)} texts, not 2; give source, tab, translation"
            )
        pair = []
        for text, side, index_of_side in zip(texts, sides, index_by_hash):
            index = index_of_side.get(_hash(text))
            if index is None:
                raise UserError(f"{path}, line {number}: '{text[:60]}' is not in {side.path}")
            pair.append(index)
        pairs.add(tuple(pair))
    return pairs


def vector_settings(options: MiningOptions, source: DistinctLines, target: DistinctLines) -> dict[str, Any]:
    """What decides the vectors, as JSON values."""
    model = Path(options.model)
    if model.is_file():
        digests = {model.name: sha256_of(model)}
    else:
        output = Path(options.output).absolute()  # it may be in the folder of the model
        there = [path for path in model.rglob("*") if path.is_file()]
        files = sorted(path for path in there if not path.is_relative_to(output))
        # By their paths in the folder, because files of two sub-folders may have one name.
        digests = {path.relative_to(model).as_posix(): sha256_of(path) for path in files}
    return {
        "source": sha256_of(source.path),
        "target": sha256_of(target.path),
        "model": digests,
        "pooling": options.pooling,
        "layer": options.layer,
        "max_seq_len": options.max_seq_len,
    }


@cache
def encoder_of(options: MiningOptions) -> EncodeTexts:
    """The encoder of the model; a process opens it once."""
    task_options = TaskOptions(
        pooling=options.pooling, layer=options.layer, max_seq_len=options.max_seq_len, normalize=False
    )
    return make_answerer("encode", load(options.model), task_options)


def vectors_of(options: MiningOptions, texts: list[str]) -> np.ndarray:
    """The vectors of texts, [N, H]."""
    return encoder_of(options).vectors(texts)


def encode_sides(
    options: MiningOptions,
    sides: dict[Path, DistinctLines],
    means: dict[str, np.ndarray],
    facts: Mapping[str, Any],
) -> list[VectorParts]:
    """The vectors of each text. On disk they are not centred: `VectorParts` subtracts the means.

    Args:
        sides, facts: those of `encode_parts`.
        means: those of `language_means`.
    """
    encode_parts(partial(vectors_of, options), sides, facts, options.ray)
    vectors = []
    for folder, side in sides.items():
        paths = part_paths(folder, side, "npy")
        if means:
            warn_of_other_language(side, np.load(paths[0]), means)
        vectors.append(VectorParts(paths, means.get(side.language)))
    return vectors


def digest_of_settings(settings: Mapping[str, Any]) -> str:
    """SHA-256 of what decides vectors; in the digest of each part, so that none of other work is taken."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def encode_part(encode: Encode, texts: list[str], path: Path, facts: Mapping[str, Any]) -> int:
    """Write the vectors of some texts, and return the number of texts. Workers call it."""
    vectors = encode(texts)
    with atomic_file(path) as file:
        np.save(file, vectors)
    write_digest(path, **_facts_of(path, facts))
    return len(texts)


def _facts_of(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a part's digest says beside its checksum: its name, the lines of a part, and what decides them."""
    return {"part": f"{path.parent.name}/{path.name}", "part_lines": PART_LINES, **facts}


def encode_parts(
    encode: Encode, sides: dict[Path, DistinctLines], facts: Mapping[str, Any], ray: str | None = None
) -> None:
    """Encode the parts that are missing or damaged.

    Args:
        encode: makes the vectors; a Ray cluster gets it pickled.
        sides: the folder for the vectors of a text -> the text.
        facts: what decides the vectors; a part that was made with others is made again.
        ray: see `MiningOptions`; None: this process encodes.
    """
    missing = []
    encoded_before = 0  # lines
    for folder, side in sides.items():
        for part, path in zip(side.parts(), part_paths(folder, side, "npy")):
            if is_whole(path, **_facts_of(path, facts)):
                encoded_before += len(part)
            else:
                missing.append((side, part, path))
    if not missing:
        return
    # A generator: the texts of a part are read when its turn comes.
    tasks = ((encode, [side.text(index) for index in part], path, facts) for side, part, path in missing)
    total = sum(len(side) for side in sides.values())
    progress = Progress(total, "encoding", initial=encoded_before, unit="lines")
    if ray is None:
        workers = LocalWorkers(number=1)  # this process
    else:
        workers = RayWorkers(number=0, address=ray)  # one for each core of the cluster
    with workers:
        for count in workers.run(encode_part, tasks):
            progress.update(count)
    progress.close()


def part_paths(folder: Path, side: DistinctLines, suffix: str) -> list[Path]:
    """The file of each part of a text."""
    return [folder / f"{number:05d}.{suffix}" for number in range(len(side.parts()))]


def language_means(options: MiningOptions, source: str, target: str) -> dict[str, np.ndarray]:
    """Language -> its mean vector, [H], for the languages of the two texts; empty: the vectors stay plain.

    Args:
        source, target: the languages of the texts; "": not named.

    Raises:
        UserError: --centre_on has no file of a language, or the languages of the texts were not named.
    """
    languages = (source, target)
    if options.centre_on is None:
        means, reason = means_in_model_folder(options, languages)
        logger.info("vectors: %s, because %s", "centred" if means else "plain", reason)
        return means
    if not all(languages):
        raise UserError(
            "--centre_on needs the languages of the texts: --source 'de<=de.txt' --target 'en<=en.txt'"
        )
    sentences = sentences_by_language(options.centre_on, "--centre_on", languages)
    logger.info("vectors: centred, because of --centre_on")
    encoder = encoder_of(options)
    return {language: encoder.vectors(sentences[language]).mean(axis=0) for language in languages}


def means_in_model_folder(
    options: MiningOptions, languages: tuple[str, str]
) -> tuple[dict[str, np.ndarray], str]:
    """The means beside the weights, if they are of this pooling and of both languages; and the reason."""
    if not Path(options.model, LANGUAGE_MEANS).is_file():  # a run that goes on may not need to open the model
        return {}, f"{options.model} has no {LANGUAGE_MEANS}; --centre_on makes means"
    if not all(languages):
        return {}, "the languages of the texts are not named, as in --source 'de<=de.txt'"
    encoder = encoder_of(options)
    if encoder.pooling != MEANS_POOLING:
        return {}, f"the means beside the weights are of --pooling {MEANS_POOLING}, not {encoder.pooling}"
    all_means = encoder.model.language_means
    by_language = dict(zip(all_means.languages, all_means.vectors))  # language -> [L + 1, H]
    unknown = [language for language in languages if language not in by_language]
    if unknown:
        return {}, f"the model has no mean of {unknown[0]}; --centre_on makes means"
    means = {language: by_language[language][encoder.layer] for language in languages}
    return means, "the model has the means of both languages"


def warn_of_other_language(side: DistinctLines, vectors: np.ndarray, means: dict[str, np.ndarray]) -> None:
    """Warn if the first vectors of a text, [lines, H], are nearer to the mean of the other language."""
    language_means = LanguageMeans(list(means), np.stack(list(means.values())))
    mean_of_text = vectors.mean(axis=0, keepdims=True)  # [1, H]
    (index,), _ = language_means.nearest(mean_of_text)
    nearest = language_means.languages[index]
    if nearest != side.language:
        logger.warning(
            "%s: its sentences are nearer to the mean of %s than to that of %s; check the languages that "
            "--source and --target name",
            side.path,
            nearest,
            side.language,
        )


def find_neighbours(
    queries: VectorParts,
    targets: VectorParts,
    target_count: int,
    neighbours: int,
    paths: list[Path],
    facts: Mapping[str, Any],
) -> Neighbours:
    """The nearest targets of all queries. Parts that are missing or damaged are searched, and written.

    Args:
        facts: as for `encode_parts`.
    """
    missing = [number for number, path in enumerate(paths) if not is_whole(path, **_facts_of(path, facts))]
    if missing:
        logger.info("indexing %s vectors", f"{target_count:,}")
        index = index_of(targets, target_count)
        searched_before = len(paths) - len(missing)
        progress = Progress(len(paths), "searching", initial=searched_before, unit="parts")
        for number in missing:
            cosines, numbers = index.search(queries[number], min(neighbours, target_count))
            with atomic_file(paths[number]) as file:
                np.savez(file, cosines=cosines, numbers=numbers)
            write_digest(paths[number], **_facts_of(paths[number], facts))
            progress.update()
        progress.close()
    parts = [np.load(path) for path in paths]
    return Neighbours(
        np.concatenate([part["cosines"] for part in parts]),
        np.concatenate([part["numbers"] for part in parts]),
    )


def write(
    output: Path, source: DistinctLines, target: DistinctLines, pairs: MinedPairs, facts: dict[str, Any]
) -> None:
    """Write pairs.tsv, scores.tsv, and mining.json with the facts in it, and a manifest of the three."""
    with (
        atomic_file(output / "pairs.tsv", "w", newline="\n") as texts,
        atomic_file(output / "scores.tsv", "w", newline="\n") as scores,
    ):
        for source_index, target_index, score in zip(pairs.sources, pairs.targets, pairs.scores):
            texts.write(f"{source.text(source_index)}\t{target.text(target_index)}\n")
            source_line = source.numbers[source_index] + 1
            target_line = target.numbers[target_index] + 1
            scores.write(f"{score:.6f}\t{source_line}\t{target_line}\n")
    # path -> the number of its lines, and of those that are neither blank nor equal to an earlier one
    lines = {str(side.path): [len(side.sentences), len(side)] for side in (source, target)}
    write_json(output / "mining.json", {"lines": lines, "pairs": len(pairs.scores), **facts})
    write_manifest(output / MANIFEST, ["mining.json", "pairs.tsv", "scores.tsv"])


def _clean(text: str) -> str:
    """A line as it is encoded, compared with others, and written."""
    return text.strip().replace("\t", " ")


def _hash(text: str) -> int:
    """64 bits that stand for a line."""
    return int.from_bytes(hashlib.blake2b(_clean(text).encode(), digest_size=8).digest(), "big")
