"""What a masked word costs after so many tokens of pre-training, in nats a character.

    python -m experiments.curves --corpus output/corpus --runs "['own.yaml<=output/a', 'own.yaml<=output/b']"
    python -m experiments.curves

The first measures the checkpoints that runs have kept (`run.keep_checkpoints`) and puts them into
docs/results/curves.json; runs of one name differ in their seed. Both write docs/results/curves.md and
docs/images/curves.png from it.

In each held-out line 15 % of the words are masked, the same for every model, with all of their pieces. The
losses of these pieces are added up and divided by the number of characters of these words, which compares
vocabularies and mask rates. Beside it stands what the frequencies of the pieces in the training text give.
All figures are means over the languages.
"""

from utils.environment import run

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from matplotlib.figure import Figure

from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.config import FIRST_POSITION, NO_LANGUAGE
from model.heads import PreTrainingModel
from pretrain.batch import MaskedExample, MaskedSequence, pack
from pretrain.evaluate import frequency_losses
from pretrain.loss import masked_lm_loss, to_device
from reader.corpus import Blocks, Corpus
from reader.tokenization import Tokenizer
from training.records import read_records
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.options import PositiveInt
from utils.runtime import prepare
from utils.tables import in_markdown

FIGURES = Path("docs/results/curves.json")
CHART = Path("docs/images/curves.png")
AT_MILLIONS = (2, 4, 6, 8, 10)
MASK_RATE = 0.15
LONGEST = 126  # tokens of a line, without special ones
AT_A_TIME = 32  # lines
WORD = "▁"  # begins the first piece of a word
FREQUENCIES = "frequencies of the pieces"
ABOUT = f"""# What a masked word costs

Nats a character of held-out text, the mean over the languages (`experiments/curves.py`), and each seed in
brackets. Between two checkpoints the figures are interpolated. {FREQUENCIES.capitalize()}: """


@dataclass
class CurvesFlags:
    """Without flags the table and the chart are written; with --runs they are measured first."""

    corpus: str = ""
    """Its held-out lines are read."""

    runs: list[str] = field(default_factory=list)
    """name<=output folder of run_pretrain.py. Runs of one name replace those that the figures have."""

    lines: PositiveInt = 1000
    """The most lines of a language."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(CurvesFlags, arguments, __doc__)
    figures = read_json(FIGURES) if FIGURES.is_file() else {"runs": {}}
    if flags.runs:
        prepare()
        corpus = Corpus(Path(flags.corpus))
        masked, figures["frequencies"] = masked_text(corpus, flags.lines)
        curves: dict[str, list] = {}
        for item in flags.runs:
            name, arrow, folder = item.partition("<=")
            if not (name and arrow and folder):
                raise UserError(f"--runs '{item}': give name<=folder")
            curves.setdefault(name, []).append(curve_of(Path(folder), corpus, masked))
        figures["runs"] |= curves
        with atomic_file(FIGURES, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")
    with atomic_file(FIGURES.with_suffix(".md"), "w") as file:
        file.write(page(figures))
    draw(figures)


def masked_text(corpus: Corpus, most: int) -> tuple[list[tuple[list[MaskedExample], int]], float]:
    """The `masked_lines` of each language, and what the frequencies of the pieces give.

    Args:
        most: lines of a language.
    """
    masked = []
    of_frequencies = []
    tokenizer = Tokenizer.from_folder(corpus.path)
    for number, language in enumerate(corpus.languages):
        examples, characters = masked_lines(corpus, tokenizer, language, number, most)
        masked.append((examples, characters))
        targets = np.concatenate([example.sequences[0].target_ids for example in examples])
        of_frequencies.append(frequency_losses(corpus.piece_counts(language), targets).sum() / characters)
    return masked, float(np.mean(of_frequencies))


def masked_lines(
    corpus: Corpus, tokenizer: Tokenizer, language: str, number: int, most: int
) -> tuple[list[MaskedExample], int]:
    """Held-out lines of a language with masked words, and how many characters these words have.

    Args:
        number: of the language in the model.
    """
    lines = Blocks(corpus.held_out_mono[language], LONGEST, one_line=True)
    examples = []
    characters = 0
    for line in range(min(len(lines), most)):
        ids = np.asarray(lines[line], np.int64)  # [t]
        pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
        word_of_piece = np.cumsum([piece.startswith(WORD) for piece in pieces])  # [t]
        words = np.unique(word_of_piece)
        # The words of a line depend on the line alone, not on how a vocabulary divides them.
        rng = np.random.default_rng(zlib.crc32(tokenizer.decode(ids).encode()))
        chosen_words = rng.permutation(words)[: max(1, round(MASK_RATE * len(words)))]
        chosen = np.flatnonzero(np.isin(word_of_piece, chosen_words) & (ids != tokenizer.unk_id))  # [m]
        characters += sum(len(pieces[place].removeprefix(WORD)) for place in chosen)
        input_ids = np.concatenate([[tokenizer.cls_id], ids, [tokenizer.sep_id]])
        input_ids[1 + chosen] = tokenizer.mask_id
        sequence = MaskedSequence(
            input_ids=input_ids,
            position_ids=FIRST_POSITION + np.arange(len(input_ids)),
            language_ids=np.where(input_ids == tokenizer.mask_id, number, NO_LANGUAGE),
            targets=1 + chosen,
            target_ids=ids[chosen],
            target_languages=np.full(len(chosen), number),
            context=len(input_ids),
        )
        examples.append(MaskedExample("mmlm", [sequence]))
    return examples, characters


def curve_of(
    folder: Path, corpus: Corpus, masked: list[tuple[list[MaskedExample], int]]
) -> list[list[float]]:
    """[trained tokens, nats a character] of each checkpoint of a run."""
    curve = []
    for record in read_records(folder / "metrics.jsonl"):
        checkpoint = folder / "checkpoints" / f"step_{record['step']}"
        if "tokens" in record and checkpoint.is_dir():
            opened = open_checkpoint(checkpoint)
            model = PreTrainingModel(opened.config, corpus.languages)
            load_from(model, opened, optional=())
            model.eval()
            nats = float(np.mean([loss_of(model, *lines) for lines in masked]))
            curve.append([record["tokens"], round(nats, 4)])
    return curve


def loss_of(model: PreTrainingModel, examples: list[MaskedExample], characters: int) -> float:
    """The loss of all masked pieces, divided by the number of masked characters."""
    total = 0.0
    with paddle.no_grad():
        for first in range(0, len(examples), AT_A_TIME):
            (batch,) = to_device([pack(examples[first : first + AT_A_TIME])])
            total += float(masked_lm_loss(model, batch).total)
    return total / characters


def page(figures: Mapping[str, Any]) -> str:
    """The table of all runs, in Markdown."""
    table = [["run", *(f"{millions} million tokens" for millions in AT_MILLIONS)]]
    for name, curves in figures["runs"].items():
        cells = []
        for millions in AT_MILLIONS:
            values = [np.interp(1e6 * millions, *np.transpose(curve)) for curve in curves]
            cells.append(f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        table.append([name, *cells])
    image = f"![the same as curves](../images/{CHART.name})"
    return f"{ABOUT}{figures['frequencies']:.3f}.\n\n{in_markdown(table)}\n\n{image}\n"


def draw(figures: Mapping[str, Any]) -> None:
    """Draw a curve for each run, in a colour for each name."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for number, (name, curves) in enumerate(figures["runs"].items()):
        for seed, curve in enumerate(curves):
            tokens, nats = np.transpose(curve)
            axis.plot(tokens / 1e6, nats, color=f"C{number}", label=None if seed else name)
    axis.axhline(figures["frequencies"], color="grey", linestyle=":", label=FREQUENCIES)
    axis.set_title("nats a character of held-out text, by million tokens", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7)
    with atomic_file(CHART) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    run(main)
