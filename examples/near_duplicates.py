"""Print pairs of texts with the same meaning, in any languages, most similar first.

    python examples/near_duplicates.py configs/e5-small texts.txt 0.91
    python examples/near_duplicates.py configs/e5-small table.csv 0.91 --text Body

The threshold depends on model and texts: E5's cosines are between 0.7 and 1, and sentences with the same
pattern reach 0.97. Choose it where the printed pairs cease to be duplicates. For more than about 20,000
texts, use `range_search` of `faiss.IndexFlatIP`, which does not need an N x N matrix. `ernie-m mine_pairs`
finds translations in two files.
"""

import sys
from pathlib import Path

import numpy as np

import ernie_m
from ernie_m.reader.files.labeled_tables import read_texts
from ernie_m.reader.files.official_tsv import to_single_line
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.utils.args import parse_options
from ernie_m.utils.errors import run


def find_near_duplicates(model, texts, threshold):
    """Return (cosine, text, text) of each pair with a cosine above the threshold, most similar first."""
    vectors = model.encode(texts, normalize=True)  # float32 [N, H]
    cosines = np.triu(vectors @ vectors.T, k=1)  # each pair once
    pairs = [(cosines[a, b], texts[a], texts[b]) for a, b in np.argwhere(cosines > threshold)]
    return sorted(pairs, reverse=True)


def main():
    folder, source, threshold, *flags = sys.argv[1:]
    rows = read_texts(Path(source), parse_options(LabelOptions, flags))
    texts = [to_single_line("\n".join(row)) for row in rows]
    for cosine, first, second in find_near_duplicates(ernie_m.load(folder), texts, float(threshold)):
        print(f"{cosine:.3f}", first, second, sep="\t")


if __name__ == "__main__":
    run(main)
