"""Print the pairs of lines of a file that mean the same, in any languages, the nearest first.

    python examples/near_duplicates.py configs/e5-small texts.txt 0.91

The threshold depends on model and texts: E5's cosines lie between 0.7 and 1, and sentences of one pattern
reach 0.97. Look where duplicates end. For more than some 20,000 texts, `range_search` of `faiss.IndexFlatIP`
needs no N x N numbers. `ernie-m mine_pairs` finds translations in two files.
"""

import sys
from pathlib import Path

import numpy as np

import ernie_m


def near_duplicates(model, texts, threshold):
    """(cosine, text, text) of each pair above the threshold, the nearest first."""
    vectors = model.encode(texts, normalize=True)  # float32 [N, H]
    cosines = np.triu(vectors @ vectors.T, k=1)  # each pair once
    pairs = [(cosines[a, b], texts[a], texts[b]) for a, b in np.argwhere(cosines > threshold)]
    return sorted(pairs, reverse=True)


if __name__ == "__main__":
    folder, source, threshold = sys.argv[1:]
    texts = Path(source).read_text(encoding="utf-8").splitlines()
    for cosine, first, second in near_duplicates(ernie_m.load(folder), texts, float(threshold)):
        print(f"{cosine:.3f}", first, second, sep="\t")
