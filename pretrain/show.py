"""Print the attention masks of your own sentences (paper Figures 2 and 4) from the batches of training.

    python -m pretrain.show "a sentence" "ein Satz" --objective camlm

Each row is a token: its position, the tokens it may attend to, its input, its language embedding, and what
the model must predict there. Without --piece_model_path the tokens are the words between spaces.
"""

from utils.environment import run

import argparse
from collections.abc import Sequence

from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.panels import Panel, as_text, draw_panels
from reader.tokenization import Tokenizer
from utils.command_line import Parser
from utils.errors import UserError

_SPECIAL_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")


def main() -> None:
    """Print the panels of the command line."""
    options = parse_arguments()
    print("\n\n".join(as_text(panel) for panel in panels_of(options)))
    print("\nA row is a token that looks, a column a token that is seen: 1 = may attend.")


def panels_of(options: argparse.Namespace) -> list[Panel]:
    """The panels of a command line.

    Raises:
        UserError: a file cannot be read, or as `draw_panels`.
    """
    languages = options.languages.split(",")
    if len(languages) != 2:
        raise UserError(f"--languages '{options.languages}': give two names, as in --languages en,de")
    if options.vocab_path and not options.piece_model_path:
        raise UserError(f"--vocab_path {options.vocab_path}: give its --piece_model_path, too")
    sentences = [options.sentence]
    if options.translation is not None:
        sentences.append(options.translation)
    if options.piece_model_path:
        tokenizer = Tokenizer(options.vocab_path, options.piece_model_path)
    else:
        tokenizer = WordTokenizer(sentences)
    config = ObjectiveConfig(
        pseudo_proportion=options.pseudo_proportion, pseudo_positions=options.pseudo_positions
    )
    return draw_panels(
        sentences, options.objective, tokenizer, config, options.language_embedding, languages, options.seed
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


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    summary = __doc__.split("\n\n")[0]
    parser = Parser(summary, prog="python -m pretrain.show")
    parser.add_argument("sentence")
    parser.add_argument("translation", nargs="?", help="for tlm and camlm")
    parser.add_argument("--objective", choices=OBJECTIVES, default="camlm")
    parser.add_argument("--languages", default="src,tgt", help="names of the two languages")
    parser.add_argument("--piece_model_path", help="sentencepiece model; without it tokens are words")
    parser.add_argument("--vocab_path", help="vocab.txt; without it ids are derived from the piece model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pseudo_proportion", type=float, default=0.2)
    parser.add_argument("--pseudo_positions", choices=("first", "spread"), default="first")
    parser.add_argument("--language_embedding", choices=("masks", "none", "all"), default="masks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
