"""Cluster the lines of a file by their embeddings, with k-means of faiss (the extra search).

    python examples/clusters.py configs/e5-small texts.txt 10

If the clusters are languages and not topics, give `encode` center_by_language=True.
"""

import sys
from pathlib import Path

import faiss

import ernie_m


def cluster(model, texts, count):
    """The number of the cluster of each text, int64 [N], and the k-means."""
    vectors = model.encode(texts, normalize=True)  # float32 [N, H]
    kmeans = faiss.Kmeans(vectors.shape[1], count, nredo=5, spherical=True, min_points_per_centroid=1, seed=1)
    kmeans.train(vectors)
    return kmeans.index.search(vectors, 1)[1][:, 0], kmeans


if __name__ == "__main__":
    folder, source, count = sys.argv[1:]
    texts = Path(source).read_text(encoding="utf-8").splitlines()
    numbers, _ = cluster(ernie_m.load(folder), texts, int(count))
    for number, text in sorted(zip(numbers, texts)):
        print(number, text, sep="\t")
