"""Hybrid search: BM25 and embeddings, joined by reciprocal rank fusion.

    python examples/hybrid_search.py configs/e5-small corpus.txt "Passwort?"

BM25 finds names and numbers by their letters. It counts the model's subwords, so that a language needs no
spaces.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import ernie_m


class HybridIndex:
    """The texts to search, with their embeddings and the counts of their subwords."""

    def __init__(self, model, texts):
        self.model, self.texts = model, texts
        self.vectors = model.encode(texts, normalize=True)
        self.counts = [Counter(model.tokenizer.tokenize(text)) for text in texts]
        self.texts_with = Counter(subword for count in self.counts for subword in count)
        self.lengths = np.array([sum(count.values()) for count in self.counts])

    def bm25(self, query):
        """The BM25 score of each text, float [N], with k1 = 1.2 and b = 0.75."""
        scores = np.zeros(len(self.texts))
        for subword in self.model.tokenizer.tokenize(query):
            count = np.array([count[subword] for count in self.counts])
            texts_with = self.texts_with[subword]
            rarity = np.log(1 + (len(self.texts) - texts_with + 0.5) / (texts_with + 0.5))
            scores += rarity * 2.2 * count / (count + 0.3 + 0.9 * self.lengths / self.lengths.mean())
        return scores

    def search(self, query, top_k=3):
        """The best texts."""
        cosines = (self.model.encode(query, normalize=True) @ self.vectors.T)[0]
        ranks = [(-scores).argsort(kind="stable").argsort() for scores in (self.bm25(query), cosines)]
        fused = sum(1 / (60 + rank) for rank in ranks)
        return [self.texts[number] for number in np.argsort(-fused)[:top_k]]


if __name__ == "__main__":
    folder, corpus, query = sys.argv[1:]
    index = HybridIndex(ernie_m.load(folder), Path(corpus).read_text(encoding="utf-8").splitlines())
    print("\n".join(index.search(query)))
