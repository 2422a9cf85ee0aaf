"""Hard negatives for own pairs: the work of run_retrieval.py --mine_negatives. See docs/retrieval.md.

Each part is one file with a checksum beside it, NAME.digest. The same command goes on after an interruption,
and makes the parts that are missing or damaged:

<checkpoints>/negatives.tsv                the rows of --train_set, each with its negatives
<checkpoints>/.negatives/settings.json     what decides the vectors; a folder is continued only with the same
<checkpoints>/.negatives/corpus/00000.npy  vectors of distinct lines, float32 [lines, H]
<checkpoints>/.negatives/rows/00000.npz    the lines that are nearest to the queries of a part of the rows
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.finetune.command import digest_of_files, identity_of
from ernie_m.finetune.retrieval.command import encoder_of, model_of_seed, read_inputs
from ernie_m.finetune.retrieval.flags import RetrievalFlags
from ernie_m.finetune.retrieval.keyed_rows import KeyedRows, keys_by
from ernie_m.finetune.retrieval.search_bitexts import Encode
from ernie_m.inference.mine_pairs import (
    DistinctLines,
    VectorParts,
    digest_of_settings,
    encode_parts,
    part_paths,
)
from ernie_m.model.conventions import TextKind, kinds_of_pair
from ernie_m.model.tasks import RETRIEVAL
from ernie_m.reader.batching import windows
from ernie_m.reader.files.pairs import PairRows
from ernie_m.training.claim import claim_file, only_run_in
from ernie_m.utils.checksums import is_whole, write_digest
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import Progress, logger
from ernie_m.vectors.nearest import nearest_in_blocks
from ernie_m.vectors.pooling import unit

PART_ROWS = 4096  # the rows of a part; the vectors of the whole corpus are read for each part
# The values of `identity_of` that decide vectors.
_DECIDING = ("pooling", "layer", "max_seq_len", "dtype", "amp", "weights", "model", "vocabulary")


def mine_negatives(flags: RetrievalFlags) -> None:
    """Run the command.

    Raises:
        UserError: a file is missing or damaged, or the folder holds the work on another corpus or model.
    """
    inputs = read_inputs(flags)
    flags = inputs.flags
    rows = PairRows(flags.train_set, flags)
    corpus = DistinctLines(flags.mine_negatives, flags.text_as_it_stands)
    (seed,) = flags.seeds
    opened, model = model_of_seed(inputs, seed)
    encode = encoder_of(flags, model, opened.tokenizer, opened.reading)
    kinds = kinds_of_pair(rows.are_translations)  # a line of the corpus is what a positive is
    identity = identity_of(flags, RETRIEVAL, [opened.checkpoint], opened.config, opened.tokenizer)
    settings = {key: identity[key] for key in _DECIDING}
    settings |= {"corpus": digest_of_files([corpus.path]), "random_seed": seed}
    settings["prompts"] = [opened.reading.prompt(kind) for kind in kinds]

    output = Path(flags.checkpoints, "negatives.tsv")
    work = Path(flags.checkpoints, ".negatives")
    with only_run_in(work):
        claim_file(work / "settings.json", settings, f"choose another --checkpoints, or delete {work}")
        facts = {"settings": digest_of_settings(settings)}  # a part of other work is not taken
        encode_parts(partial(encode, kind=kinds[1]), {work / "corpus": corpus}, facts)
        vectors = VectorParts(part_paths(work / "corpus", corpus, "npy"), mean=None)
        # The nearest lines of a query may be its positives, which are no negatives.
        keys_of = keys_by(opened, flags.max_seq_len)
        keyed_rows = KeyedRows.of(rows, keys_of)
        most_positives = max(map(len, keyed_rows.positives.values()), default=1)  # beside range_max
        count = min(flags.range_max + most_positives, len(corpus))
        neighbour_files = find_nearest(encode, kinds, rows, vectors, count, work / "rows", facts)
        keys_of_lines = keys_of(map(corpus.text, range(len(corpus))))
        write(output, flags, keyed_rows, corpus, keys_of_lines, neighbour_files)


def find_nearest(
    encode: Encode,
    kinds: tuple[TextKind, TextKind],
    rows: PairRows,
    corpus: VectorParts,
    count: int,
    folder: Path,
    facts: Mapping[str, Any],
) -> list[Path]:
    """Find the lines that are nearest to each query. Parts that are missing or damaged are searched.

    Args:
        kinds: what a query is, and a positive.
        facts: what decides the vectors; a part that was made with other facts is searched again.

    Returns:
        The file of each part of the rows. It has "lines", int64 [rows, count], and their "cosines", float32,
        both the nearest first, and "positives", the cosine of query and positive, float32 [rows].
    """
    # A part that was made with other rows or another number of lines is searched again, too.
    facts = {**facts, "rows": digest_of_files(rows.paths), "part_rows": PART_ROWS, "count": count}
    progress = Progress(len(rows), "searching", unit="rows")
    paths = []
    for part in windows(rows, PART_ROWS):
        path = folder / f"{len(paths):05d}.npz"
        paths.append(path)
        if not is_whole(path, part=path.name, **facts):
            queries = unit(encode([row[0] for row in part], kinds[0]))  # [rows, H]
            positives = unit(encode([row[1] for row in part], kinds[1]))  # [rows, H]
            cosines, lines = nearest_in_blocks(queries, corpus, count)
            with atomic_file(path) as file:
                np.savez(file, lines=lines, cosines=cosines, positives=(queries * positives).sum(axis=1))
            write_digest(path, part=path.name, **facts)
        progress.update(len(part))
    progress.close()
    return paths


def write(
    path: Path,
    flags: RetrievalFlags,
    rows: KeyedRows,
    corpus: DistinctLines,
    keys_of_lines: np.ndarray,
    neighbour_files: list[Path],
) -> None:
    """Write the rows with their negatives, and log how many there are.

    Lines are counted as in `mine_hard_negatives` of sentence-transformers: those that are positives, or above
    the margin, are taken out before `range_min` are passed over.

    Args:
        keys_of_lines: of the lines of the corpus, uint64 [lines].
        neighbour_files: the files of `find_nearest`.
    """
    lowest: dict[int, float] = {}  # the key of a query -> the lowest of its cosines with its positives
    positives = np.concatenate([np.load(part)["positives"] for part in neighbour_files])  # [rows]
    for query, cosine in zip(rows.keys[:, 0].tolist(), positives.tolist(), strict=True):
        lowest[query] = min(cosine, lowest.get(query, cosine))
    counts = []  # the number of negatives of each row so far
    with atomic_file(path, "w", newline="\n") as file:
        file.write("\t".join(rows.rows.header(flags.num_negatives)) + "\n")
        for part in neighbour_files:
            arrays = np.load(part)
            for lines, cosines in zip(arrays["lines"], arrays["cosines"], strict=True):  # [count] each
                keys, row = rows.read(len(counts))
                own = np.array([*keys, *rows.positives.get(keys[0], ())], np.uint64)
                # abs: the limit lies below the positive's cosine even where that is negative.
                limit = lowest[keys[0]] - flags.relative_margin * abs(lowest[keys[0]])
                candidates = lines[(cosines <= limit) & ~np.isin(keys_of_lines[lines], own)]
                taken = candidates[flags.range_min : flags.range_min + flags.num_negatives]
                negatives = list(map(corpus.text, taken))
                counts.append(len(negatives))
                file.write("\t".join([*row, *negatives]) + "\n")
    rows_with_negatives = np.count_nonzero(counts)
    logger.info(
        "%s negatives for %s of %s rows: %s; train on them with --train_set",
        f"{sum(counts):,}",
        f"{rows_with_negatives:,}",
        f"{len(counts):,}",
        path,
    )
    if rows_with_negatives < len(counts) / 2:
        logger.warning(
            "few rows have negatives: the lines nearest to the queries are too near; take a model that was "
            "trained on the pairs, or raise --range_max"
        )
