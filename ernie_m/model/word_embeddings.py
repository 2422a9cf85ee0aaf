"""The word embeddings.

The embedding matrix is tied: input ids look up its rows, and the masked-LM head projects to the vocabulary
with it (`ernie_m/model/lm_head.py`).
"""

from typing import Any

from paddle import Tensor, nn

from ernie_m.model.kernel_selection import get_kernels


class WordEmbeddings(nn.Embedding):
    """paddle.nn.Embedding, whose gradient the kernels of a CPU may accumulate in place.

    Attributes:
        gradient: accumulates the gradient in place, as `Services.make_table_optimizer` sets it; None: Paddle
            computes the gradient.
        in_bfloat16: whether the projection to the vocabulary is in bfloat16 on a CPU.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gradient: Any = None
        self.in_bfloat16 = False

    def forward(self, ids: Tensor) -> Tensor:
        """Look up word embeddings: ids int64 [N] -> [N, H]."""
        return get_kernels(self.weight).look_up(self, ids)
