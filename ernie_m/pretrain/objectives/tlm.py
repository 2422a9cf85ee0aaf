"""TLM, translation language modeling: MMLM on a pair, with masks on both sides.

All tokens attend to all tokens, so a masked token is predicted from both languages (paper, Figure 2 b):

             x1 M2 x3 | y4 M5 M6 y7
        x1    1  1  1 |  1  1  1  1
        M2    1  1  1 |  1  1  1  1
        x3    1  1  1 |  1  1  1  1
        y4    1  1  1 |  1  1  1  1
        M5    1  1  1 |  1  1  1  1
        M6    1  1  1 |  1  1  1  1
        y7    1  1  1 |  1  1  1  1
"""

import numpy as np

from ernie_m.pretrain.masking import Pair
from ernie_m.pretrain.objective import Objective
from ernie_m.pretrain.packing import MaskedExample


class Tlm(Objective[Pair]):
    """Translation language modeling. The input is [CLS] S [SEP] [SEP] Y [SEP]."""

    reads = Pair

    def mask(self, pair: Pair, rng: np.random.Generator) -> MaskedExample:
        ids, languages, _, chosen = self.select_in_pair(pair, rng)
        return MaskedExample(self.name, [self.replace_selected(ids, languages, chosen, rng)])
