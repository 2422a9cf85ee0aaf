"""A sequence of a batch as `pretrain.show` prints it and `pretrain.show` draws it."""

import argparse
import os
import shutil
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle

from pretrain import attention_mask
from pretrain.batch import Batch
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from utils.errors import UserError, run
from utils.files import atomic_file


class Panel(NamedTuple):
    """One sequence as it is drawn; lists of length t."""

    title: str
    tokens: list[str]  # what the model sees
    predicted: list[str]  # what it must predict there, "" elsewhere
    positions: list[int]
    languages: list[str]  # the language embedding that is added, "" for none
    boundary: int  # tokens before the second side, or the placeholders; t where there is none
    seen: np.ndarray  # bool [t, t]


# The figures of `pretrain.show` as a picture: each sequence with its predictions, and who sees whom.

_CELL, _WIDEST = 0.38, 40  # inches a token takes, and a sequence at most
_PLAIN, _MASKED, _SEEN, _UNSEEN = "#dfe7f1", "#f6c46b", "#3f6ea8", "#f4f4f4"


def write_png(path: str | os.PathLike, panels: Sequence[Panel]) -> str:
    """Write the panels, one below the other.

    Returns:
        the characters that no installed font has, as one string; their code points are drawn instead.
    """
    texts = [
        text for panel in panels for text in (panel.title, *panel.tokens, *panel.predicted, *panel.languages)
    ]
    families, lacking = _fonts(set("".join(texts)))

    def label(text: str) -> str:
        return "".join(f"<{ord(c):X}>" if c in lacking else c for c in text)

    sizes = [min(max(6, len(panel.tokens)) * _CELL, _WIDEST) for panel in panels]
    figure = Figure(figsize=(max(sizes) + 2.6, sum(sizes) + 3.4 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [ratio for size in sizes for ratio in (2.4, size + 1.0)]
    axes = figure.subplots(2 * len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for index, panel in enumerate(panels):
        _sequence(axes[2 * index], panel, families, label)
        _matrix(axes[2 * index + 1], panel, families, label)
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
    return "".join(sorted(lacking))


def _sequence(axes, panel: Panel, families: list[str], label) -> None:
    """Figure 1 and 3: inputs below, predictions above, and a line from each prediction to what it may use."""
    style = {"ha": "center", "family": families, "parse_math": False, "fontsize": 8, "rotation": 45}
    for column, (token, predicted) in enumerate(zip(panel.tokens, panel.predicted)):
        colour = _MASKED if predicted else _PLAIN
        axes.add_patch(_box(column, 0, colour))
        axes.text(column, -0.45, label(token), va="top", **{**style, "ha": "right"})
        if predicted:
            axes.add_patch(_box(column, 2, colour))
            axes.text(column, 2.45, label(predicted), va="bottom", **{**style, "ha": "left"})
            for seen in np.flatnonzero(panel.seen[column]):
                axes.plot([seen, column], [0.3, 1.7], color=_SEEN, linewidth=0.6, alpha=0.6)
    axes.set_title(label(panel.title), family=families, fontsize=10, loc="left", pad=30)
    axes.set_xlim(-0.7, len(panel.tokens) - 0.3)
    axes.set_ylim(-0.4, 2.4)
    axes.axis("off")


def _box(column: float, height: float, colour: str):
    return Rectangle(
        (column - 0.35, height - 0.3), 0.7, 0.6, facecolor=colour, edgecolor="#555555", linewidth=0.6
    )


def _matrix(axes, panel: Panel, families: list[str], label) -> None:
    """Figures 2 and 4: rows look, columns are seen."""
    axes.pcolormesh(
        panel.seen, cmap=ListedColormap([_UNSEEN, _SEEN]), vmin=0, vmax=1, edgecolors="white", linewidth=1
    )
    axes.xaxis.tick_top()
    places = np.arange(len(panel.tokens)) + 0.5
    names = [label(f"{token} {language}".strip()) for token, language in zip(panel.tokens, panel.languages)]
    axes.set_xticks(places, [label(token) for token in panel.tokens], rotation=90)
    axes.set_yticks(places, names)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set(family=families, fontsize=8, parse_math=False)
    if panel.boundary < len(panel.tokens):
        axes.axvline(panel.boundary, color="black", linewidth=1.2)
        axes.axhline(panel.boundary, color="black", linewidth=1.2)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")


def _fonts(characters: set[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the characters, and the characters that no installed font has."""
    families = ["DejaVu Sans"]  # comes with matplotlib
    missing = {c for c in characters if not c.isspace()} - _covered(font_manager.findfont("DejaVu Sans"))
    for font in font_manager.fontManager.ttflist:
        if not missing:
            break
        if font.name in families or font.name.startswith("Last Resort"):  # boxes for every character there is
            continue
        gained = missing & _covered(font.fname)
        if gained:
            families.append(font.name)
            missing -= gained
    return families, missing


def _covered(path: str) -> set[str]:
    return {chr(code) for code in FT2Font(path).get_charmap()}


# Draw the paper's Figures 1, 2 and 4 for one's own sentences, from the very batches that training uses.
#
#     python -m pretrain.show "a sentence" "ein Satz" --objective camlm --output camlm.png
#
# Each row is a token: its position, its input, the language it is told, what it must predict, and whom it may
# attend to. Without --piece_model_path the tokens are words (characters in scripts written without spaces).

_SPECIALS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
_MOST_TOKENS = 512
# Thai, Lao, Tibetan, Burmese, Khmer: written without spaces, and not wide as Chinese and Japanese are.
_WITHOUT_SPACES = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them as PNG where --output is given."""
    options = _parse(arguments)
    panels = draw_panels(options)
    columns = shutil.get_terminal_size((100, 24)).columns
    print("\n\n".join(as_text(panel, columns) for panel in panels))
    print("\nA row is a token that looks, a column (its position) a token that is seen: 1 = may attend.")
    if options.output:
        from pretrain.show import write_png  # matplotlib is slow to import, and text needs none of it

        lacking = write_png(options.output, panels)
        print(f"wrote {options.output}")
        if lacking:
            print(f"no installed font has {lacking}: code points stand in the picture; install Noto fonts")


def draw_panels(options: argparse.Namespace) -> list[Panel]:
    """The sequences of one batch of the objective.

    Raises:
        UserError: the sentences do not suit the objective.
    """
    names = [name.strip() for name in options.languages.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f"--languages '{options.languages}': give two names, as in --languages en,de")
    sentences = [options.sentence] + ([options.translation] if options.translation is not None else [])
    tokenizer = _PieceTokens(options) if options.piece_model_path else _PlainTokens(sentences)
    texts = [Text(np.array(tokenizer.encode(s), dtype=np.int64), i) for i, s in enumerate(sentences)]
    for text, sentence in zip(texts, sentences):
        if not len(text.ids):
            raise UserError(f"the sentence '{sentence}' has no tokens")
    config = ObjectiveConfig(
        mask_rate=options.mask_rate,
        pseudo_proportion=options.pseudo_proportion,
        pseudo_positions=options.pseudo_positions,
    )
    maker = Objectives(config, tokenizer.vocabulary, options.max_seq_len, options.language_embedding)
    objective = options.objective
    if objective in ("tlm", "camlm"):
        if len(texts) < 2:
            raise UserError(f"{objective} needs a pair: give the sentence and its translation")
        pair = Pair(*texts)
        if objective == "camlm" and not maker.serves_camlm(pair):
            raise UserError("camlm needs an unmasked token on each side; such a pair serves tlm")
        batch = maker.batch(objective, [pair], [generator(options.seed, 0, 0)])
    else:
        examples = texts[:1] if objective == "btmlm" else texts
        rngs = [generator(options.seed, 0, i) for i in range(len(examples))]
        batch = maker.batch(objective, examples, rngs, second_languages=[1] if objective == "btmlm" else None)
    pair = objective == "camlm" and options.camlm_form == "dense"
    return _panels(batch, objective, tokenizer, names, pair)


def _panels(batch: Batch, objective: str, tokenizer, names: list[str], pair: bool) -> list[Panel]:
    """A panel for each sequence. `pair`: CAMLM's two sequences as the one of the definition."""

    def panel(title, part, chosen, seen, predictions, boundary=None, replaced=()) -> Panel:
        """The tokens `chosen` of a packed row; `predictions` and `replaced`: token's place -> token."""
        ids, languages = part.input_ids[chosen], part.language_ids[chosen]
        if boundary is None:
            boundary = int(np.flatnonzero(ids == tokenizer.vocabulary.sep_id)[0]) + 1
        return Panel(
            title,
            [dict(replaced).get(place) or tokenizer.token(i) for place, i in zip(chosen.tolist(), ids)],
            [predictions.get(place, "") for place in chosen.tolist()],
            part.position_ids[chosen].tolist(),
            [names[language] if language >= 0 else "" for language in languages],
            boundary,
            seen,
        )

    panels, slots = [], {}
    if batch.stage1 is not None:  # one sentence, so that its slots and placeholders are in order
        stage1 = batch.stage1
        slots = {int(slot): f"h{i + 1}" for i, slot in enumerate(stage1.slots)}
        placeholders = {int(place): f"h{i + 1}" for i, place in enumerate(stage1.placeholders)}
        everything, context = np.arange(stage1.tokens), int(stage1.contexts[0])
        seen = stage1.attention(0)
        panels.append(panel("BTMLM stage 1 (Figure 4)", stage1, everything, seen, placeholders, context))
    title = {
        "mmlm": "MMLM (Figures 1a, 2a)",
        "tlm": "TLM (Figures 1b, 2b)",
        "camlm": "CAMLM (Figures 1c, 2c)",
        "btmlm": "BTMLM stage 2: h1, h2, ... are the pseudo-tokens of stage 1",
    }[objective]
    predictions = {
        place: tokenizer.token(token) for place, token in zip(batch.targets.tolist(), batch.target_ids)
    }
    if pair:
        place = np.arange(batch.tokens) - np.repeat(batch.starts, batch.lengths)
        masked = place >= np.repeat(batch.contexts, batch.lengths)
        side = np.repeat([0, 1], batch.lengths) ^ masked
        chosen = np.argsort(batch.position_ids)
        seen = attention_mask.camlm(side[chosen], masked[chosen])
        return [panel(title, batch, chosen, seen, predictions, int((side == 0).sum()))]
    for number, (start, length) in enumerate(zip(batch.starts, batch.lengths)):
        chosen, context = np.arange(start, start + length), int(batch.contexts[number])
        boundary = context if context < length else None
        panels.append(panel(title, batch, chosen, batch.attention(number), predictions, boundary, slots))
    return panels


def as_text(panel: Panel, columns: int = 100) -> str:
    """The panel as lines of a terminal `columns` wide, aligned whatever the script."""
    table = [["pos", "input", "language", "predicts"]]
    table += [
        [str(position), token, language, predicted]
        for position, token, language, predicted in zip(
            panel.positions, panel.tokens, panel.languages, panel.predicted
        )
    ]
    widths = [max(display_width(line[i]) for line in table) for i in range(4)]
    labels = ["  ".join(_pad(cell, width) for cell, width in zip(line, widths)) for line in table]
    indent = sum(widths) + 2 * 4
    gap = " " if indent + 2 * len(panel.tokens) + 2 <= columns else ""

    def cells(values: Sequence[str]) -> str:
        parts = [values[: panel.boundary], values[panel.boundary :]]
        return (f"{gap}|{gap}" if gap else "|").join(gap.join(part) for part in parts if len(part))

    digits = [f"{position:>{len(str(max(panel.positions)))}}" for position in panel.positions]
    header = [cells([digit[i] for digit in digits]).replace("|", " ") for i in range(len(digits[0]))]
    lines = [panel.title]
    lines += [" " * indent + line for line in header[:-1]]
    lines.append(f"{labels[0]}  {header[-1]}")
    for label, row in zip(labels[1:], panel.seen):
        lines.append(f"{label}  {cells(['1' if one else '.' for one in row])}")
    return "\n".join(line.rstrip() for line in lines)


def display_width(text: str) -> int:
    """Terminal columns that a text takes: 2 for wide characters, 0 for combining and invisible ones."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _pad(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


class _PlainTokens:
    """Words, or characters where a script has no spaces, numbered as they come."""

    def __init__(self, sentences: Sequence[str]):
        words = dict.fromkeys(word for sentence in sentences for word in split_words(sentence))
        self._tokens = [*_SPECIALS, *words]
        self._ids = {token: i for i, token in enumerate(self._tokens) if i >= len(_SPECIALS)}
        self.vocabulary = Vocabulary(0, 1, 2, 3, 4, len(self._tokens))

    def encode(self, sentence: str) -> list[int]:
        return [self._ids[word] for word in split_words(sentence)]

    def token(self, token_id: int) -> str:
        return self._tokens[token_id]


class _PieceTokens:
    """The pieces of a real tokenizer."""

    def __init__(self, options: argparse.Namespace):
        from reader.tokenization import Tokenizer

        self._tokenizer = Tokenizer(options.vocab_path, options.piece_model_path)
        self.vocabulary = Vocabulary.of(self._tokenizer)

    def encode(self, sentence: str) -> list[int]:
        return self._tokenizer.encode(sentence)

    def token(self, token_id: int) -> str:
        return self._tokenizer.convert_ids_to_tokens([token_id])[0]


def split_words(sentence: str) -> list[str]:
    """Words at spaces; characters, with what combines with them, where a script is written without spaces."""
    tokens = []
    for word in sentence.split():
        previous_alone = True
        for index, character in enumerate(word):
            combines = unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")
            alone = not combines and _stands_alone(character)
            if index and (combines or not (alone or previous_alone)):
                tokens[-1] += character
            else:
                tokens.append(character)
            previous_alone = alone or (combines and previous_alone)
    return tokens


def _stands_alone(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide or any(low <= ord(character) <= high for low, high in _WITHOUT_SPACES)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pretrain.show", description=__doc__.split("\n\n")[0])
    parser.add_argument("sentence")
    parser.add_argument("translation", nargs="?", help="mmlm: a second text; btmlm makes its own")
    parser.add_argument("--objective", choices=OBJECTIVES, default="camlm")
    parser.add_argument("--languages", default="src,tgt", help="names of the two languages")
    parser.add_argument("--piece_model_path", help="sentencepiece model; without it tokens are words")
    parser.add_argument("--vocab_path", help="vocab.txt; without it ids are derived from the piece model")
    parser.add_argument("--output", help="write the figures to this PNG file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max_seq_len", type=int, default=_MOST_TOKENS)
    parser.add_argument("--mask_rate", type=float, default=0.15)
    parser.add_argument("--camlm_form", choices=("dense", "compact"), default="dense")
    parser.add_argument("--pseudo_proportion", type=float, default=0.2)
    parser.add_argument("--pseudo_positions", choices=("first", "spread"), default="first")
    parser.add_argument("--language_embedding", choices=("masks", "none", "all"), default="masks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
