"""Draws the attention masks of sentences (paper Figures 2 and 4) from the batch that training would use."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.objective import Objective, Pair, Setting, Text, Vocabulary, class_of, rng_of
from ernie_m.pretrain.objectives.btmlm import Btmlm
from ernie_m.pretrain.packing import Packed, pack
from ernie_m.utils.errors import UserError
from ernie_m.utils.options import check_values

_MAX_SEQ_LEN = 512
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
        language_embedding: which tokens get one; see `Setting`.
        languages: the names of the two languages. btmlm produces pseudo-tokens of the second.

    Raises:
        UserError: a sentence has no tokens, the sentences do not suit the objective, or a choice is out of
            its range.
    """
    ids = [np.array(tokenizer.encode(sentence), np.int64) for sentence in sentences]
    texts = [Text(ids_of_text, language) for language, ids_of_text in enumerate(ids)]
    if any(len(text.ids) == 0 for text in texts):
        raise UserError("a sentence has no tokens")
    check_values(config)
    maker = class_of(objective)(Setting(config, Vocabulary.of(tokenizer), _MAX_SEQ_LEN, language_embedding))
    rng = rng_of(seed % (1 << 64), step=0, index=0)  # a generator takes no negative seed
    example = _example(texts, maker)
    if isinstance(maker, Btmlm):
        masked = maker.mask(example, rng, second_language=1)  # the second of `languages`
    else:
        masked = maker.mask(example, rng)
    batch = pack([masked])

    panel = partial(_panel, tokenizer, languages)
    predicted = {}  # index in the batch -> token
    if maker.loss is None:
        target_tokens = tokenizer.convert_ids_to_tokens(batch.target_ids.tolist())
        predicted = dict(zip(batch.targets.tolist(), target_tokens))
    order, mask = maker.picture(batch)
    if batch.stage1 is None:
        return [panel(maker.title, batch, order, mask, predicted, {})]

    # BTMLM: no model produces pseudo-tokens here, so they are drawn as h1, h2, ...
    stage1 = batch.stage1
    names = [f"h{number}" for number in range(1, len(stage1.slots) + 1)]
    produced = dict(zip(stage1.placeholders.tolist(), names))
    filled = dict(zip(stage1.slots.tolist(), names))
    return [
        panel(_STAGE_1_TITLE, stage1, np.arange(stage1.tokens), stage1.layout.dense(), produced, {}),
        panel(maker.title, batch, order, mask, predicted, filled),
    ]


def as_text(panel: Panel) -> str:
    """A panel as lines: position, what the token may attend to, input, language, prediction."""
    width = 2 * len(panel.tokens) + 2  # a cell and a space for each token, then "|" and a space
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


def _panel(
    tokenizer: PanelTokenizer,
    language_names: Sequence[str],
    title: str,
    packed: Packed,
    order: np.ndarray,
    mask: np.ndarray,
    predicted: Mapping[int, str],
    pseudo_tokens: Mapping[int, str],
) -> Panel:
    """The panel of T packed tokens.

    Args:
        order: int64 [T], the packed tokens in the order in which they are drawn.
        mask: bool [T, T], in that order.
        predicted: index of a packed token -> the token that must be predicted there.
        pseudo_tokens: index of a packed token -> what is drawn in its place; may be empty.
    """
    tokens = tokenizer.convert_ids_to_tokens(packed.input_ids.tolist())
    ids = packed.language_ids[order].tolist()
    is_separator = packed.input_ids[order] == tokenizer.sep_id  # bool [T]
    first_separator = int(np.argmax(is_separator))  # the place of the first True
    return Panel(
        title,
        tokens=[pseudo_tokens.get(index, tokens[index]) for index in order.tolist()],
        predicted=[predicted.get(index, "") for index in order.tolist()],
        positions=packed.position_ids[order].tolist(),
        languages=["" if id_ == NO_LANGUAGE else language_names[id_] for id_ in ids],
        boundary=first_separator + 1,
        mask=mask,
    )


def _example(texts: list[Text], objective: Objective) -> Text | Pair:
    """What the objective reads: a text or a pair.

    Raises:
        UserError: the texts do not suit it.
    """
    if objective.reads is Text:
        return texts[0]
    if len(texts) < 2:
        raise UserError(f"{objective.name} needs a pair: give the sentence and its translation")
    pair = Pair(*texts)
    if not objective.serves(pair):
        raise UserError(f"{objective.name} needs {objective.needs}; such a pair serves tlm")
    return pair
