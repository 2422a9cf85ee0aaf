"""What an objective is: how it masks an example, the loss of its sequences, and their lines in the log.

Each file of `pretrain/objectives/` has one. A pair is `[CLS] S [SEP] [SEP] Y [SEP]`, a single text
`[CLS] S [SEP]`. Positions are absolute, [CLS] has 2. Everything drawn comes from the generator of its
example (`rng_of`), so a batch's content does not depend on how a step is divided.

The process that reads makes the sequences, so Paddle is imported in `loss` alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ernie_m.model.config import FIRST_POSITION, NO_LANGUAGE
from ernie_m.pretrain import objectives
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.pretrain.packing import MaskedExample, MaskedSequence, MicroBatch, pack
from ernie_m.tokenizer.tokenizer import truncate_longest_first

# BERT's shares of the chosen tokens: 80 % become [MASK], 10 % a random token, the others stay.
_MASKED = 0.8
_RANDOM = 0.1
_STREAM = 0x4D41534B  # "MASK"; keeps these draws apart from any other Philox stream of the same seed
_LARGEST_LOSS = 50.0  # a perplexity is cut here: the exponential of a diverged run's loss would overflow


class Text(NamedTuple):
    """A monolingual example: ids without specials, int64 [n], and its language's index."""

    ids: np.ndarray
    language: int


class Pair(NamedTuple):
    """A parallel example, in the order in which it is read."""

    source: Text
    target: Text


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer: the special ids, the size V, and the piece of each id."""

    cls_id: int
    pad_id: int
    sep_id: int
    unk_id: int
    mask_id: int
    size: int
    pieces: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer) -> "Vocabulary":
        """From any object with these ids, `vocab_size` and `convert_ids_to_tokens`."""
        return cls(
            cls_id=int(tokenizer.cls_id),
            pad_id=int(tokenizer.pad_id),
            sep_id=int(tokenizer.sep_id),
            unk_id=int(tokenizer.unk_id),
            mask_id=int(tokenizer.mask_id),
            size=int(tokenizer.vocab_size),
            pieces=tuple(tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))),
        )

    @cached_property
    def special_ids(self) -> np.ndarray:
        """The special ids, sorted, int64 [5]; [UNK] is one of them."""
        return np.unique([self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Every id that is not special, sorted, int64 [V - 5]."""
        return np.setdiff1d(np.arange(self.size), self.special_ids)


@dataclass(frozen=True)
class Setting:
    """What the objectives of a run have in common.

    Attributes:
        config: the choices that the paper leaves open.
        vocabulary: special ids and V.
        max_seq_len: longest sequence, specials included. Longer texts are cut at the end. In a pair that is
            too long, the longer side is cut first.
        language_embedding: which tokens carry the language of their side: "masks": [MASK] and placeholders;
            "all": every token; "none": no token.
        languages: their names, in the order of their indices; empty where BTMLM draws no second language.
        pairs: number of sentence pairs by two indices into `languages`.
    """

    config: ObjectiveConfig
    vocabulary: Vocabulary
    max_seq_len: int
    language_embedding: str = "masks"
    languages: Sequence[str] = ()
    pairs: Mapping[tuple[int, int], int] = field(default_factory=dict)


class Objective:
    """The base of all objectives. A subclass says what it reads and makes the sequences (`mask`).

    The rest is as MMLM and TLM have it: `mask_rate` of the tokens of each side are predicted.

    Attributes:
        name: the name of its file.
        reads: `Text` or `Pair`.
        evaluated_on: `Text` or `Pair`, if held-out evaluation gives it another kind than it `reads`.
        needs: what `serves` asks of a pair, in words.
        group: the number of examples that are kept in one micro-batch, because the loss compares them.
        loss: None: the masked words are predicted with the head. Otherwise a static method, called on the
            device with the model, the states of the targets of its examples in this micro-batch, [m, H], and
            the number of the group of each, int64 [m]. It returns losses, as many as `count` counts for these
            examples, and for each whether it was solved, both [n]. The objective's loss is their mean over
            the whole step, on all devices.
        further_sums: what the log adds up besides the losses.
    """

    name: ClassVar[str]
    reads: ClassVar[type]
    evaluated_on: ClassVar[type | None] = None
    needs: ClassVar[str] = ""
    group: ClassVar[int] = 1
    loss: ClassVar[Callable[..., Any] | None] = None
    further_sums: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self, setting: Setting):
        self.config = setting.config
        self.vocabulary = setting.vocabulary
        self.max_seq_len = setting.max_seq_len
        self.language_embedding = setting.language_embedding
        self.cls = np.array([self.vocabulary.cls_id])
        self.sep = np.array([self.vocabulary.sep_id])
        self.positions = np.arange(FIRST_POSITION, FIRST_POSITION + self.max_seq_len)

    # What an objective defines

    def mask(self, example: Any, rng: np.random.Generator) -> MaskedExample:
        """The sequences of an example.

        Args:
            example: what it `reads`; if a pair, one that it `serves`.
            rng: the generator of this example (`rng_of`).
        """
        raise NotImplementedError

    def serves(self, pair: Pair) -> bool:
        """Whether a pair can be trained on. Another one serves TLM, or is left out if TLM is not active."""
        return True

    def sides(self, example: Text | Pair) -> list[np.ndarray]:
        """The ids of a text, or of both sides of a pair, cut so that the sequence is not too long."""
        if isinstance(example, Text):
            return [example.ids[: self.max_seq_len - 2]]
        source = example.source.ids
        target = example.target.ids
        source_length, target_length = truncate_longest_first(len(source), len(target), self.max_seq_len - 4)
        return [source[:source_length], target[:target_length]]

    def tokens(self, example: Text | Pair) -> int:
        """The tokens that an example takes in a micro-batch, without BTMLM's first stage."""
        return sum(len(ids) + 2 for ids in self.sides(example))  # [CLS] S [SEP], or [SEP] Y [SEP]

    def count(self, example: Text | Pair) -> int:
        """How many losses an example has. It depends on the example alone, not on a draw."""
        counts = [len(self.predictable(ids)) for ids in self.sides(example)]
        return sum(number_chosen(count, self.config.mask_rate) for count in counts)

    def evaluate(self, examples: Sequence[Any], model: Any, held_out: Any) -> dict[str, Any] | None:
        """The scores of held-out examples of a language, or of a pair of languages.

        Args:
            examples: what it is `evaluated_on`; if pairs, those that it `serves`.
            model: the `PreTrainingModel`.
            held_out: the `Evaluator` of ernie_m/pretrain/held_out/evaluate.py.

        Returns:
            Numbers by name; None: nothing can be predicted.
        """
        return held_out.scores(model, self, examples)

    # Its lines in the log

    @classmethod
    def record(cls, sums: Mapping[str, float]) -> dict[str, float]:
        """What metrics.jsonl says of some steps, whose sums are given; nothing if there were no losses."""
        count = sums[f"{cls.name}.count"]
        if not count:
            return {}
        loss = sums[f"{cls.name}.loss"] / count
        accuracy = sums[f"{cls.name}.correct"] / count
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}

    @classmethod
    def line(cls, record: Mapping[str, float]) -> str:
        """What a line of the log says of some steps, from their `record`."""
        rates = f"ppl {record['perplexity']:.1f}, acc {100 * record['accuracy']:.1f}"
        return f"{cls.name} {record['loss']:.4f} ({rates})"

    @classmethod
    def summary(cls, results: Sequence[Mapping[str, Any]], beside: str = "") -> list[str]:
        """The lines on a held-out evaluation.

        Args:
            results: the results of each language or pair, as `Evaluator.run` returns them.
            beside: what is said beside the perplexity.
        """
        mean = geometric_mean(result["perplexity"] for result in results)
        accuracy = 100 * np.mean([result["accuracy"] for result in results])
        return [f"{cls.name}: perplexity {mean:.2f} (geometric mean{beside}), accuracy {accuracy:.2f} %"]

    @classmethod
    def plateau(cls, results: Sequence[Mapping[str, Any]], advice: str) -> str | None:
        """A line with `advice` if a held-out evaluation says that little has been learned; otherwise None.

        Args:
            results: those of `summary`.
        """
        return None

    # What subclasses use

    def batch(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator]) -> MicroBatch:
        """A micro-batch of this objective alone, for evaluations; `StepReader` mixes objectives.

        Args:
            examples: at least one.
            rngs: one generator for each example.
        """
        masked = [self.mask(example, rng) for example, rng in zip(examples, rngs)]
        # `self.group` examples after each other form a group.
        return pack([example._replace(group=n // self.group) for n, example in enumerate(masked)])

    def predictable(self, ids: np.ndarray) -> np.ndarray:
        """Places of the tokens that may be predicted, int64 [n]: all but [UNK], which is a special token."""
        return np.flatnonzero(ids != self.vocabulary.unk_id)

    def choose(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Places of the tokens to predict: `mask_rate` of those that may be predicted. Sorted, int64 [m].

        Every set of m is equally likely.
        """
        predictable = self.predictable(ids)
        count = number_chosen(len(predictable), self.config.mask_rate)
        drawn = rng.permutation(len(predictable))[:count]  # indices into `predictable`
        return predictable[np.sort(drawn)]

    def choose_in_pair(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The tokens of a pair, and which of them are to be predicted.

        Returns:
            ids [t] with special tokens; languages [t]; side [t], 0 or 1; and the chosen columns of both
            sides, [m].
        """
        source, target = self.sides(pair)
        ids = np.concatenate([self.cls, source, self.sep, self.sep, target, self.sep])
        side = np.repeat([0, 1], [len(source) + 2, len(target) + 2])  # [CLS] S [SEP] and [SEP] Y [SEP]
        languages = np.array([pair.source.language, pair.target.language])[side]  # [t]
        chosen_in_source = 1 + self.choose(source, rng)  # S begins in column 1
        chosen_in_target = len(source) + 3 + self.choose(target, rng)  # Y begins after [CLS] S [SEP] [SEP]
        return ids, languages, side, np.concatenate([chosen_in_source, chosen_in_target])

    def replaced(
        self, ids: np.ndarray, languages: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> MaskedSequence:
        """As `sequence`: each chosen token becomes [MASK] or a random one that is not special, or stays."""
        draws = rng.random(len(chosen))
        ordinary_ids = self.vocabulary.ordinary_ids
        random_ids = ordinary_ids[rng.integers(len(ordinary_ids), size=len(chosen))]
        random_or_same = np.where(draws < _MASKED + _RANDOM, random_ids, ids[chosen])
        replacements = np.where(draws < _MASKED, self.vocabulary.mask_id, random_or_same)
        return self.sequence(ids, languages, chosen, replacements)

    def sequence(
        self, ids: np.ndarray, languages: np.ndarray, chosen: np.ndarray, replacements: np.ndarray | int
    ) -> MaskedSequence:
        """The sequence `ids` with `replacements` in the chosen columns, which are to be predicted.

        Args:
            ids: [t].
            languages: [t], those of each token's side.
            chosen: columns, [m].
            replacements: [m], or one id for all.
        """
        input_ids = ids.copy()
        input_ids[chosen] = replacements
        # Which tokens carry their language, for each choice of `language_embedding`.
        has_language = {"all": True, "none": False, "masks": input_ids == self.vocabulary.mask_id}
        return MaskedSequence(
            input_ids=input_ids,
            position_ids=self.positions[: len(ids)],
            language_ids=np.where(has_language[self.language_embedding], languages, NO_LANGUAGE),
            targets=chosen,
            target_ids=ids[chosen],
            target_languages=languages[chosen],
            context=len(ids),  # all tokens are context, which every token sees; none is a placeholder
        )


def class_of(name: str) -> type[Objective]:
    """The class of an objective: `Camlm` in objectives/camlm.py."""
    module = import_module(f"{objectives.__name__}.{name}")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return getattr(module, class_name)


def names_that_read(kind: type) -> list[str]:
    """The objectives that read `Text`, or `Pair`."""
    return [name for name in OBJECTIVES if class_of(name).reads is kind]


def rng_of(seed: int, step: int, index: int) -> np.random.Generator:
    """The random generator of one example: `index` is its number within the optimizer step's whole batch.

    Streams of different (seed, step, index) never overlap, so masks do not depend on how a step is divided
    over processes and micro-batches.
    """
    key = np.array([seed, _STREAM], dtype=np.uint64)
    # The draws of a Philox generator count up the first two of its four counter words.
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def number_chosen(n: int, rate: float) -> int:
    """How many of n tokens are chosen: the share `rate`, rounded, but at least one if there is one."""
    return min(n, max(1, round(rate * n)))


def perplexity(loss: float) -> float:
    """exp(loss) of a mean loss, at most exp(50)."""
    return math.exp(min(loss, _LARGEST_LOSS))


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(np.mean([math.log(value) for value in values]))
