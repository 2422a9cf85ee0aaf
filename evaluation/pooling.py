"""The layer and the tokens that a sentence vector is made of. No Paddle here.

Poolings: "mean" over the tokens without [CLS] and [SEP]; "specials": the mean over all tokens, as in XTREME's
Tatoeba script; "cls": the state of [CLS]; "pooled": tanh(dense([CLS])) of the top layer.
"""

from typing import get_args

import numpy as np

from model.reading import Pooling
from utils.errors import UserError

POOLINGS = get_args(Pooling)


def layer_number(name: str | int, num_layers: int) -> int:
    """The number of a layer: 0 is the embedding output, L the top layer; "middle" is L // 2, "top" is L.

    Raises:
        UserError: there is no such layer.
    """
    if name == "middle":
        return num_layers // 2
    if name == "top":
        return num_layers
    if str(name).isdecimal() and int(name) <= num_layers:
        return int(name)
    raise UserError(
        f"layer {name}: no such layer; this model has 0 (the embeddings) to {num_layers}, or write middle "
        "or top"
    )


def token_weights(ids: np.ndarray, pad_id: int, pooling: str) -> np.ndarray:
    """The weight of each token in its sentence's vector: float64 [B, T], rows sum to 1.

    Args:
        ids: int64 [B, T], padded on the right. [CLS] is the first token of a row, [SEP] its last one.
        pooling: any but "pooled". With "mean", [CLS] and [SEP] have weight in a sentence without words only.
    """
    is_real = ids != pad_id  # [B, T]
    if pooling == "specials":
        has_weight = is_real
    elif pooling == "cls":
        has_weight = np.zeros(ids.shape, bool)
        has_weight[:, 0] = True
    else:
        cls_id = ids[:, :1]  # [B, 1]
        last = is_real.sum(axis=1, keepdims=True) - 1  # [B, 1], the column of each row's last token
        sep_id = np.take_along_axis(ids, last, axis=1)  # [B, 1]
        is_word = is_real & (ids != cls_id) & (ids != sep_id)
        has_words = is_word.any(axis=1, keepdims=True)  # [B, 1]
        has_weight = np.where(has_words, is_word, is_real)
    return has_weight / has_weight.sum(axis=1, keepdims=True)
