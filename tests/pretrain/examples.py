"""Small examples that the tests of the objectives share."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import paddle

from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.loss import to_device
from ernie_m.pretrain.masking import ObjectiveContext, Pair, Text, Vocabulary, make_rng
from ernie_m.pretrain.objective import Objective
from ernie_m.pretrain.objectives import OBJECTIVES, OF_THE_PAPER, get_objective_class
from ernie_m.pretrain.objectives.btmlm import Btmlm
from ernie_m.pretrain.packing import MicroBatch, pack
from tests.toys import small_config

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
CLS = 0
PAD = 1
SEP = 2
MASK = 99
FIRST_ORDINARY_ID = 4  # 4 to 98 are the ids that are not special
LANGUAGES = ["en", "de", "fr"]
# Of the models that the objectives train.
CONFIG = small_config(
    vocab_size=VOCABULARY.size, hidden_size=16, num_attention_heads=2, max_position_embeddings=70
)


def pretraining_model(seed: int, **changes) -> PreTrainingModel:
    """A model of `CONFIG` with changes. Language embeddings and the head's bias, which begin with 0, vary."""
    paddle.seed(seed)
    model = PreTrainingModel(replace(CONFIG, **changes), LANGUAGES)
    with paddle.no_grad():
        for parameter in (model.language_embeddings.weight, model.lm_head.bias):
            parameter.set_value(paddle.randn(parameter.shape))
    return model


def objectives(max_seq_len: int = 64, language_embedding: str = "masks", **choices) -> dict[str, Objective]:
    """The paper's objectives for three languages, with these choices of `ObjectiveConfig`."""
    pairs = {(0, 1): 8, (0, 2): 1}  # 8 pairs en-de, 1 pair en-fr
    setting = ObjectiveContext(
        ObjectiveConfig(**choices), VOCABULARY, max_seq_len, language_embedding, LANGUAGES, pairs
    )
    return {name: get_objective_class(name)(setting) for name in OF_THE_PAPER}


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
    return [make_rng(seed, step, index) for index in range(count)]


def make_batch_with_all(maker: dict[str, Objective], seed: int = 1) -> MicroBatch:
    """All objectives in one batch; lengths from a few tokens to more than 64, which are truncated."""
    examples = {
        "mmlm": texts([20, 9, 70], language=2),
        "tlm": pairs([(20, 9), (1, 15), (50, 50)]),
        "camlm": pairs([(13, 9), (5, 14), (40, 30)]),
        "btmlm": texts([13, 5, 50]),
    }
    masked = []
    for objective, of_objective in examples.items():
        for example in of_objective:
            masked.append(maker[objective].mask(example, make_rng(seed, step=0, index=len(masked))))
    return pack(masked)


def btmlm_batch(maker: Btmlm, sentences: list[Text], second_languages: list[int]) -> MicroBatch:
    """A micro-batch with pseudo-tokens of these languages."""
    examples = zip(sentences, rngs(len(sentences)), second_languages)
    return pack([maker.mask(text, rng, language) for text, rng, language in examples])


def masked_counts(batch: MicroBatch) -> dict[str, int]:
    """The number of tokens to predict of each objective; those without any are left out."""
    return {objective: len(rows) for objective, rows in batch.rows.items()}


def target_objectives(batch: MicroBatch) -> np.ndarray:
    """The objective of each target, its place in `OBJECTIVES`: int64 [M]."""
    numbers = np.zeros_like(batch.targets)
    for objective, rows in batch.rows.items():
        numbers[rows] = OBJECTIVES.index(objective)
    return numbers


def attention_mask(side: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The matrices of whole pairs that `ernie_m.pretrain.objectives.camlm` draws; row i: what i attends to.

    Args:
        side: [T], 0 for the source, 1 for the target.
        predicted: bool [T]; a [MASK] symbol of the context is not predicted.

    Returns:
        bool [T, T].
    """
    same_side = side[:, None] == side[None, :]  # [T, T]
    # A predicted row attends to the other side, others to their own side, none to a predicted row.
    seen_side = np.where(predicted[:, None], ~same_side, same_side)  # [T, T]
    visible = seen_side & ~predicted[None, :]
    return visible | np.eye(len(side), dtype=bool)  # every row attends to itself


def compact(context_length: int, placeholders: int) -> np.ndarray:
    """The mask of context tokens, then placeholders, each of which attends to the context and itself.

    It is CAMLM's with nothing masked in the source, and placeholders as the target.
    """
    is_placeholder = np.arange(context_length + placeholders) >= context_length
    return attention_mask(side=is_placeholder.astype(np.int64), predicted=is_placeholder)


class Filled(NamedTuple):
    """BTMLM's second stage.

    Attributes:
        batch: with pseudo-tokens in its slots.
        pseudo_ids: int64 [P], in the order of the slots.
        counts: "pseudo", "copied" and "repeated", as `PseudoTokenGenerator.fill_placeholders` returns them.
    """

    batch: MicroBatch
    pseudo_ids: np.ndarray
    counts: dict[str, int]


def filled(model, batch: MicroBatch, generator: PseudoTokenGenerator | None = None) -> Filled:
    """Fill the slots of a batch; by default with any ordinary ids."""
    (on_device,) = to_device([batch])
    generator = generator or PseudoTokenGenerator([VOCABULARY.ordinary_ids] * len(LANGUAGES))
    with_pseudo_tokens, counts = generator.fill_placeholders(model, on_device)
    ids = with_pseudo_tokens.inputs.input_ids.numpy()
    counts = {name: int(count) for name, count in counts.items()}
    second_stage = replace(batch, inputs=replace(batch.inputs, input_ids=ids))
    return Filled(second_stage, ids[batch.stage1.slots], counts)


def first_pass(model, batch: MicroBatch) -> paddle.Tensor:
    """The hidden states of BTMLM's placeholders, [P, H]."""
    (on_device,) = to_device([batch])
    return model.encode(on_device.stage1.inputs, on_device.stage1.placeholders)
