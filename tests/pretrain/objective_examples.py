"""Small examples that the tests of the objectives share."""

import numpy as np

from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from pretrain.pseudo import SecondLanguage

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
CLS, PAD, SEP, MASK = 0, 1, 2, 99
LANGUAGES = ["en", "de", "fr"]


def objectives(max_seq_len: int = 64, language_embedding: str = "masks", **choices) -> Objectives:
    return Objectives(
        ObjectiveConfig(**choices),
        VOCABULARY,
        max_seq_len,
        language_embedding,
        SecondLanguage(LANGUAGES, {(0, 1): 8, (0, 2): 1}),
    )


def texts(lengths, language: int = 0, seed: int = 0) -> list[Text]:
    rng = np.random.default_rng(seed)
    return [Text(rng.integers(4, 99, size=n), language) for n in lengths]


def pairs(lengths, seed: int = 0) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [
        Pair(Text(rng.integers(4, 99, size=a), 0), Text(rng.integers(4, 99, size=b), 1)) for a, b in lengths
    ]


def rngs(count: int, seed: int = 1, step: int = 0, start: int = 0) -> list[np.random.Generator]:
    return [generator(seed, step, index) for index in range(start, start + count)]


def sides(row: np.ndarray) -> np.ndarray:
    """0 for [CLS] S [SEP], 1 for [SEP] Y [SEP], -1 for pads: read off a dense row of ids."""
    separators = np.flatnonzero(row == SEP)
    side = np.full(len(row), -1)
    side[: separators[0] + 1] = 0
    if len(separators) == 3:
        side[separators[1] : separators[2] + 1] = 1
    return side
