"""The config of a pre-training run: one YAML file per run; `--section.key value` overrides a key.

The defaults train all four objectives, with the choices of docs/objectives.md. configs/pretrain/ has the
settings of the paper's tables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from ernie_m.model.pipeline_config import TextRules
from ernie_m.pretrain.objectives import OBJECTIVES, OF_THE_PAPER, register_files
from ernie_m.training.training_flags import ComputeFlags
from ernie_m.utils.args import option
from ernie_m.utils.errors import UserError
from ernie_m.utils.value_types import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    UnitInterval,
)

RANDOM = "random"
AUTO = "auto"
SAME = "same"
STEPS = 150_000  # default without steps or tokens

# The default shape of a new model.
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 514,
}

BelowOne = Annotated[float, Range(at_least=0, below=1)]


@dataclass
class ModelConfig:
    """Size of the encoder (paper, Table 11). The vocabulary size comes from the corpus."""

    hidden_size: PositiveInt | None = None
    """Hidden size (default: that of init.encoder, or 768)."""

    num_hidden_layers: PositiveInt | None = None
    """Number of layers (default: that of init.encoder, or 12)."""

    num_attention_heads: PositiveInt | None = None
    """Number of attention heads (default: that of init.encoder, or 12)."""

    hidden_dropout_prob: BelowOne = 0.1
    """Dropout probability for embeddings and sub-layers."""

    attention_probs_dropout_prob: BelowOne = 0.1
    """Dropout probability for attention weights."""

    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the initial weights."""

    max_position_embeddings: int | None = None
    """Number of position embeddings, two of which are reserved (default: that of init.encoder, or 514)."""

    language_embedding: Literal["masks", "none", "all"] = "masks"
    """Tokens to which a language embedding is added: [MASK] tokens and placeholders (masks), none, or all."""

    def fill_missing(self, config: Mapping[str, Any]) -> "ModelConfig":
        """Return a copy whose missing values are taken from a model config."""
        return replace(self, **{key: config[key] for key in BASE if getattr(self, key) is None})


@dataclass
class DataConfig:
    """The training text and its sampling."""

    corpus: str = option(free=True)  # it may move; a resumed run compares its digest
    """Output directory of ernie-m build_corpus."""

    languages: list[str] = field(default_factory=list)
    """Languages to train on (default: all languages of the corpus)."""

    max_seq_len: int = 512
    """Maximum sequence length in tokens, including special tokens."""

    pack_lines: bool = True
    """Whether MMLM and BTMLM sequences are packed with consecutive lines of a document."""

    language_alpha: UnitInterval = 0.3
    """Exponent alpha for sampling languages in proportion to tokens^alpha (XLM-R: 0.3)."""

    pair_alpha: UnitInterval = 0.7
    """Exponent alpha for sampling language pairs in proportion to pairs^alpha (InfoXLM: 0.7)."""

    text_rules: Literal["auto", TextRules] = option(AUTO, free=True)  # the digest of the corpus includes them
    """Text preprocessing that the corpus must have been built with (auto: that of init.encoder, or of the
    corpus for a new encoder)."""

    verify: bool = option(True, free=True)
    """Whether to verify the checksum of every shard before training, instead of sizes only."""


@dataclass
class ObjectiveFiles:
    """Files of custom objectives.

    Raises:
        UserError: a file does not define an objective.
    """

    path: list[str] = option(default_factory=list, free=True)  # a resumed run compares their digests
    """Files with custom objectives, each named after its file."""

    def __post_init__(self):
        self.code = register_files(self.path)  # path -> content; not a field, and not written


@dataclass
class ObjectiveConfig(ObjectiveFiles):
    """Objectives, mixing ratios, and choices that the paper leaves open (docs/objectives.md).

    Raises:
        UserError: the objectives or their mixing ratios are invalid or contradict each other.
    """

    active: list[str] | None = None
    """Objectives to train: mmlm, tlm, camlm, btmlm, or those of objectives.path (default: those of
    mixing_ratios, otherwise these four)."""

    skip_unsupported: bool = False
    """Whether to skip objectives for which the corpus has no text, instead of stopping."""

    mixing_ratios: dict[str, float] = field(default_factory=dict)
    """Mixing ratio of each objective, normalized to sum to 1, for sampling sequences and weighting losses
    (default: half monolingual text and half pairs, each divided equally)."""

    later_mixing_ratios: dict[str, float] = field(default_factory=dict)
    """Mixing ratios from later_start on (default: unchanged)."""

    later_start: UnitInterval = 0.5
    """Fraction of training steps after which later_mixing_ratios apply."""

    mask_rate: Annotated[float, Range(above=0, at_most=0.9)] = 0.15  # CAMLM predicts from unmasked tokens
    """Fraction of non-special tokens selected for prediction."""

    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    """Tokens of the other language that a masked token attends to in CAMLM: unmasked tokens, or also [MASK]
    tokens (with_masks)."""

    btmlm_start: UnitInterval = 0.3
    """Fraction of training steps before BTMLM starts, during which MMLM receives its ratio."""

    pseudo_proportion: PositiveShare = 0.2
    """Number of pseudo-tokens per token of the sentence (Figure 6: 0.05 to 0.20)."""

    pseudo_positions: Literal["first", "spread"] = "first"
    """Positions of pseudo-tokens: the first ones after the sentence (first), or spread evenly over as many
    positions as the sentence has (spread)."""

    min_piece_count: NonNegativeInt = 5
    """Minimum frequency in its language's text for a subword to become a pseudo-token (0: no minimum)."""

    pseudo_temperature: NonNegativeFloat = 0.0
    """Sampling temperature for pseudo-tokens (0: the most probable token)."""

    second_language: Literal["parallel", "uniform"] = "parallel"
    """Language of pseudo-tokens: sampled from those with parallel text, in proportion to pairs^0.7
    (parallel), or uniformly from all others (uniform)."""

    def __post_init__(self):
        super().__post_init__()
        _check_mixing_ratios("objectives.mixing_ratios", self.mixing_ratios)
        _check_mixing_ratios("objectives.later_mixing_ratios", self.later_mixing_ratios)
        if self.later_mixing_ratios and not self.mixing_ratios:
            raise UserError("objectives.later_mixing_ratios requires objectives.mixing_ratios. Add them")
        unknown = set(self.names) - set(OBJECTIVES)
        if unknown or not self.names:
            raise UserError(f"invalid objectives.active {self.active} (choose from {', '.join(OBJECTIVES)})")
        if self.active is not None and self.mixing_ratios and set(self.active) != set(self._names_with_ratio):
            raise UserError(
                f"objectives.active has {', '.join(self.active)}, but objectives.mixing_ratios has "
                f"{', '.join(self._names_with_ratio)}. Remove objectives.active"
            )
        if "btmlm" in self.names and "mmlm" not in self.names:
            key = "mixing_ratios" if self.mixing_ratios else "active"
            raise UserError(
                f"objectives.{key} has btmlm without mmlm. Add mmlm, which gets the ratio of "
                "btmlm until btmlm_start"
            )

    @property
    def names(self) -> list[str]:
        """Return the names of the trained objectives: `active`, those with a nonzero ratio, or all four."""
        if self.active is not None:
            return self.active
        return self._names_with_ratio if self.mixing_ratios else list(OF_THE_PAPER)

    @property
    def _names_with_ratio(self) -> list[str]:
        return [
            name for name in OBJECTIVES if self.mixing_ratios.get(name) or self.later_mixing_ratios.get(name)
        ]


def _check_mixing_ratios(key: str, mixing_ratios: dict[str, float]) -> None:
    """Check mixing ratios, which may be empty.

    Args:
        key: key of the ratios, for the message.

    Raises:
        UserError: an objective is unknown, or a ratio or the sum of the ratios is invalid.
    """
    unknown = [name for name in mixing_ratios if name not in OBJECTIVES]
    if unknown:
        raise UserError(
            f"{key}: unknown objectives {', '.join(unknown)} (choose from {', '.join(OBJECTIVES)})"
        )
    if any(share < 0 for share in mixing_ratios.values()):
        raise UserError(f"{key}: invalid {mixing_ratios} (expected ratios of at least 0)")
    if mixing_ratios and not 0 < sum(mixing_ratios.values()) < math.inf:
        raise UserError(f"{key}: invalid {mixing_ratios} (expected a ratio above 0 and a finite sum)")


@dataclass
class InitConfig:
    """Initial weights of a new run. A run with a checkpoint in its output directory is resumed instead.

    Released ERNIE-M weights have no masked-LM head, and a random head would disturb the encoder. So the head
    can be trained alone first, at its own learning rate. The schedule of `optimizer` starts afterward.
    """

    encoder: str = option(RANDOM, free=True, needed=True)
    """Initial encoder: random weights (random), or a model in any supported format."""

    word_embeddings: str = option("", free=True)
    """Static embedding model; its embeddings, projected onto their principal components, initialize the word
    embeddings of a new encoder."""

    lm_head: str = option(RANDOM, free=True)
    """Initial masked-LM head: random weights (random), the head of init.encoder (same), or a model
    directory."""

    checkpoint: str = option("", free=True)
    """Checkpoint (checkpoints/step_N) of another run that this run continues, with its optimizer and its
    position in the text. Only objectives and optimizer.batch_size may differ from those of that run."""

    lm_head_warmup_steps: NonNegativeInt = 0
    """Number of initial steps that train only the head and the language embeddings."""

    lm_head_learning_rate: PositiveFloat = 1e-3
    """Constant learning rate of the head warm-up."""


@dataclass
class OptimizerConfig:
    """Adam with decoupled weight decay and a linear schedule (paper, Table 11)."""

    steps: PositiveInt = STEPS
    """Number of optimizer steps."""

    tokens: NonNegativeInt = 0
    """Approximate number of tokens to train on, instead of optimizer.steps (0: use steps)."""

    batch_size: Annotated[int, Range(at_least=1, at_most=1 << 20)] = 2048  # lists have its length
    """Number of sequences per optimizer step, over all devices and micro-batches."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate."""

    embedding_lr_ratio: PositiveShare = 1.0
    """Ratio of the word embeddings' learning rate to the learning rate; their weight decay stays
    learning_rate * weight_decay."""

    warmup_steps: NonNegativeInt = 10_000
    """Number of linear warm-up steps (0: constant learning rate)."""

    schedule: Literal["paddlenlp", "official"] = "paddlenlp"
    """Decay after warm-up: a straight line from the peak to 0 (paddlenlp), or peak * (1 - t/T) at step t of T
    (official)."""

    beta1: BelowOne = 0.98
    """Adam's beta1 (paper: 0.98)."""

    beta2: BelowOne = 0.999
    """Adam's beta2 (paper: 0.999)."""

    epsilon: PositiveFloat = 1e-6
    """Adam's epsilon."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay, not applied to biases and layer norms."""

    clip_norm: PositiveFloat = 1.0
    """Maximum global gradient norm."""


@dataclass
class RunConfig(ComputeFlags):
    """Output, checkpoints, evaluation and hardware of the run."""

    prefix: ClassVar[str] = "--run."

    output: str = option("output/pretrain", free=True, needed=True)
    """Output directory for checkpoints, metrics and the final models."""

    overwrite: bool = option(False, free=True)
    """Whether to delete the previous run in run.output and start over."""

    seed: Annotated[int, Range(at_least=0, below=1 << 32)] = 1
    """Random seed for weights, data order, masking and dropout."""

    micro_batch_tokens: PositiveInt = option(8192, free=True)
    """Maximum number of tokens per forward pass and device, at least data.max_seq_len; larger batches use
    gradient accumulation."""

    amp_level: Literal["O1", "O2"] = "O1"
    """Mixed-precision level: float32 weights (O1), or half-precision weights with float32 master weights, on
    GPUs only (O2)."""

    sharding_stage: Annotated[int, Range(at_least=0, at_most=1)] = option(0, free=True)
    """Optimizer state: replicated on every device (0), or sharded across devices (1)."""

    log_steps: PositiveInt = option(50, free=True)
    """Number of steps between log lines and entries of metrics.jsonl."""

    save_steps: PositiveInt = option(1000, free=True)
    """Number of steps between checkpoints."""

    keep_checkpoints: PositiveInt = option(2, free=True)
    """Number of checkpoints to keep."""

    eval_steps: NonNegativeInt = option(0, free=True)
    """Number of steps between evaluations on held-out text (0: only at the end)."""

    eval_sequences: NonNegativeInt = option(512, free=True)
    """Maximum number of held-out sequences per objective and language or language pair (0: no evaluation)."""

    max_bad_steps: PositiveInt = option(10, free=True)
    """Number of consecutive steps with a non-finite loss after which training stops."""

    stop_after_steps: NonNegativeInt = option(0, free=True)
    """Step at which to save and stop without changing the learning-rate schedule (0: run to the end)."""

    compute_ratio: PositiveFloat = 1.0
    """Divisor of the number of steps, for comparisons at equal compute (paper Table 8)."""


@dataclass(kw_only=True)
class PretrainConfig:
    """The config of a pre-training run.

    `free` options may change when the run is resumed; all others determine the result.

    Raises:
        UserError: a value is invalid, or an option is missing.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @staticmethod
    def check_override(location: str, later: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
        """Check that every key of a config file or command line has an effect.

        Args:
            location: prefix of a key in the message: "FILE: ", or "--" for the command line.
            later: key -> value in this file or on the command line.
            earlier: key -> value in earlier files.

        Raises:
            UserError: a key has no effect, because another key overrides it.
        """
        are_alone = "objectives.mixing_ratios" in later and "objectives.later_mixing_ratios" not in later
        if are_alone and earlier.get("objectives.later_mixing_ratios"):
            raise UserError(
                f"{location}objectives.mixing_ratios conflicts with "
                "objectives.later_mixing_ratios of an earlier file, which would replace it later. Also set "
                "--objectives.later_mixing_ratios ('{}': none)"
            )
        # A saved configuration has the default number of steps besides its tokens.
        is_saved = "optimizer.tokens" in later and later.get("optimizer.steps") == STEPS
        if "optimizer.steps" in later and not is_saved and {**earlier, **later}.get("optimizer.tokens"):
            raise UserError(
                f"{location}optimizer.steps has no effect with optimizer.tokens. Remove "
                "it, or set --optimizer.tokens 0"
            )

    def __post_init__(self):
        if self.init.encoder == RANDOM:
            self.model = self.model.fill_missing(BASE)
        max_seq_len = self.data.max_seq_len
        # Two position embeddings are reserved. Before an encoder is opened, its maximum length may be
        # unknown.
        longest = (self.model.max_position_embeddings or math.inf) - 2
        if not 8 <= max_seq_len <= longest:  # 8 tokens are a pair of 4 and 4 special tokens
            raise UserError(
                f"invalid data.max_seq_len {max_seq_len} (expected 8 to {longest}, "
                "model.max_position_embeddings - 2)"
            )
        longest_example = max_seq_len
        of_masks = ""
        if self.objectives.camlm_context == "with_masks":
            # A pair has four special tokens. The number of masks is rounded per side, and at least one.
            longest_example += int(self.objectives.mask_rate * (max_seq_len - 4)) + 2
            of_masks = " and, with objectives.camlm_context with_masks, a row for each mask"
        if self.run.micro_batch_tokens < longest_example:
            raise UserError(
                f"run.micro_batch_tokens {self.run.micro_batch_tokens}: below the longest "
                f"example, {longest_example} (data.max_seq_len {max_seq_len}{of_masks}). Increase "
                "it, or reduce data.max_seq_len"
            )
        if self.init.lm_head == SAME and self.init.encoder == RANDOM:
            raise UserError("init.lm_head 'same' requires a checkpoint in init.encoder (got 'random')")
        if self.init.word_embeddings and self.init.encoder != RANDOM:
            raise UserError(
                "init.word_embeddings requires init.encoder random: pretrained encoders have word embeddings"
            )
