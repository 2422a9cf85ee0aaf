"""What a masked word costs along a run, in nats a character.

In each held-out line 15 % of the words are masked, the same for every model, with all of their pieces. The
losses of these pieces are added up and divided by the number of characters of these words, so that models
with different vocabularies and mask rates can be compared. Between vocabularies leave out corpora with lines
of over 126 pieces, which are cut, and those of a language without spaces, which has about one word a line.
"""

import zlib
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
from training.records import METRICS, read_records
from utils.config import read_yaml
from utils.errors import UserError

MASK_RATE = 0.15
LONGEST = 126  # tokens of a line, without special ones
AT_A_TIME = 32  # lines
WORD = "▁"  # begins the first piece of a word


def figures_of(folder: Path, most: int) -> tuple[list[list[float]], float]:
    """[trained tokens, nats a character] of each checkpoint of a run, and what its pieces' frequencies give.

    Both are means over the languages of the run's corpus.

    Args:
        folder: the output of run_pretrain.py.
        most: the most held-out lines of a language.

    Raises:
        UserError: the run has kept no checkpoint, or its corpus is gone.
    """
    corpus = Corpus(Path(read_yaml(folder / "config.yaml")["data"]["corpus"]))
    tokenizer = Tokenizer.from_folder(corpus.path)
    masked = []
    of_frequencies = []
    for number, language in enumerate(corpus.languages):
        examples, characters = masked_lines(corpus, tokenizer, language, number, most)
        masked.append((examples, characters))
        targets = np.concatenate([example.sequences[0].target_ids for example in examples])
        of_frequencies.append(frequency_losses(corpus.piece_counts(language), targets).sum() / characters)
    curve = []
    for record in read_records(folder / METRICS):
        checkpoint = folder / "checkpoints" / f"step_{record['step']}"
        if "tokens" in record and checkpoint.is_dir():
            opened = open_checkpoint(checkpoint)
            model = PreTrainingModel(opened.config, corpus.languages)
            load_from(model, opened, optional=())
            model.eval()
            nats = float(np.mean([loss_of(model, *lines) for lines in masked]))
            curve.append([record["tokens"], round(nats, 4)])
    if not curve:
        raise UserError(f"{folder}/checkpoints: none of a step in {METRICS}; set run.keep_checkpoints to 100")
    return curve, round(float(np.mean(of_frequencies)), 4)


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
