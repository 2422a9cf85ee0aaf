"""CAMLM, the cross-attention masked language model: a masked token is predicted from the other language.

It sees itself and the other side's unmasked tokens (paper, section 3 and Figure 2 c). Unmasked tokens see the
unmasked tokens of their own side only: had they seen the other side, they would carry a masked token's
neighbours into its view one layer later.

             x1 M2 x3 | y4 M5 M6 y7
        x1    1  .  1 |  .  .  .  .
        M2    .  1  . |  1  .  .  1
        x3    1  .  1 |  .  .  .  .
        y4    .  .  . |  1  .  .  1
        M5    1  .  1 |  .  1  .  .
        M6    1  .  1 |  .  .  1  .
        y7    .  .  . |  1  .  .  1

Training computes this as two sequences of context and placeholders, with equal states: the unmasked tokens of
one side, then the masks of the other, each seen by itself alone (`model.layout.Layout`).

             x1 x3 | M5 M6
        x1    1  1 |  .  .
        x3    1  1 |  .  .
        M5    1  1 |  1  .
        M6    1  1 |  .  1

             y4 y7 | M2
        y4    1  1 |  .
        y7    1  1 |  .
        M2    1  1 |  1
"""

import numpy as np

from pretrain.objective import Objective, Pair, number_chosen
from pretrain.packing import MaskedExample, MaskedSequence, MicroBatch


class Camlm(Objective):
    """[CLS] S [SEP] [SEP] Y [SEP]; [CLS] and the first [SEP] belong to the source."""

    reads = Pair
    title = "CAMLM (Figure 2 c)"
    needs = "an unmasked token on each side (objectives.mask_rate)"

    def serves(self, pair: Pair) -> bool:
        """Whether both sides keep an unmasked token that is not special, to predict from."""
        lengths = [len(self.predictable(ids)) for ids in self.sides(pair)]
        return all(number_chosen(n, self.config.mask_rate) < n for n in lengths)

    def mask(self, pair: Pair, rng: np.random.Generator) -> MaskedExample:
        ids, languages, side, chosen = self.choose_in_pair(pair, rng)
        # Always [MASK]: since a masked place attends to itself, a token that stayed would give itself away.
        masked = self.sequence(ids, languages, chosen, self.vocabulary.mask_id)
        halves = [_half(masked, side, context_side=0), _half(masked, side, context_side=1)]
        return MaskedExample(self.name, halves)

    def picture(self, batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
        """Both sequences as the pair that they are the halves of."""
        order = np.argsort(batch.position_ids)  # a token's position is that in the pair
        masked = np.isin(np.arange(batch.tokens), batch.targets)  # bool [T]
        context_side = np.repeat([0, 1], batch.lengths)  # [T], of each token's sequence
        side = np.where(masked, 1 - context_side, context_side)  # masks are of the other side
        return order, attention_mask(side[order], masked[order])


def _half(whole: MaskedSequence, side: np.ndarray, context_side: int) -> MaskedSequence:
    """Half of a masked pair: one side's unmasked tokens, then the other's masks as placeholders.

    Each token keeps its position and language, and each mask its target. So both halves together have the
    whole pair's loss.

    Args:
        whole: the masked pair, as one sequence of t tokens.
        side: [t], 0 or 1.
        context_side: the side whose unmasked tokens are the context.
    """
    context = np.setdiff1d(np.flatnonzero(side == context_side), whole.targets)  # columns, ascending
    is_placeholder = side[whole.targets] != context_side  # [m]
    columns = np.concatenate([context, whole.targets[is_placeholder]])
    return MaskedSequence(
        input_ids=whole.input_ids[columns],
        position_ids=whole.position_ids[columns],
        language_ids=whole.language_ids[columns],
        targets=np.arange(len(context), len(columns)),
        target_ids=whole.target_ids[is_placeholder],
        target_languages=whole.target_languages[is_placeholder],
        context=len(context),
    )


def attention_mask(side: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """The first matrix above, for pictures and tests: row i has True for each token that token i sees.

    Args:
        side: [T], 0 for the source, 1 for the target.
        masked: bool [T].

    Returns:
        bool [T, T].
    """
    same_side = side[:, None] == side[None, :]  # [T, T]
    # A masked row sees the other side, an unmasked row its own side, and both only the unmasked tokens there.
    seen_side = np.where(masked[:, None], ~same_side, same_side)  # [T, T]
    visible = seen_side & ~masked[None, :]
    return visible | np.eye(len(side), dtype=bool)  # every row sees itself
