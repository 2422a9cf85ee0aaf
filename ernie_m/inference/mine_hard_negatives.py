"""Hard negative mining: run_retrieval.py --mine_hard_negatives. See docs/retrieval.md.

The texts and their embeddings are held in memory.

<checkpoints>/negatives.tsv   the rows of --train_set, each with its negatives
"""

from functools import partial
from pathlib import Path

import numpy as np

from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.run import load_model_for_seed, make_encode_function, read_inputs
from ernie_m.finetune.retrieval.split_pairs import DedupedPairs, make_text_keys
from ernie_m.inference.mine_pairs import PART_LINES, DistinctLines
from ernie_m.inference.tasks.encode import encode_in_parts
from ernie_m.model.pipeline_config import get_pair_text_kinds
from ernie_m.reader.files.pairs import PairRows
from ernie_m.utils.files import atomic_file, lock_for_writing, reject_overwrite
from ernie_m.utils.logging import Progress, logger
from ernie_m.vectors.nearest import find_neighbors
from ernie_m.vectors.pooling import normalize_vectors

PART_ROWS = 4096  # rows whose neighbors are held in memory at a time


def mine_hard_negatives(flags: RetrievalFlags) -> None:
    """Mine hard negatives for the rows of --train_set, and write the rows with the negatives.

    As in `mine_hard_negatives` of sentence-transformers, positives and lines above the margin are removed
    before the first `range_min` candidates are skipped.

    Raises:
        UserError: a file is missing or corrupt, or the output is locked.
    """
    output = Path(flags.checkpoints, "negatives.tsv")
    with lock_for_writing(output):
        inputs = read_inputs(flags)
        flags = inputs.flags
        rows = PairRows(flags.train_set, flags)
        reject_overwrite(
            [*rows.paths, flags.mine_hard_negatives], f"--checkpoints {flags.checkpoints}", [output]
        )
        corpus = DistinctLines(flags.mine_hard_negatives, flags.skip_text_checks)
        (seed,) = flags.seeds
        opened, model = load_model_for_seed(inputs, seed)
        encode = make_encode_function(flags, model, opened.tokenizer, opened.pipeline_config)
        keys_of = make_text_keys(opened, flags.max_seq_len)
        deduped = DedupedPairs.from_rows(rows, keys_of)
        keys_of_lines = keys_of(corpus.texts)

        kinds = get_pair_text_kinds(rows.are_translations)
        texts = ([row[0] for row in rows], [row[1] for row in rows], corpus.texts)
        # Lines of the corpus are encoded like positives.
        queries, positives, lines = (
            normalize_vectors(encode_in_parts(partial(encode, kind=kind), part, "encoding", PART_LINES))
            for kind, part in zip((*kinds, kinds[1]), texts)
        )

        lowest: dict[int, float] = {}  # the key of a query -> its minimum cosine with a positive
        cosines_of_rows = (queries * positives).sum(axis=1).tolist()
        for query, cosine in zip(deduped.keys[:, 0].tolist(), cosines_of_rows, strict=True):
            lowest[query] = min(cosine, lowest.get(query, cosine))
        # The nearest lines of a query may be its positives, which are not negatives.
        most_positives = max(map(len, deduped.positives.values()), default=1)  # in addition to range_max
        count = min(flags.range_max + most_positives, len(corpus.texts))
        counts = []  # the number of negatives of each row
        progress = Progress(len(rows), "searching", unit="rows")
        with atomic_file(output, "w", newline="\n") as file:
            file.write("\t".join(rows.make_header(flags.num_negatives)) + "\n")
            for first in range(0, len(rows), PART_ROWS):
                neighbors = find_neighbors(
                    queries[first : first + PART_ROWS], lines, count
                )  # [rows, count] both
                for cosines, numbers in zip(*neighbors):
                    keys, row = deduped.read_row(len(counts))
                    known = np.array([*keys, *deduped.positives.get(keys[0], ())], np.uint64)
                    # abs: the limit is below the positive's cosine even if that is negative.
                    limit = lowest[keys[0]] - flags.relative_margin * abs(lowest[keys[0]])
                    candidates = numbers[(cosines <= limit) & ~np.isin(keys_of_lines[numbers], known)]
                    taken = candidates[flags.range_min : flags.range_min + flags.num_negatives]
                    counts.append(len(taken))
                    file.write("\t".join([*row, *(corpus.texts[number] for number in taken)]) + "\n")
                progress.update(len(counts) - first)
        progress.close()
    rows_with_negatives = np.count_nonzero(counts)
    logger.info(
        "wrote negatives: %s for %s of %s rows, to %s. To train on them, set --train_set to this file",
        f"{sum(counts):,}",
        f"{rows_with_negatives:,}",
        f"{len(counts):,}",
        output,
    )
    if rows_with_negatives < len(counts) / 2:
        logger.warning(
            "fewer than half of the rows have negatives: most candidates are too similar to the query. Use "
            "a model trained on the pairs, or increase --range_max"
        )
