"""Small examples that the tests of the objectives share."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import paddle

from pretrain import attention_mask
from pretrain.batch import Batch, Packed, Stage1, pack
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import ObjectiveConfig
from pretrain.loss import to_device
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, SecondLanguage, Text

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
CLS, PAD, SEP, MASK = 0, 1, 2, 99
LANGUAGES = ["en", "de", "fr"]


def objectives(max_seq_len: int = 64, language_embedding: str = "masks", **choices) -> Objectives:
    second = SecondLanguage(LANGUAGES, {(0, 1): 8, (0, 2): 1})
    return Objectives(ObjectiveConfig(**choices), VOCABULARY, max_seq_len, language_embedding, second)


def texts(lengths, language: int = 0, seed: int = 0) -> list[Text]:
    rng = np.random.default_rng(seed)
    return [Text(rng.integers(4, 99, size=n), language) for n in lengths]


def pairs(lengths, seed: int = 0) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [
        Pair(Text(rng.integers(4, 99, size=a), 0), Text(rng.integers(4, 99, size=b), 1)) for a, b in lengths
    ]


def rngs(count: int, seed: int = 1, step: int = 0, start: int = 0) -> list[np.random.Generator]:
    return [generator(seed, step, index) for index in range(start, start + count)]


def split(batch: Packed, values: np.ndarray) -> list[list[int]]:
    """Values [N] of a packed row, for each of its sequences."""
    return [part.tolist() for part in np.split(values, batch.lengths.cumsum()[:-1])]


def restored(batch: Batch) -> np.ndarray:
    """The inputs with the masked tokens put back, [N]."""
    ids = batch.input_ids.copy()
    ids[batch.targets] = batch.target_ids
    return ids


def of_all_four(maker: Objectives, seed: int = 1) -> Batch:
    """All objectives in one row; lengths from a few tokens to as many as fit."""
    draws, examples = iter(rngs(99, seed)), []
    for objective, given in (
        ("mmlm", texts([20, 9, 70], language=2)),
        ("tlm", pairs([(20, 9), (1, 15), (50, 50)])),
        ("camlm", pairs([(13, 9), (5, 14), (40, 30)])),
        ("btmlm", texts([13, 5, 50])),
    ):
        examples += [maker.mask(objective, one, next(draws)) for one in given]
    return pack(examples)


def filled(
    model, batch: Batch, generator: PseudoTokenGenerator | None = None
) -> tuple[Batch, np.ndarray, dict[str, int]]:
    """BTMLM's second stage: the batch with its pseudo-tokens; these, int64 [P]; how many are copied, ..."""
    (on_device,) = to_device([batch])
    generator = generator or PseudoTokenGenerator(None, VOCABULARY.special_ids)
    with_pseudo_tokens, counts = generator.fill(model, on_device)
    ids = with_pseudo_tokens.inputs.input_ids.numpy()
    counts = {name: int(count) for name, count in counts.items()}
    return replace(batch, input_ids=ids), ids[batch.stage1.slots], counts


def first_pass(model, batch: Batch) -> paddle.Tensor:
    """The hidden states of BTMLM's placeholders, [P, H]."""
    (on_device,) = to_device([batch])
    return model.encode(on_device.stage1.inputs, on_device.stage1.placeholders)


class Dense(NamedTuple):
    """A batch by the definitions: whole pairs, padded, each with its matrix.

    Attributes:
        input_ids, position_ids, language_ids: int64 [B, T].
        seen: bool [B, 1, T, T].
        cells: where each token of the packed row stands, flat indices into B*T, int64 [N].
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    seen: np.ndarray
    cells: np.ndarray


def dense(batch: Packed) -> Dense:
    """The definition of a packed row: the two sequences of a CAMLM pair become one again."""
    rows, number, starts = [], 0, batch.lengths.cumsum() - batch.lengths
    while number < len(batch.lengths):
        start, length, context = (int(x[number]) for x in (starts, batch.lengths, batch.contexts))
        place = np.arange(start, start + length)
        if isinstance(batch, Stage1):
            rows.append((place, attention_mask.compact(context, length - context)))
        elif context == length:
            rows.append((place, np.ones([length, length], bool)))
        else:  # CAMLM: the two sequences together are all positions of the pair
            number += 1
            place = np.arange(start, start + length + int(batch.lengths[number]))
            place = place[np.argsort(batch.position_ids[place])]
            assert (np.diff(batch.position_ids[place]) == 1).all()
            separators = np.flatnonzero(batch.input_ids[place] == SEP)
            side = (np.arange(len(place)) > separators[0]).astype(int)
            masked = np.isin(place, batch.targets)
            rows.append((place, attention_mask.camlm(side, masked)))
        number += 1
    width = max(len(seen) for _, seen in rows)
    arrays = [np.full([len(rows), width], fill) for fill in (PAD, 1, -1)]
    matrices = np.zeros([len(rows), 1, width, width], bool)
    cells = np.zeros(batch.tokens, np.int64)
    for row, (place, seen) in enumerate(rows):
        columns = np.arange(len(place))
        for array, name in zip(arrays, ("input_ids", "position_ids", "language_ids")):
            array[row, columns] = getattr(batch, name)[place]
        matrices[row, 0, : len(seen), : len(seen)] = seen
        cells[place] = row * width + columns
    return Dense(*arrays, matrices, cells)
