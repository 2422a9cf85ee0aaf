"""Hard negative mining: ernie-m mine_hard_negatives.

The texts and their embeddings are held in memory.

<output>/negatives.tsv   the rows of --train_set, each with its negatives
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ernie_m.finetune.retrieval.encoder import make_encode_function, make_encoder, resolve_layer
from ernie_m.finetune.retrieval.retrieval_args import HardNegativeFlags
from ernie_m.finetune.retrieval.split_pairs import DedupedPairs, make_text_keys
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import apply_embedding_defaults, open_model
from ernie_m.model.pipeline_config import get_pair_text_kinds
from ernie_m.reader.files.distinct_lines import PART_LINES, DistinctLines
from ernie_m.reader.files.pairs import PairRows
from ernie_m.utils.files import atomic_file, lock_for_writing, reject_overwrite
from ernie_m.utils.logging import iter_parts, logger
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.nearest import find_neighbors, load_faiss
from ernie_m.vectors.pooling import encode_in_parts, normalize_vectors

PART_ROWS = 4096  # rows whose neighbors are held in memory at a time


def mine_hard_negatives(flags: HardNegativeFlags) -> None:
    """Mine hard negatives for the rows of --train_set, and write the rows with the negatives.

    As in `mine_hard_negatives` of sentence-transformers, positives and lines above the margin are removed
    before the first `range_min` candidates are skipped.

    Raises:
        UserError: faiss is not installed, a file is missing or corrupt, or the output is locked.
    """
    load_faiss()
    output = Path(flags.output, "negatives.tsv")
    with lock_for_writing(output):
        # Read the rows and the candidates, before a model is loaded.
        rows = PairRows(flags.train_set, flags)
        corpus = DistinctLines(flags.corpus, flags.skip_text_checks)
        reject_overwrite([*rows.paths, flags.corpus], f"--output {flags.output}", [output])

        # Encode both, lines of the corpus like positives. Texts that the model cannot tell apart have equal
        # keys, so that no form of a positive is mined as its query's negative.
        checkpoint = open_checkpoint(flags.model)
        opened = open_model(checkpoint)
        flags = apply_embedding_defaults(flags, opened)
        model = make_encoder(opened.config, checkpoint, pooling=flags.pooling)
        encoder = PaddleEncoder(model, flags.pooling, resolve_layer(flags, opened.config.num_hidden_layers))
        encode = make_encode_function(encoder, opened.tokenizer, opened.pipeline_config, flags.max_seq_len)
        kinds = get_pair_text_kinds(rows.are_translations)
        texts = ([row[0] for row in rows], [row[1] for row in rows], corpus.texts)
        queries, positives, lines = (
            normalize_vectors(encode_in_parts(partial(encode, kind=kind), part, "encoding", PART_LINES))
            for kind, part in zip((*kinds, kinds[1]), texts)
        )
        keys_of = make_text_keys(opened, flags.max_seq_len)
        deduped = DedupedPairs.from_rows(rows, keys_of)
        keys_of_lines = keys_of(corpus.texts)

        # A negative must be clearly less similar to its query than every positive of this query is.
        lowest: dict[int, float] = {}  # the key of a query -> its minimum cosine with a positive
        cosines_of_rows = (queries * positives).sum(axis=1).tolist()
        for query, cosine in zip(deduped.keys[:, 0].tolist(), cosines_of_rows, strict=True):
            lowest[query] = min(cosine, lowest.get(query, cosine))

        # Search. The nearest lines of a query may be its positives, which are not negatives.
        most_positives = max(map(len, deduped.positives.values()), default=1)  # in addition to range_max
        count = min(flags.range_max + most_positives, len(corpus.texts))
        counts: list[int] = []  # the number of negatives of each row
        with atomic_file(output, "w", newline="\n") as file:
            file.write("\t".join(rows.make_header(flags.num_negatives)) + "\n")
            for cosines, numbers in iter_neighbors(queries, lines, count):
                keys, row = deduped.read_row(len(counts))
                known = np.array([*keys, *deduped.positives.get(keys[0], ())], np.uint64)
                # abs: the limit is below the positive's cosine even if that is negative.
                limit = lowest[keys[0]] - flags.relative_margin * abs(lowest[keys[0]])
                candidates = numbers[(cosines <= limit) & ~np.isin(keys_of_lines[numbers], known)]
                taken = candidates[flags.range_min : flags.range_min + flags.num_negatives]
                counts.append(len(taken))
                file.write("\t".join([*row, *(corpus.texts[number] for number in taken)]) + "\n")
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


def iter_neighbors(
    queries: np.ndarray, lines: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the cosines, float32 [count], and the numbers, int64 [count], of each query's nearest lines.

    Args:
        queries, lines: unit vectors, float32 [N, H] and [M, H].
    """
    for part in iter_parts(queries, "searching", PART_ROWS):
        yield from zip(*find_neighbors(part, lines, count))
