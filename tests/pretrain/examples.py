"""Small examples that the tests of the objectives share."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import paddle

from model.config import NO_LANGUAGE, PAD_POSITION
from pretrain.config import ObjectiveConfig
from pretrain.loss import to_device
from pretrain.objective import Objective, Pair, Setting, Text, Vocabulary, class_of, rng_of
from pretrain.objectives import OBJECTIVES, OF_THE_PAPER
from pretrain.objectives.camlm import attention_mask
from pretrain.packing import MicroBatch, Packed, Stage1, pack
from pretrain.pseudo_tokens import PseudoTokenGenerator

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
CLS = 0
PAD = 1
SEP = 2
MASK = 99
FIRST_ORDINARY_ID = 4  # 4 to 98 are the ids that are not special
LANGUAGES = ["en", "de", "fr"]


def objectives(max_seq_len: int = 64, language_embedding: str = "masks", **choices) -> dict[str, Objective]:
    """The paper's objectives for three languages, with these choices of `ObjectiveConfig`."""
    pairs = {(0, 1): 8, (0, 2): 1}  # 8 pairs en-de, 1 pair en-fr
    config = ObjectiveConfig(**choices)
    setting = Setting(config, VOCABULARY, max_seq_len, language_embedding, LANGUAGES, pairs)
    return {name: class_of(name)(setting) for name in OF_THE_PAPER}


def _text(length: int, language: int, rng: np.random.Generator) -> Text:
    """Random ordinary ids."""
    return Text(rng.integers(FIRST_ORDINARY_ID, MASK, size=length), language)


def texts(lengths, language: int = 0, seed: int = 0) -> list[Text]:
    """A text of each length."""
    rng = np.random.default_rng(seed)
    return [_text(length, language, rng) for length in lengths]


def pairs(lengths, seed: int = 0) -> list[Pair]:
    """A random pair of English and German for each (length of the source, length of the target)."""
    rng = np.random.default_rng(seed)
    return [Pair(_text(src_length, 0, rng), _text(tgt_length, 1, rng)) for src_length, tgt_length in lengths]


def rngs(count: int, seed: int = 1, step: int = 0) -> list[np.random.Generator]:
    """The generators of the first `count` examples of a step."""
    return [rng_of(seed, step, index) for index in range(count)]


def split(batch: Packed, values: np.ndarray) -> list[list[int]]:
    """Values of the tokens of a batch, [N], as a list for each sequence."""
    return [part.tolist() for part in np.split(values, batch.lengths.cumsum()[:-1])]


def restored(batch: MicroBatch) -> np.ndarray:
    """The inputs with the masked tokens put back, [N]."""
    ids = batch.input_ids.copy()
    ids[batch.targets] = batch.target_ids
    return ids


def of_all_four(maker: dict[str, Objective], seed: int = 1) -> MicroBatch:
    """All objectives in one batch; lengths from a few tokens to more than fit into 64, which are cut."""
    examples = {
        "mmlm": texts([20, 9, 70], language=2),
        "tlm": pairs([(20, 9), (1, 15), (50, 50)]),
        "camlm": pairs([(13, 9), (5, 14), (40, 30)]),
        "btmlm": texts([13, 5, 50]),
    }
    masked = []
    for objective, of_objective in examples.items():
        for example in of_objective:
            rng = rng_of(seed, step=0, index=len(masked))
            masked.append(maker[objective].mask(example, rng))
    return pack(masked)


def masked_counts(batch: MicroBatch) -> dict[str, int]:
    """The number of tokens to predict of each objective; those without any are left out."""
    numbers, counts = np.unique(batch.target_objectives, return_counts=True)
    return {OBJECTIVES[number]: count for number, count in zip(numbers, counts.tolist())}


def compact(context_length: int, placeholders: int) -> np.ndarray:
    """The mask of context tokens, then placeholders, each of which sees the context and itself.

    It is CAMLM's with nothing masked in the source, and placeholders as the target.
    """
    is_placeholder = np.arange(context_length + placeholders) >= context_length
    return attention_mask(side=is_placeholder.astype(np.int64), masked=is_placeholder)


class Filled(NamedTuple):
    """BTMLM's second stage.

    Attributes:
        batch: with pseudo-tokens in its slots.
        pseudo_ids: int64 [P], in the order of the slots.
        counts: "pseudo", "copied" and "repeated", as `PseudoTokenGenerator.fill` returns them.
    """

    batch: MicroBatch
    pseudo_ids: np.ndarray
    counts: dict[str, int]


def filled(model, batch: MicroBatch, generator: PseudoTokenGenerator | None = None) -> Filled:
    """Fill the slots of a batch; by default with any ordinary ids."""
    (on_device,) = to_device([batch])
    generator = generator or PseudoTokenGenerator(None, VOCABULARY.special_ids)
    with_pseudo_tokens, counts = generator.fill(model, on_device)
    ids = with_pseudo_tokens.inputs.input_ids.numpy()
    counts = {name: int(count) for name, count in counts.items()}
    return Filled(replace(batch, input_ids=ids), ids[batch.stage1.slots], counts)


def first_pass(model, batch: MicroBatch) -> paddle.Tensor:
    """The hidden states of BTMLM's placeholders, [P, H]."""
    (on_device,) = to_device([batch])
    return model.encode(on_device.stage1.inputs, on_device.stage1.placeholders)


class Dense(NamedTuple):
    """A batch by the definitions: whole pairs, padded, each with its matrix.

    Attributes:
        input_ids, position_ids, language_ids: int64 [B, T].
        visible: who sees whom, bool [B, 1, T, T].
        cells: where each token of the packed batch stands, flat indices into B*T, int64 [N].
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    visible: np.ndarray
    cells: np.ndarray


def dense(batch: Packed) -> Dense:
    """The definition of a packed batch: the two sequences of a CAMLM pair become one again."""
    tokens_and_matrices = _matrices(batch)
    longest = max(len(tokens) for tokens, _ in tokens_and_matrices)
    shape = [len(tokens_and_matrices), longest]
    result = Dense(
        input_ids=np.full(shape, PAD),
        position_ids=np.full(shape, PAD_POSITION),
        language_ids=np.full(shape, NO_LANGUAGE),
        visible=np.zeros([len(tokens_and_matrices), 1, longest, longest], bool),
        cells=np.zeros(batch.tokens, np.int64),
    )
    for row, (tokens, visible) in enumerate(tokens_and_matrices):
        length = len(tokens)
        result.input_ids[row, :length] = batch.input_ids[tokens]
        result.position_ids[row, :length] = batch.position_ids[tokens]
        result.language_ids[row, :length] = batch.language_ids[tokens]
        result.visible[row, 0, :length, :length] = visible
        result.cells[tokens] = row * longest + np.arange(length)
    return result


def _matrices(batch: Packed) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text or pair, its tokens in order, int64 [t], and who sees whom, bool [t, t]."""
    matrices = []
    starts = batch.layout.starts.tolist()
    lengths = batch.lengths.tolist()
    context_lengths = batch.context_lengths.tolist()
    number = 0  # of a sequence
    while number < len(lengths):
        start = starts[number]
        length = lengths[number]
        context = context_lengths[number]
        tokens = np.arange(start, start + length)
        sequences = 1
        if isinstance(batch, Stage1):
            matrices.append((tokens, compact(context, length - context)))
        elif context == length:  # MMLM, TLM and BTMLM's second stage have no placeholders
            matrices.append((tokens, np.ones([length, length], bool)))
        else:  # CAMLM: this sequence and the next one are the two halves of a pair
            sequences = 2
            tokens = np.arange(start, start + length + lengths[number + 1])
            tokens = tokens[np.argsort(batch.position_ids[tokens])]
            assert (np.diff(batch.position_ids[tokens]) == 1).all()
            first_separator = np.flatnonzero(batch.input_ids[tokens] == SEP)[0]
            side = (np.arange(len(tokens)) > first_separator).astype(int)
            is_masked = np.isin(tokens, batch.targets)
            matrices.append((tokens, attention_mask(side, is_masked)))
        number += sequences
    return matrices
