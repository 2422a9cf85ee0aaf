"""A sequence of a batch as `pretrain.show` prints it and `pretrain.show_png` draws it."""

from typing import NamedTuple

import numpy as np


class Panel(NamedTuple):
    """One sequence as it is drawn; lists of length t."""

    title: str
    tokens: list[str]  # what the model sees
    predicted: list[str]  # what it must predict there, "" elsewhere
    positions: list[int]
    languages: list[str]  # the language embedding that is added, "" for none
    boundary: int  # tokens before the second side, or the placeholders; t where there is none
    seen: np.ndarray  # bool [t, t]
