"""CAMLM, cross-attention masked language modeling: a masked token is predicted from the other language.

A masked token attends to itself and to the unmasked tokens of the other language (paper, section 3 and Figure
2 c). Unmasked tokens attend only to the unmasked tokens of their own language: otherwise, information about a
masked token's own sentence would reach the masked token one layer later.

             x1 M2 x3 | y4 M5 M6 y7
        x1    1  .  1 |  .  .  .  .
        M2    .  1  . |  1  .  .  1
        x3    1  .  1 |  .  .  .  .
        y4    .  .  . |  1  .  .  1
        M5    1  .  1 |  .  1  .  .
        M6    1  .  1 |  .  .  1  .
        y7    .  .  . |  1  .  .  1

Training computes the same hidden states from two sequences of context and placeholders: the unmasked tokens
of one side, then the masked tokens of the other, each of which only itself attends to
(`ernie_m.model.packed_layout.PackedLayout`).

             x1 x3 | M5 M6
        x1    1  1 |  .  .
        x3    1  1 |  .  .
        M5    1  1 |  1  .
        M6    1  1 |  .  1

             y4 y7 | M2
        y4    1  1 |  .
        y7    1  1 |  .
        M2    1  1 |  1

This is the paper's formula, and the default (`objectives.camlm_context: unmasked`). In the paper's example,
p(x2 | M2, y4, y5, y6, y7), the condition includes the masked y5 and y6. So `with_masks` makes a masked token
also attend to the [MASK] tokens of the other language, here m2, m5 and m6, which are context and attend only
to their own language. The predicted masks are separate rows that only they themselves attend to: if M2
attended to M5, information from x1 and x3 would reach M2 one layer later.

             x1 m2 M2 x3 | y4 m5 M5 m6 M6 y7
        x1    1  1  .  1 |  .  .  .  .  .  .
        m2    1  1  .  1 |  .  .  .  .  .  .
        M2    .  .  1  . |  1  1  .  1  .  1
        x3    1  1  .  1 |  .  .  .  .  .  .
        y4    .  .  .  . |  1  1  .  1  .  1
        m5    .  .  .  . |  1  1  .  1  .  1
        M5    1  1  .  1 |  .  .  1  .  .  .
        m6    .  .  .  . |  1  1  .  1  .  1
        M6    1  1  .  1 |  .  .  .  .  1  .
        y7    .  .  .  . |  1  1  .  1  .  1

Its two sequences are x1 m2 x3 | M5 M6 and y4 m5 m6 y7 | M2.
"""

import numpy as np

from ernie_m.pretrain.masking import ObjectiveContext, Pair, count_selected
from ernie_m.pretrain.objective import Objective
from ernie_m.pretrain.packing import MaskedExample, MaskedSequence


class Camlm(Objective[Pair]):
    """Cross-attention masked language modeling. The input is [CLS] S [SEP] [SEP] Y [SEP].

    [CLS] S [SEP] is the source side, and [SEP] Y [SEP] the target side.
    """

    reads = Pair
    needs = "an unmasked token on each side (objectives.mask_rate)"

    def __init__(self, context: ObjectiveContext):
        super().__init__(context)
        self.with_masks = self.config.camlm_context == "with_masks"

    def count_tokens(self, pair: Pair) -> int:
        # With masks in the context, the predicted ones are additional rows.
        further = self.count_losses(pair) if self.with_masks else 0
        return super().count_tokens(pair) + further

    def accepts_pair(self, pair: Pair) -> bool:
        """Return whether both sides keep at least one unmasked ordinary token as context."""
        lengths = [len(self.maskable(ids)) for ids in self.get_truncated_sides(pair)]
        return all(count_selected(n, self.config.mask_rate) < n for n in lengths)

    def mask(self, pair: Pair, rng: np.random.Generator) -> MaskedExample:
        ids, languages, side, chosen = self.select_in_pair(pair, rng)
        # Always [MASK]: a masked position attends to itself, so an unchanged token would reveal itself.
        masked = self.make_sequence(ids, languages, chosen, self.vocabulary.mask_id)
        halves = [_make_half(masked, side, context_side, self.with_masks) for context_side in (0, 1)]
        return MaskedExample(self.name, halves)


def _make_half(
    whole: MaskedSequence, side: np.ndarray, context_side: int, with_masks: bool
) -> MaskedSequence:
    """Make one of the two sequences of a masked pair: one side as context, the other's masks as placeholders.

    Each token keeps its position and language, and each mask its label. So the losses of both sequences are
    the loss of the pair.

    Args:
        whole: the masked pair, as one sequence of t tokens.
        side: side of each token, [t], 0 or 1.
        context_side: the side that is the context, 0 or 1.
        with_masks: whether the context also contains the [MASK] tokens of its side.
    """
    context = np.flatnonzero(side == context_side)  # columns, ascending
    if not with_masks:
        context = np.setdiff1d(context, whole.targets)
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
