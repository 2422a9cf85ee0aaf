"""The absolute positions of tokens: 2, 3, ... in each sequence, as in XLM-R.

Position embeddings have two more rows than the longest input has tokens: row 1 is of padding, and row 0 is
unused. PaddleNLP and transformers count from 0 and add 2.
"""

FIRST_POSITION = 2  # position of a sequence's first token
PAD_POSITION = 1  # position of padding
