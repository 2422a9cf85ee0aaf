"""Print pairs of lines of a file with the same meaning, in any languages, most similar first.

    python examples/near_duplicates.py configs/e5-small texts.txt 0.91

The threshold depends on model and texts: E5's cosines are between 0.7 and 1, and sentences with the same
pattern reach 0.97. Choose it where the printed pairs cease to be duplicates. For more than about 20,000
texts, use `range_search` of `faiss.IndexFlatIP`, which does not need an N x N matrix. `ernie-m mine_pairs`
finds translations in two files.
"""

import sys
from pathlib import Path

import numpy as np

import ernie_m


def find_near_duplicates(model, texts, threshold):
    """Return (cosine, text, text) of each pair with a cosine above the threshold, most similar first."""
    vectors = model.encode(texts, normalize=True)  # float32 [N, H]
    cosines = np.triu(vectors @ vectors.T, k=1)  # each pair once
    pairs = [(cosines[a, b], texts[a], texts[b]) for a, b in np.argwhere(cosines > threshold)]
    return sorted(pairs, reverse=True)


if __name__ == "__main__":
    folder, source, threshold = sys.argv[1:]
    texts = Path(source).read_text(encoding="utf-8").splitlines()
    for cosine, first, second in find_near_duplicates(ernie_m.load(folder), texts, float(threshold)):
        print(f"{cosine:.3f}", first, second, sep="\t")
