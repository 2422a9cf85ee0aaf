"""Sentence retrieval: search in bitexts, and fine-tuning for it (paper, section 4.2 and Table 14)."""
