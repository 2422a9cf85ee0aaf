"""ernie-m mine_hard_negatives finds what sentence-transformers' mine_hard_negatives finds."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from ernie_m.commands import mine_hard_negatives as command
from ernie_m.finetune.retrieval import mine_hard_negatives as mining
from ernie_m.reader.equal_texts import hash_texts
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.launching import as_flags, call_main
from tests.toys import write_lines

COUNT = 120  # distinct texts


def random_vectors(texts):
    """A random vector of each text, float32 [N, 6], of length 1. Texts n, n + 25, ... are neighbors."""
    topics = [np.random.default_rng(int(text.split()[-1]) % 25).normal(size=6) for text in texts]
    noise = [np.random.default_rng(list(text.encode())).normal(size=6) for text in texts]
    return normalize_vectors(np.array(topics) + 0.6 * np.array(noise))


class Peer:
    """What mine_hard_negatives needs of a model."""

    device = torch.device("cpu")

    def encode_query(self, texts, **options):
        return random_vectors(texts)

    encode_document = encode_query

    def similarity(self, queries, documents):
        return torch.as_tensor(queries) @ torch.as_tensor(documents).T

    def similarity_pairwise(self, queries, documents):
        return (torch.as_tensor(queries) * torch.as_tensor(documents)).sum(dim=1)


@pytest.fixture(scope="module")
def rows():
    """24 pairs of a query and a positive; queries 0, 1 and 2 have four positives each."""
    return [(f"query {n % 3 if n % 2 else n}", f"text {50 + n}") for n in range(24)]


@pytest.fixture(scope="module")
def mine(rows, module_folder):
    """mine(**flags) -> (query, positive) -> its negatives, by the command."""
    model = toys.make_models(module_folder) / "encode"
    write_lines(module_folder / "pairs.tsv", ["query\tpositive", *map("\t".join, rows)])
    write_lines(module_folder / "corpus.txt", make_corpus(rows))

    def call(**flags):
        files = {"train_set": module_folder / "pairs.tsv", "corpus": module_folder / "corpus.txt"}
        more = {"model": model, "output": module_folder / "out"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(module_folder)
            patch.setattr(
                mining,
                "make_encode_function",
                lambda *arguments: lambda texts, kind: random_vectors(texts),
            )
            patch.setattr(mining, "make_text_keys", lambda *arguments: hash_texts)  # it knows no digits
            call_main(command, as_flags({**files, **more, **flags}))
        _, *lines = (module_folder / "out/negatives.tsv").read_text(encoding="utf-8").splitlines()
        return {(query, positive): texts for query, positive, *texts in (line.split("\t") for line in lines)}

    return call


def make_corpus(rows):
    return [f"text {number}" for number in range(COUNT)] + [query for query, _ in rows[:5]]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"range_min": 5},
        {"range_min": 7, "range_max": 20},
        {"range_min": 2, "range_max": 30, "relative_margin": 0.3, "num_negatives": 6},
        {"range_max": 40, "relative_margin": 0.5, "num_negatives": 5},
        {"relative_margin": 0.0, "range_max": 1000, "num_negatives": 90},  # more than there are
    ],
)
def test_mined_negatives_equal_sentence_transformers(mine, rows, flags):
    dataset = Dataset.from_dict({"query": [row[0] for row in rows], "positive": [row[1] for row in rows]})
    defaults = {"range_max": 100, "relative_margin": 0.05, "output_format": "triplet", "verbose": False}
    mined = mine_hard_negatives(dataset, Peer(), corpus=make_corpus(rows), **{**defaults, **flags})
    expected = defaultdict(list)
    for row in mined:
        expected[row["query"], row["positive"]].append(row["negative"])
    negatives = mine(**flags)
    assert negatives == {row: expected[row] for row in rows}
    assert len({len(texts) for texts in negatives.values()}) > 1  # the rows differ in how many they have
