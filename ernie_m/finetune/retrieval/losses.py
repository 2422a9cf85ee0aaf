"""The losses of run_retrieval.py: sums over the pairs of a step, with the other pairs as negatives."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

_EXCLUDED = -1e4  # a logit whose loss and gradient are 0, in float16 too


def hardest_negative_bce(
    sources: Tensor, candidates: Tensor, negative: Tensor, scale: float, offset: float
) -> tuple[Tensor, Tensor]:
    """The loss of Wang et al. (2019b) for matching pairs, with the in-batch negatives of VSE++.

    The probability that a pair is a translation is m = sigmoid(scale x (cosine - offset)). The loss of a pair
    is

        - 2 log m(pair) - log(1 - m(source, its hardest negative))
                        - log(1 - m(its hardest other source, translation))

    The paper does not say how m depends on the two vectors; here it is the cosine, as in the search.

    Args:
        sources: [B, H].
        candidates: [C, H]: the translations of the B sources, then given negatives.
        negative: [B, C] bool, whether source i and candidate j may be a negative.

    Returns:
        The sum over the pairs, and the number of pairs that beat all their negatives.
    """
    logits = scale * (_cosines(sources, candidates) - offset)  # [B, C]
    pair_logits = logits.diagonal()  # [B]
    hardest_candidate, hardest_source = _hardest(logits, negative)  # [B] each
    # - log sigmoid(x) is softplus(-x), and - log(1 - sigmoid(x)) is softplus(x).
    loss = 2 * F.softplus(-pair_logits) + F.softplus(hardest_candidate) + F.softplus(hardest_source)
    return loss.sum(), _count_winners(pair_logits, hardest_candidate, hardest_source)


def in_batch_softmax(
    sources: Tensor, candidates: Tensor, negative: Tensor, scale: float, both_directions: bool
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each source over its translation and all its negatives (Henderson et al., 2017).

    It is the MultipleNegativesRankingLoss of sentence-transformers.

    Args:
        sources, candidates, negative: as for `hardest_negative_bce`.
        scale: a logit is scale x cosine.
        both_directions: take the mean of this loss and of the cross-entropy of each translation over all
            sources, which is directions=("query_to_doc", "doc_to_query") and partition_mode="per_direction"
            in sentence-transformers.

    Returns:
        As `hardest_negative_bce`.
    """
    logits = scale * _cosines(sources, candidates)  # [B, C]
    pair_logits = logits.diagonal()  # [B]
    is_translation = paddle.eye(*logits.shape).astype("bool")  # [B, C]: candidate i of source i
    is_in_sum = negative | is_translation  # [B, C]
    summed = paddle.where(is_in_sum, logits, paddle.full_like(logits, _EXCLUDED))
    own = paddle.arange(len(logits))  # the place of each translation among the candidates, and of its source
    loss = F.cross_entropy(summed, own, reduction="sum")
    if both_directions:
        translation_logits = summed[:, : len(logits)]  # [B, B], without given negatives
        loss = (loss + F.cross_entropy(translation_logits.T, own, reduction="sum")) / 2
    hardest_candidate, hardest_source = _hardest(logits, negative)  # [B] each
    return loss, _count_winners(pair_logits, hardest_candidate, hardest_source)


def _cosines(sources: Tensor, candidates: Tensor) -> Tensor:
    """The cosine of each source and each candidate, [B, C], in float32 or better.

    In half precision many cosines would be equal.
    """
    with paddle.amp.auto_cast(enable=False):
        if sources.dtype != paddle.float64:
            sources = sources.astype("float32")
            candidates = candidates.astype("float32")
        return paddle.matmul(_Unit.apply(sources), _Unit.apply(candidates), transpose_y=True)


class _Unit(PyLayer):
    """Rows with length 1, [N, H] -> [N, H]; a row of zeros stays so.

    The gradient of F.normalize takes three times as long on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.length = paddle.clip(x.square().sum(axis=1, keepdim=True).sqrt(), 1e-12)  # [N, 1]
        ctx.unit = x / ctx.length
        return ctx.unit

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        along = (gradient * ctx.unit).sum(axis=1, keepdim=True)  # what changes the length alone
        return (gradient - along * ctx.unit) / ctx.length


def _hardest(logits: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of a negative of each source, and of each translation: [B] each."""
    negative_logits = paddle.where(negative, logits, paddle.full_like(logits, _EXCLUDED))  # [B, C]
    translation_logits = negative_logits[:, : len(logits)]  # [B, B], without given negatives
    return negative_logits.max(axis=1), translation_logits.max(axis=0)


def _count_winners(pair_logits: Tensor, hardest_candidate: Tensor, hardest_source: Tensor) -> Tensor:
    """The number of pairs whose logit is above those of all their negatives, int64 [].

    Args:
        pair_logits: the logit of each pair, [B].
        hardest_candidate, hardest_source: from `_hardest`, [B] each.
    """
    is_won = (pair_logits > hardest_candidate) & (pair_logits > hardest_source)
    return is_won.astype("int64").sum()
