"""Draws the attention masks of sentences (paper Figures 2 and 4) from the batch that training would use."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from model.config import NO_LANGUAGE
from pretrain import attention_mask
from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from pretrain.packing import Batch, Packed
from utils.errors import UserError
from utils.options import check_values

_MAX_SEQ_LEN = 512
_TITLES = {
    "mmlm": "MMLM (Figure 2 a)",
    "tlm": "TLM (Figure 2 b)",
    "camlm": "CAMLM (Figure 2 c)",
    "btmlm": "BTMLM stage 2: h1, h2, ... are the pseudo-tokens of stage 1",
}
_STAGE_1_TITLE = "BTMLM stage 1 (Figure 4)"


class PanelTokenizer(Protocol):
    """What a panel needs of a tokenizer, besides the attributes that `Vocabulary.of` reads."""

    sep_id: int

    def encode(self, sentence: str) -> list[int]:
        """The ids of a sentence, without special tokens."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The token of each id."""


class Panel(NamedTuple):
    """One sequence of T tokens. Each list has T items."""

    title: str
    tokens: list[str]  # the input
    predicted: list[str]  # the token that the model must predict there, or ""
    positions: list[int]
    languages: list[str]  # the language whose embedding is added, or ""
    boundary: int  # number of tokens before the second side or the placeholders; T if there are neither
    mask: np.ndarray  # bool [T, T], row i: the tokens that token i may attend to


def draw_panels(
    sentences: Sequence[str],
    objective: str,
    tokenizer: PanelTokenizer,
    config: ObjectiveConfig,
    language_embedding: str = "masks",
    languages: Sequence[str] = ("src", "tgt"),
    seed: int = 1,
) -> list[Panel]:
    """The sequences of one example: one panel, or two for the stages of BTMLM.

    Args:
        sentences: one sentence, or a sentence and its translation. mmlm and btmlm use the first only.
        objective: a name of `OBJECTIVES`.
        config: the choices of the objective; the active objectives and their shares do not matter.
        language_embedding: which tokens get one; see `Objectives`.
        languages: the names of the two languages. btmlm produces pseudo-tokens of the second.

    Raises:
        UserError: a sentence has no tokens, the sentences do not suit the objective, or a choice is out of
            its range.
    """
    texts = []
    for language, sentence in enumerate(sentences):
        texts.append(Text(np.array(tokenizer.encode(sentence), np.int64), language))
    if any(len(text.ids) == 0 for text in texts):
        raise UserError("a sentence has no tokens")
    check_values(config)
    objectives = Objectives(config, Vocabulary.of(tokenizer), _MAX_SEQ_LEN, language_embedding)
    example = _example(texts, objective, objectives)
    second_languages = [1] if objective == "btmlm" else None  # for the one example: the second of `languages`
    rng = generator(seed % (1 << 64), step=0, index=0)  # a generator takes no negative seed
    batch = objectives.batch(objective, [example], [rng], second_languages)

    painter = _Painter(tokenizer, languages)
    target_tokens = tokenizer.convert_ids_to_tokens(batch.target_ids.tolist())
    predicted = dict(zip(batch.targets.tolist(), target_tokens))  # index in the batch -> token
    if objective == "camlm":
        order, mask = _whole_pair(batch)
        return [painter.panel(_TITLES[objective], batch, order, mask, predicted)]
    order = np.arange(batch.tokens)
    if batch.stage1 is None:
        return [painter.panel(_TITLES[objective], batch, order, batch.layout.dense(), predicted)]

    # BTMLM: no model produces pseudo-tokens here, so they are drawn as h1, h2, ...
    stage1 = batch.stage1
    names = [f"h{number}" for number in range(1, len(stage1.slots) + 1)]
    produced = dict(zip(stage1.placeholders.tolist(), names))
    filled = dict(zip(stage1.slots.tolist(), names))
    return [
        painter.panel(_STAGE_1_TITLE, stage1, np.arange(stage1.tokens), stage1.layout.dense(), produced),
        painter.panel(_TITLES[objective], batch, order, batch.layout.dense(), predicted, filled),
    ]


def as_text(panel: Panel) -> str:
    """A panel as lines: position, what the token may attend to, input, language, prediction."""
    width = 2 * len(panel.tokens) + 2  # of a cell and a space for each token, and of "|" and a space
    lines = [panel.title, f" pos  {'attends to':<{width}}  input"]
    for position, row, token, language, predicted in zip(
        panel.positions, panel.mask, panel.tokens, panel.languages, panel.predicted
    ):
        cells = ["1" if visible else "." for visible in row]
        cells.insert(panel.boundary, "|")
        embedding = f" + {language}" if language else ""
        target = f" -> {predicted}" if predicted else ""
        lines.append(f"{position:>4}  {' '.join(cells):<{width}}  {token}{embedding}{target}")
    return "\n".join(lines)


class _Painter(NamedTuple):
    """Makes panels with the tokens of a tokenizer and the names of two languages."""

    tokenizer: PanelTokenizer
    languages: Sequence[str]

    def panel(
        self,
        title: str,
        packed: Packed,
        order: np.ndarray,
        mask: np.ndarray,
        predicted: Mapping[int, str],
        pseudo_tokens: Mapping[int, str] | None = None,
    ) -> Panel:
        """The panel of T packed tokens.

        Args:
            order: int64 [T], the packed tokens in the order in which they are drawn.
            mask: bool [T, T], in that order.
            predicted: index of a packed token -> the token that must be predicted there.
            pseudo_tokens: index of a packed token -> what is drawn in its place; None: nothing is.
        """
        tokens = self.tokenizer.convert_ids_to_tokens(packed.input_ids.tolist())
        replacements = pseudo_tokens or {}
        languages = []
        for language in packed.language_ids[order].tolist():
            languages.append("" if language == NO_LANGUAGE else self.languages[language])
        is_separator = packed.input_ids[order] == self.tokenizer.sep_id  # bool [T]
        first_separator = int(np.argmax(is_separator))  # the place of the first True
        return Panel(
            title,
            tokens=[replacements.get(index, tokens[index]) for index in order.tolist()],
            predicted=[predicted.get(index, "") for index in order.tolist()],
            positions=packed.position_ids[order].tolist(),
            languages=languages,
            boundary=first_separator + 1,
            mask=mask,
        )


def _example(texts: list[Text], objective: str, objectives: Objectives) -> Text | Pair:
    """What the objective reads: a text or a pair.

    Raises:
        UserError: the texts do not suit it.
    """
    if objective in ("mmlm", "btmlm"):
        return texts[0]
    if len(texts) < 2:
        raise UserError(f"{objective} needs a pair: give the sentence and its translation")
    pair = Pair(*texts)
    if objective == "camlm" and not objectives.serves_camlm(pair):
        raise UserError("camlm needs an unmasked token on each side; such a pair serves tlm")
    return pair


def _whole_pair(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """The two sequences of a CAMLM pair as one: the order of its tokens, int64 [T], and the mask [T, T]."""
    order = np.argsort(batch.position_ids)  # a token's position is that in the pair
    masked = np.isin(np.arange(batch.tokens), batch.targets)  # bool [T]
    # The first sequence has the unmasked tokens of side 0 and the masked tokens of side 1; the second one has
    # the others.
    context_side = np.repeat([0, 1], batch.lengths)  # [T]
    side = np.where(masked, 1 - context_side, context_side)
    return order, attention_mask.camlm(side[order], masked[order])
