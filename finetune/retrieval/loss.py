"""The hardest-negative binary cross-entropy of sentence pairs."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor

_NONE = -1e4  # a logit whose loss and gradient are 0, in float16 too


def hardest_negative_bce(
    sources: Tensor, translations: Tensor, negative: Tensor, scale: float, offset: float
) -> tuple[Tensor, Tensor]:
    """The loss that Wang et al. (2019b) give for matching pairs, with the in-batch negatives of VSE++.

    A pair is taken for a translation with probability m = sigmoid(scale x (cosine - offset)). Per pair

        - 2 log m(pair) - log(1 - m(source, its hardest other translation))
                        - log(1 - m(its hardest other source, translation))

    The paper leaves open how m comes of the two vectors; the cosine is what is searched by afterwards.

    Args:
        sources, translations: [B, H]; row i of one translates row i of the other.
        negative: [B, B] bool, whether source i and translation j may be a negative.
        scale, offset: of the logits.

    Returns:
        the sum over the pairs, and how many pairs beat both their hardest negatives.
    """
    with paddle.amp.auto_cast(enable=False):  # in half precision many cosines would be equal
        sources, translations = (F.normalize(_at_least_single(side)) for side in (sources, translations))
        cosines = paddle.matmul(sources, translations, transpose_y=True)  # [B, B]
    logits = scale * (cosines - offset)
    right = logits.diagonal()  # [B]
    wrong = paddle.where(negative, logits, paddle.full_like(logits, _NONE))
    hardest = [wrong.max(axis=1), wrong.max(axis=0)]  # other translations, other sources
    loss = 2 * F.softplus(-right) + F.softplus(hardest[0]) + F.softplus(hardest[1])
    won = (right > hardest[0]) & (right > hardest[1])
    return loss.sum(), won.astype("int64").sum()


def _at_least_single(x: Tensor) -> Tensor:
    return x if x.dtype in (paddle.float32, paddle.float64) else x.astype("float32")
