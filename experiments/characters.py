"""What a masked word costs, in nats a character: a figure that compares vocabularies and mask rates.

    python -m experiments.characters --corpus output/corpus --models "[output/a/full, output/b/full]"

In each held-out line 15 % of the words are masked, the same for every model, with all of their pieces. The
losses of these pieces are added up and divided by the number of characters of these words. Beside it stands
what the frequencies of the pieces in the training text give. The last column is the mean over the languages.
"""

from utils.environment import run

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle

from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.config import FIRST_POSITION, NO_LANGUAGE
from model.heads import PreTrainingModel
from pretrain.batch import MaskedExample, MaskedSequence, pack
from pretrain.evaluate import frequency_losses
from pretrain.loss import masked_lm_loss, to_device
from reader.corpus import Blocks, Corpus
from reader.tokenization import Tokenizer
from utils.command_line import load_config
from utils.options import PositiveInt
from utils.runtime import prepare
from utils.tables import in_markdown

MASK_RATE = 0.15
LONGEST = 126  # tokens of a line, without special ones
AT_A_TIME = 32  # lines
WORD = "▁"  # begins the first piece of a word


@dataclass
class CharactersFlags:
    """Which models are compared, and on what."""

    corpus: str
    """Its held-out lines are read."""

    models: list[str] = field(default_factory=list)
    """Folders `full` of finished runs on this corpus."""

    lines: PositiveInt = 1000
    """The most lines of a language."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(CharactersFlags, arguments, __doc__)
    prepare()
    corpus = Corpus(Path(flags.corpus))
    tokenizer = Tokenizer.from_folder(flags.corpus)
    masked = {}  # language -> the masked lines, and the number of masked characters
    of_frequencies = {}
    for number, language in enumerate(corpus.languages):
        examples, characters = masked_lines(corpus, tokenizer, language, number, flags.lines)
        masked[language] = (examples, characters)
        targets = np.concatenate([example.sequences[0].target_ids for example in examples])
        losses = frequency_losses(corpus.piece_counts(language), targets)
        of_frequencies[language] = float(losses.sum() / characters)
    rows = {"frequencies of the pieces": of_frequencies}
    for folder in flags.models:
        checkpoint = open_checkpoint(folder)
        model = PreTrainingModel(checkpoint.config, corpus.languages)
        load_from(model, checkpoint, optional=())
        model.eval()
        rows[folder] = {language: loss_of(model, *lines) for language, lines in masked.items()}
    table = [["nats a character", *corpus.languages, "mean"]]
    for name, values in rows.items():
        table.append([name, *(f"{value:.4f}" for value in [*values.values(), np.mean([*values.values()])])])
    print(in_markdown(table))


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


def loss_of(model: PreTrainingModel, examples: list[MaskedExample], characters: int) -> float:
    """The loss of all masked pieces, divided by the number of masked characters."""
    total = 0.0
    with paddle.no_grad():
        for first in range(0, len(examples), AT_A_TIME):
            (batch,) = to_device([pack(examples[first : first + AT_A_TIME])])
            total += float(masked_lm_loss(model, batch).total)
    return total / characters


if __name__ == "__main__":
    run(main)
