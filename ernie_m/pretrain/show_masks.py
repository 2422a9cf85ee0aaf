"""Print the attention masks of training batches for a sentence or a pair (paper Figures 2 and 4).

    ernie-m show_masks "a sentence" "ein Satz" --objective camlm

Each row is a token: its position, the tokens that it attends to, its input, its language embedding, and its
prediction target. Tokens are words separated by spaces.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.pretrain.config import ObjectiveConfig, ObjectiveFiles
from ernie_m.pretrain.masking import ObjectiveContext, Pair, Text, Vocabulary, make_rng
from ernie_m.pretrain.objective import Objective
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.pretrain.objectives.camlm import Camlm
from ernie_m.pretrain.packing import PackedTokens
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, say

_MAX_SEQ_LEN = 512
_SPECIAL_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


@dataclass
class ShowMasksFlags:
    """Command-line options of `ernie-m show_masks`."""

    sentence: str = option(positional=True)
    """Sentence to show."""

    translation: str | None = option(None, positional=True)
    """Translation of the sentence, for tlm and camlm."""

    objective: str = option("camlm", needed=True)
    """Pre-training objective: mmlm, tlm, camlm, btmlm, or one of objectives.path."""

    languages: str = option("src,tgt", needed=True)
    """Comma-separated names of the two languages."""

    seed: int = 1
    """Random seed for masking."""

    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    """Same as objectives.camlm_context of run_pretrain."""

    objectives: ObjectiveFiles = field(default_factory=ObjectiveFiles)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UserError(f"unknown --objective {self.objective} (choose from {', '.join(OBJECTIVES)})")
        if len(self.languages.split(",")) != 2:
            raise UserError(f"invalid --languages '{self.languages}' (expected two names, such as en,de)")


def main() -> None:
    """Print the attention masks for the sentences of the command line."""
    say(*format_masks(sys.argv[1:]), "Rows attend to columns: 1 = may attend.", sep="\n\n")


def format_masks(arguments: Sequence[str]) -> list[str]:
    """Format the attention masks for the sentences of a command line; for BTMLM, one per stage.

    Raises:
        UserError: a flag is invalid, a file cannot be read, a sentence is empty, or the objective does not
            accept the sentences.
    """
    flags = parse_options(ShowMasksFlags, arguments, __name__)
    sentences = [text for text in (flags.sentence, flags.translation) if text is not None]
    tokenizer = WordTokenizer(sentences)
    texts = [Text(np.array(tokenizer.encode(text), np.int64), side) for side, text in enumerate(sentences)]
    if any(len(text.ids) == 0 for text in texts):
        raise UserError("empty sentence")
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    config = ObjectiveConfig(camlm_context=flags.camlm_context)
    setting = ObjectiveContext(config, vocabulary, _MAX_SEQ_LEN, languages=flags.languages.split(","))
    objective: Objective = get_objective_class(flags.objective)(setting)
    example: Text | Pair = texts[0]
    if objective.reads is Pair:
        if len(texts) < 2:
            raise UserError(f"{objective.name} requires a pair: the sentence and its translation")
        example = Pair(*texts)
        if not objective.accepts_pair(example):
            raise UserError(f"{objective.name} requires {objective.needs}; this pair is used for tlm only")
    # The seed's remainder, because a generator takes no negative seed.
    batch = objective.make_batch([example], [make_rng(flags.seed % (1 << 64), step=0, index=0)])

    predicted = {}  # index -> token to predict
    if objective.loss is None:
        predicted = {index: vocabulary.tokens[id_] for index, id_ in zip(batch.targets, batch.target_ids)}
    order = np.arange(batch.inputs.tokens)
    if isinstance(objective, Camlm):
        # Its two sequences are halves of a pair. The position in the pair puts a predicted token after the
        # [MASK] of the context at the same position.
        order = np.lexsort([np.isin(order, batch.targets), batch.inputs.position_ids])
    if batch.stage1 is None:
        return [_format_packed_tokens(objective.name, setting, batch.inputs, order, predicted)]
    # BTMLM: without a model, pseudo-tokens are called h1, h2, ...
    stage1 = batch.stage1
    produced = {index: f"h{number}" for number, index in enumerate(stage1.placeholders, start=1)}
    filled = dict(zip(stage1.slots, produced.values()))
    return [
        _format_packed_tokens(
            f"{objective.name}, stage 1", setting, stage1.inputs, np.arange(stage1.inputs.tokens), produced
        ),
        _format_packed_tokens(f"{objective.name}, stage 2", setting, batch.inputs, order, predicted, filled),
    ]


def _format_packed_tokens(
    title: str,
    context: ObjectiveContext,
    packed: PackedTokens,
    order: np.ndarray,
    predictions: Mapping[int, str],
    pseudo_tokens: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """Format packed tokens as lines: position, attention mask, token, language embedding, prediction target.

    Args:
        title: the first line.
        order: int64 [T], indices of the T tokens in the order of the lines.
        predictions: index of a token -> prediction target.
        pseudo_tokens: index of a token -> pseudo-token.
    """
    width = 2 * packed.tokens + 2  # a cell and a space for each token, then "|" and a space
    lines = [title, f" pos  {'attends to':<{width}}  input"]
    ids = packed.input_ids[order]
    end_of_first_side = int(np.argmax(ids == context.vocabulary.sep_id)) + 1  # the index of the first True
    for index, id_, row in zip(order, ids, packed.layout.to_dense_mask()[np.ix_(order, order)]):
        cells = ["1" if visible else "." for visible in row]
        cells.insert(end_of_first_side, "|")
        token = pseudo_tokens.get(index) or context.vocabulary.tokens[id_]
        language = packed.language_ids[index]
        embedding = "" if language == NO_LANGUAGE else f" + {context.languages[language]}"
        target = f" -> {predictions[index]}" if index in predictions else ""
        position = packed.position_ids[index]
        lines.append(f"{position:>4}  {' '.join(cells):<{width}}  {token}{embedding}{target}")
    return "\n".join(lines)


class WordTokenizer:
    """Tokenizer whose tokens are the words of given sentences, with ids in order of occurrence."""

    cls_id, pad_id, sep_id, unk_id, mask_id = range(len(_SPECIAL_TOKENS))  # in the order of that tuple

    def __init__(self, sentences: Sequence[str]):
        words = dict.fromkeys(" ".join(sentences).split())
        self.tokens = [*_SPECIAL_TOKENS, *words]
        self.vocab_size = len(self.tokens)

    def encode(self, sentence: str) -> list[int]:
        # A word may be spelled like a special token, so search after these.
        return [self.tokens.index(word, len(_SPECIAL_TOKENS)) for word in sentence.split()]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[id_] for id_ in ids]
