"""Draw the attention masks of your own sentences (paper Figures 2 and 4) from the batches of training.

    python -m pretrain.show "a sentence" "ein Satz" --objective camlm --output camlm.png

Each row is a token: its position, the tokens it may attend to, its input, its language embedding, and what
the model must predict there. Without --piece_model_path the tokens are the words between spaces.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pretrain import attention_mask
from pretrain.batch import Batch, Packed
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from reader.tokenization import Tokenizer
from utils.errors import UserError, run
from utils.files import atomic_file

_SPECIALS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
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
    """Print the panels, and write them as a PNG file if --output is given."""
    options = parse_arguments()
    panels = draw_panels(options)
    print("\n\n".join(as_text(panel) for panel in panels))
    print("\nA row is a token that looks, a column a token that is seen: 1 = may attend.")
    if options.output:
        write_png(options.output, panels)
        print(f"wrote {options.output}")


def draw_panels(options: argparse.Namespace, tokenizer: Tokenizer | None = None) -> list[Panel]:
    """The sequences of one batch of the objective.

    Args:
        tokenizer: None: the one that the options name.

    Raises:
        UserError: the sentences do not suit the objective.
    """
    names = [name.strip() for name in options.languages.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f"--languages '{options.languages}': give two names, as in --languages en,de")
    sentences = [options.sentence] + ([options.translation] if options.translation is not None else [])
    if tokenizer is None and not options.piece_model_path:
        tokenizer = WordTokenizer(sentences)
    elif tokenizer is None:
        tokenizer = Tokenizer(options.vocab_path, options.piece_model_path)
    texts = [Text(np.array(tokenizer.encode(s), dtype=np.int64), i) for i, s in enumerate(sentences)]
    for text, sentence in zip(texts, sentences):
        if not len(text.ids):
            raise UserError(f"the sentence '{sentence}' has no tokens")
    config = ObjectiveConfig(
        mask_rate=options.mask_rate,
        pseudo_proportion=options.pseudo_proportion,
        pseudo_positions=options.pseudo_positions,
    )
    maker = Objectives(config, Vocabulary.of(tokenizer), options.max_seq_len, options.language_embedding)
    objective, second = options.objective, None
    if objective in ("tlm", "camlm"):
        if len(texts) < 2:
            raise UserError(f"{objective} needs a pair: give the sentence and its translation")
        texts = [Pair(*texts)]
        if objective == "camlm" and not maker.serves_camlm(texts[0]):
            raise UserError("camlm needs an unmasked token on each side; such a pair serves tlm")
    elif objective == "btmlm":
        texts, second = texts[:1], [1]
    rngs = [generator(options.seed, 0, i) for i in range(len(texts))]
    return _panels(maker.batch(objective, texts, rngs, second), objective, tokenizer, names)


def _panels(
    batch: Batch, objective: str, tokenizer: "WordTokenizer | Tokenizer", names: list[str]
) -> list[Panel]:
    def panel(
        title: str,
        part: Packed,
        chosen: np.ndarray,
        seen: np.ndarray,
        predictions: Mapping[int, str],
        inputs: Mapping[int, str],
    ) -> Panel:
        """The tokens `chosen` of a packed row; `predictions` and `inputs`: a token's place -> token."""
        ids, places = part.input_ids[chosen], chosen.tolist()
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        boundary = int(np.flatnonzero(ids == tokenizer.sep_id)[0]) + 1
        return Panel(
            title,
            [inputs.get(place, token) for place, token in zip(places, tokens)],
            [predictions.get(place, "") for place in places],
            part.position_ids[chosen].tolist(),
            [names[language] if language >= 0 else "" for language in part.language_ids[chosen]],
            boundary,
            seen,
        )

    panels, inputs, title = [], {}, _TITLES[objective]
    stage1 = batch.stage1
    if stage1 is not None:  # it has one sentence, so slots and placeholders are in order
        pseudo = [f"h{i + 1}" for i in range(len(stage1.slots))]
        inputs = dict(zip(stage1.slots.tolist(), pseudo))
        predictions = dict(zip(stage1.placeholders.tolist(), pseudo))
        first, everything = "BTMLM stage 1 (Figure 4)", np.arange(stage1.tokens)
        panels.append(panel(first, stage1, everything, stage1.attention(0), predictions, {}))
    predictions = dict(
        zip(batch.targets.tolist(), tokenizer.convert_ids_to_tokens(batch.target_ids.tolist()))
    )
    if objective == "camlm":  # its two sequences, as the pair of the definition
        masked = np.isin(np.arange(batch.tokens), batch.targets)
        side = np.repeat([0, 1], batch.lengths) ^ masked
        chosen = np.argsort(batch.position_ids)
        seen = attention_mask.camlm(side[chosen], masked[chosen])
        return [panel(title, batch, chosen, seen, predictions, inputs)]
    for number, (start, length) in enumerate(zip(batch.starts, batch.lengths)):
        chosen = np.arange(start, start + length)
        panels.append(panel(title, batch, chosen, batch.attention(number), predictions, inputs))
    return panels


def as_text(panel: Panel) -> str:
    """The panel as lines: position, what the token may attend to, input, language, prediction."""
    lines = [panel.title, f" pos  {'attends to':<{2 * len(panel.tokens) + 2}}  input"]
    rows = zip(panel.positions, panel.seen, panel.tokens, panel.languages, panel.predicted)
    for position, seen, token, language, predicted in rows:
        cells = ["1" if one else "." for one in seen]
        matrix = " ".join([*cells[: panel.boundary], "|", *cells[panel.boundary :]])
        added = f" + {language}" if language else ""
        goal = f" -> {predicted}" if predicted else ""
        lines.append(f"{position:>4}  {matrix:<{2 * len(cells) + 2}}  {token}{added}{goal}")
    return "\n".join(lines)


def write_png(path: str | os.PathLike, panels: Sequence[Panel]) -> None:
    """Draw the matrix of each panel (Figures 2 and 4).

    matplotlib warns of characters that no installed font has.
    """
    # matplotlib is slow to import, and the text does not need it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    texts = [text for p in panels for text in (*p.tokens, *p.languages, *p.predicted)]
    style = {"family": _fonts(set("".join(texts))), "parse_math": False, "fontsize": 8}
    sizes = [min(max(6, len(panel.tokens)) * 0.38, 40) + 1.0 for panel in panels]  # inches
    figure = Figure(figsize=(max(sizes) + 1.6, sum(sizes)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for panel, matrix in zip(panels, axes):
        _draw_matrix(matrix, panel, style)
    with atomic_file(path) as file:
        figure.savefig(file, format="png")


def _draw_matrix(axes, panel: Panel, style: dict) -> None:
    """Rows are the tokens that look, columns the tokens that are seen."""
    axes.pcolormesh(panel.seen, cmap="Blues", vmin=-0.1, vmax=1.4, edgecolors="white", linewidth=1)
    axes.set_title(panel.title, **style)
    axes.xaxis.tick_top()
    places = np.arange(len(panel.tokens)) + 0.5
    goals = [f"-> {predicted}" if predicted else "" for predicted in panel.predicted]
    rows = [" ".join(filter(None, one)) for one in zip(panel.tokens, panel.languages, goals)]
    axes.set_xticks(places, panel.tokens, rotation=90, **style)
    axes.set_yticks(places, rows, **style)
    if panel.boundary < len(panel.tokens):
        axes.axvline(panel.boundary, color="black", linewidth=1.2)
        axes.axhline(panel.boundary, color="black", linewidth=1.2)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")


def _fonts(characters: set[str]) -> list[str]:
    """Installed font families that together have the characters, as far as there are any."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    families, missing = [], {ord(character) for character in characters if not character.isspace()}
    first = font_manager.findfont("DejaVu Sans")  # comes with matplotlib
    fonts = [("DejaVu Sans", first), *((font.name, font.fname) for font in font_manager.fontManager.ttflist)]
    for name, path in fonts:
        covered = missing & FT2Font(path).get_charmap().keys() if missing else set()
        if (covered and not name.startswith("Last Resort")) or not families:
            families.append(name)
            missing -= covered
    return families


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
    parser = argparse.ArgumentParser(prog="python -m pretrain.show", description=__doc__.split("\n\n")[0])
    parser.add_argument("sentence")
    parser.add_argument("translation", nargs="?", help="mmlm: a second text; btmlm makes its own")
    parser.add_argument("--objective", choices=OBJECTIVES, default="camlm")
    parser.add_argument("--languages", default="src,tgt", help="names of the two languages")
    parser.add_argument("--piece_model_path", help="sentencepiece model; without it tokens are words")
    parser.add_argument("--vocab_path", help="vocab.txt; without it ids are derived from the piece model")
    parser.add_argument("--output", help="write the figures to this PNG file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max_seq_len", type=int, default=512)
    parser.add_argument("--mask_rate", type=float, default=0.15)
    parser.add_argument("--pseudo_proportion", type=float, default=0.2)
    parser.add_argument("--pseudo_positions", choices=("first", "spread"), default="first")
    parser.add_argument("--language_embedding", choices=("masks", "none", "all"), default="masks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
