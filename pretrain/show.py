"""Print the attention masks of your own sentences (paper Figures 2 and 4) from the batches of training.

    python -m pretrain.show "a sentence" "ein Satz" --objective camlm

Each row is a token: its position, the tokens it may attend to, its input, its language embedding, and what
the model must predict there. Without --piece_model_path the tokens are the words between spaces.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretrain import attention_mask
from pretrain.batch import Packed
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from reader.tokenization import Tokenizer
from utils.config import check_ranges
from utils.errors import UserError, run

_SPECIALS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
_LONGEST = 512  # tokens
_TITLES = {
    "mmlm": "MMLM (Figure 2 a)",
    "tlm": "TLM (Figure 2 b)",
    "camlm": "CAMLM (Figure 2 c)",
    "btmlm": "BTMLM stage 2: h1, h2, ... are the pseudo-tokens of stage 1",
}


class Panel(NamedTuple):
    """One sequence of t tokens. All lists have length t."""

    title: str
    tokens: list[str]  # what the model sees
    predicted: list[str]  # what it must predict there, "" for nothing
    positions: list[int]
    languages: list[str]  # the language embedding that is added, "" for none
    boundary: int  # tokens before the second side or the placeholders; t if there are none
    seen: np.ndarray  # bool [t, t]


def main() -> None:
    """Print the panels."""
    print("\n\n".join(as_text(panel) for panel in draw_panels(parse_arguments())))
    print("\nA row is a token that looks, a column a token that is seen: 1 = may attend.")


def draw_panels(options: argparse.Namespace, tokenizer: Tokenizer | None = None) -> list[Panel]:
    """The sequences of a batch of the objective: one, or both stages of BTMLM.

    Args:
        tokenizer: None: the one that the options name.

    Raises:
        UserError: the sentences do not suit the objective.
    """
    objective, names = options.objective, options.languages.split(",")
    if len(names) != 2:
        raise UserError(f"--languages '{options.languages}': give two names, as in --languages en,de")
    sentences = [sentence for sentence in (options.sentence, options.translation) if sentence is not None]
    if options.vocab_path and not options.piece_model_path:
        raise UserError(f"--vocab_path {options.vocab_path}: give its --piece_model_path, too")
    if tokenizer is None and options.piece_model_path:
        tokenizer = Tokenizer(options.vocab_path, options.piece_model_path)
    tokenizer = tokenizer or WordTokenizer(sentences)
    texts = [Text(np.array(tokenizer.encode(s), dtype=np.int64), i) for i, s in enumerate(sentences)]
    if not all(len(text.ids) for text in texts):
        raise UserError("a sentence has no tokens")
    config = ObjectiveConfig(
        pseudo_proportion=options.pseudo_proportion, pseudo_positions=options.pseudo_positions
    )
    check_ranges(config)
    maker = Objectives(config, Vocabulary.of(tokenizer), _LONGEST, options.language_embedding)
    example, second = texts[0], [1] if objective == "btmlm" else None
    if objective in ("tlm", "camlm"):
        if len(texts) < 2:
            raise UserError(f"{objective} needs a pair: give the sentence and its translation")
        example = Pair(*texts)
        if objective == "camlm" and not maker.serves_camlm(example):
            raise UserError("camlm needs an unmasked token on each side; such a pair serves tlm")
    batch = maker.batch(objective, [example], [generator(options.seed % (1 << 64), 0, 0)], second)

    def panel(title: str, part: Packed, predicted: dict[int, str], inputs: dict[int, str]) -> Panel:
        """`predicted` and `inputs`: a token's place -> token."""
        order = np.argsort(part.position_ids)  # the two sequences of CAMLM are a pair again
        seen = attention_mask.compact(int(part.contexts[0]), int(part.lengths[0] - part.contexts[0]))
        if objective == "camlm":
            masked = np.isin(np.arange(part.tokens), batch.targets)
            side = np.repeat([0, 1], part.lengths) ^ masked
            seen = attention_mask.camlm(side[order], masked[order])
        tokens = tokenizer.convert_ids_to_tokens(part.input_ids.tolist())
        return Panel(
            title,
            [inputs.get(place, tokens[place]) for place in order.tolist()],
            [predicted.get(place, "") for place in order.tolist()],
            part.position_ids[order].tolist(),
            [names[language] if language >= 0 else "" for language in part.language_ids[order]],
            int(np.argmax(part.input_ids[order] == tokenizer.sep_id)) + 1,
            seen,
        )

    answers = tokenizer.convert_ids_to_tokens(batch.target_ids.tolist())
    predicted = dict(zip(batch.targets.tolist(), answers))
    if batch.stage1 is None:
        return [panel(_TITLES[objective], batch, predicted, {})]
    pseudo = [f"h{i + 1}" for i in range(len(batch.stage1.slots))]
    produced, slots = (dict(zip(x.tolist(), pseudo)) for x in (batch.stage1.placeholders, batch.stage1.slots))
    first = panel("BTMLM stage 1 (Figure 4)", batch.stage1, produced, {})
    return [first, panel(_TITLES[objective], batch, predicted, slots)]


def as_text(panel: Panel) -> str:
    """The panel as lines: position, what the token may attend to, input, language, prediction."""
    lines = [panel.title, f" pos  {'attends to':<{2 * len(panel.tokens) + 2}}  input"]
    for position, seen, token, language, predicted in zip(
        panel.positions, panel.seen, panel.tokens, panel.languages, panel.predicted
    ):
        cells = ["1" if one else "." for one in seen]
        matrix = " ".join([*cells[: panel.boundary], "|", *cells[panel.boundary :]])
        added = f" + {language}" if language else ""
        goal = f" -> {predicted}" if predicted else ""
        lines.append(f"{position:>4}  {matrix:<{2 * len(cells) + 2}}  {token}{added}{goal}")
    return "\n".join(lines)


class WordTokenizer:
    """Numbers the words of sentences in the order they come."""

    cls_id, pad_id, sep_id, unk_id, mask_id = range(len(_SPECIALS))

    def __init__(self, sentences: Sequence[str]):
        self.tokens = [*_SPECIALS, *dict.fromkeys(" ".join(sentences).split())]
        self.vocab_size = len(self.tokens)

    def encode(self, sentence: str) -> list[int]:
        return [self.tokens.index(word, len(_SPECIALS)) for word in sentence.split()]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[i] for i in ids]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.show", description=__doc__.split("\n\n")[0])
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
