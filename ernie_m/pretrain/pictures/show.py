"""Print the attention masks of your own sentences (paper Figures 2 and 4) from the batches of training.

    ernie-m show "a sentence" "ein Satz" --objective camlm

Each row is a token: its position, the tokens it may attend to, its input, its language embedding, and what
the model must predict there. Without --piece_model_path the tokens are the words between spaces.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.pretrain.pictures.mask_panels import Panel, as_text, draw_panels
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.load_config import load_config
from ernie_m.utils.options import option

_SPECIAL_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


@dataclass
class ShowFlags:
    """What to draw."""

    sentence: str = option(positional=True)
    """The sentence whose mask is drawn."""

    translation: str | None = option(None, positional=True)
    """For tlm and camlm."""

    objective: Literal[OBJECTIVES] = "camlm"
    """What the batch trains."""

    languages: str = "src,tgt"
    """The names of the two languages."""

    piece_model_path: str | None = None
    """A sentencepiece model; without it tokens are words."""

    vocab_path: str | None = None
    """vocab.txt; without it ids are derived from the piece model."""

    seed: int = 1
    """The seed of what is masked."""

    pseudo_proportion: float = 0.2
    """As objectives.pseudo_proportion of run_pretrain.py."""

    pseudo_positions: Literal["first", "spread"] = "first"
    """As objectives.pseudo_positions of run_pretrain.py."""

    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    """As objectives.camlm_context of run_pretrain.py."""

    language_embedding: Literal["masks", "none", "all"] = "masks"
    """As model.language_embedding of run_pretrain.py."""

    def __post_init__(self) -> None:
        if len(self.languages.split(",")) != 2:
            raise UserError(f"--languages '{self.languages}': give two names, as in --languages en,de")
        if self.vocab_path and not self.piece_model_path:
            raise UserError(f"--vocab_path {self.vocab_path}: give its --piece_model_path, too")


def main() -> None:
    """Print the panels of the command line."""
    explanation = "A row is a token that looks, a column a token that is seen: 1 = may attend."
    say(*map(as_text, panels_of(sys.argv[1:])), explanation, sep="\n\n")


def panels_of(arguments: Sequence[str]) -> list[Panel]:
    """The panels of a command line.

    Raises:
        UserError: a flag is wrong, a file cannot be read, or as `draw_panels`.
    """
    flags = load_config(ShowFlags, arguments, __doc__)
    sentences = [flags.sentence]
    if flags.translation is not None:
        sentences.append(flags.translation)
    if flags.piece_model_path:
        tokenizer = Tokenizer(flags.vocab_path, flags.piece_model_path)
    else:
        tokenizer = WordTokenizer(sentences)
    config = ObjectiveConfig(
        camlm_context=flags.camlm_context,
        pseudo_proportion=flags.pseudo_proportion,
        pseudo_positions=flags.pseudo_positions,
    )
    languages = flags.languages.split(",")
    return draw_panels(
        sentences, flags.objective, tokenizer, config, flags.language_embedding, languages, flags.seed
    )


class WordTokenizer:
    """Numbers the words of sentences in the order in which they occur."""

    cls_id, pad_id, sep_id, unk_id, mask_id = range(len(_SPECIAL_TOKENS))  # in the order of that tuple

    def __init__(self, sentences: Sequence[str]):
        words = dict.fromkeys(" ".join(sentences).split())
        self.tokens = [*_SPECIAL_TOKENS, *words]
        self.vocab_size = len(self.tokens)

    def encode(self, sentence: str) -> list[int]:
        # A word may be spelt like a special token, so the search begins after these.
        return [self.tokens.index(word, len(_SPECIAL_TOKENS)) for word in sentence.split()]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[id_] for id_ in ids]
