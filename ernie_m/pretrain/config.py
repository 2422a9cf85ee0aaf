"""The configuration of a pre-training run: one YAML file per run, and `--section.key value` overrides a key.

The defaults are the full strategy with the choices of docs/objectives.md. configs/pretrain/ holds the paper's
tables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from ernie_m.model.preprocessing import TextRules
from ernie_m.pretrain.objectives import OBJECTIVES, OF_THE_PAPER
from ernie_m.utils.args import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UnitInterval,
    option,
)
from ernie_m.utils.errors import UserError

SCRATCH = "scratch"
START = "start"
FRESH = "fresh"
FROM_ENCODER = "encoder"
STEPS = 150_000  # unless they, or tokens, are given

# The shape of a model from scratch, unless it is given.
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 514,
}

BelowOne = Annotated[float, Range(at_least=0, below=1)]
PositiveShare = Annotated[float, Range(above=0, at_most=1)]


@dataclass
class ModelConfig:
    """The shape of the encoder (paper Table 11). The size of the vocabulary comes from the corpus."""

    hidden_size: PositiveInt | None = None
    """The hidden size H. Default, as of the next two: that of init.encoder, or of the base size."""

    num_hidden_layers: PositiveInt | None = None
    """The number of layers L."""

    num_attention_heads: PositiveInt | None = None
    """The number of attention heads. The inner size of new feed-forward layers is 4 H."""

    hidden_dropout_prob: BelowOne = 0.1
    """Dropout after the embeddings and after each sub-layer."""

    attention_probs_dropout_prob: BelowOne = 0.1
    """Dropout of the attention probabilities."""

    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the initial weights. 0.02 suits H >= 768; narrower models learn sooner with about
    1 / sqrt(H)."""

    max_position_embeddings: int | None = None
    """Rows of the position table, of which two are reserved. Default: those of init.encoder, or 514."""

    language_embedding: Literal["masks", "none", "all"] = "masks"
    """Which tokens get the language embedding of their side."""

    def completed(self, shape: Mapping[str, Any]) -> "ModelConfig":
        """The same, with what is not given taken from a shape."""
        return replace(self, **{key: shape[key] for key in BASE if getattr(self, key) is None})


@dataclass
class DataConfig:
    """Where the text is and how it is sampled."""

    corpus: str = option("", free=True, needed=True)  # it may move; its digest is compared when a run goes on
    """The folder that `ernie-m build_corpus` wrote."""

    languages: list[str] = field(default_factory=list)
    """The languages to train on. Empty: every language of the corpus."""

    max_seq_len: int = 512
    """The longest sequence in tokens, special tokens included."""

    pack_lines: bool = True
    """Whether MMLM and BTMLM read consecutive lines of one document up to max_seq_len, not one line each."""

    language_alpha: UnitInterval = 0.3
    """Monolingual text is sampled with p_l ~ tokens_l^alpha (XLM-R: 0.3)."""

    pair_alpha: UnitInterval = 0.7
    """Parallel text is sampled with p_ab ~ pairs_ab^alpha (InfoXLM: 0.7)."""

    text_rules: Literal["start", TextRules] = option(START, free=True)  # the digest of the corpus counts
    """The text rules that the corpus must have, and with which the trained model reads. start: those of
    init.encoder, or with new weights those of the corpus. ernie-m: the official ones, with which the paper
    trained the weights of XLM-R further."""

    verify: bool = option(True, free=True)
    """Whether the main process compares the checksum of every shard before the first step, not only the
    sizes. It takes about a second for each gigabyte, once; then times are compared, until a file changes."""


@dataclass
class ObjectiveConfig:
    """The objectives, their shares, and the choices that the paper leaves open (docs/objectives.md).

    Raises:
        UserError: the objectives or their shares are impossible, or contradict each other.
    """

    active: list[str] | None = None
    """Any of mmlm, tlm, camlm, btmlm, or of your own in pretrain/objectives/. Default: those of `shares`, and
    without `shares` the four (the paper's exp5)."""

    fit_corpus: bool = False
    """Whether to leave out objectives for which the corpus has no text: without monolingual text MMLM and
    BTMLM, without sentence pairs all but MMLM. Otherwise such a corpus is refused."""

    shares: dict[str, float] = field(default_factory=dict)
    """Objective -> its share of a step's sequences, which is also its weight in the loss. Shares are divided
    by their sum: {mmlm: 15, btmlm: 15, camlm: 70}. Empty: half of a step is monolingual text and half pairs,
    if both kinds are active, and each half is divided equally among its active objectives."""

    later_shares: dict[str, float] = field(default_factory=dict)
    """The shares from `later_start` on. Empty: they do not change."""

    later_start: UnitInterval = 0.5
    """`later_shares` begin at this share of all steps."""

    mask_rate: Annotated[float, Range(above=0, at_most=0.9)] = 0.15  # camlm predicts from unmasked tokens
    """The share of the non-special tokens that is chosen for prediction."""

    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    """What CAMLM predicts a masked token from. unmasked: the other side's unmasked tokens, as in the paper's
    formula; with_masks: the other side's [MASK] symbols, too, as in the paper's example."""

    btmlm_start: UnitInterval = 0.3
    """BTMLM begins at this share of all steps. Until then its share goes to MMLM."""

    pseudo_proportion: PositiveShare = 0.2
    """Pseudo-tokens per token of the sentence (Figure 6: 0.05 to 0.20)."""

    pseudo_positions: Literal["first", "spread"] = "first"
    """first: right after the sentence, like the first tokens of a translation; spread: over its length."""

    min_piece_count: NonNegativeInt = 5
    """A pseudo-token is a piece that occurs at least so often in the text of its language. 0: any piece that
    is not special."""

    pseudo_temperature: NonNegativeFloat = 0.0
    """0: a pseudo-token is the most probable piece. Above 0 it is drawn at this temperature."""

    second_language: Literal["parallel", "uniform"] = "parallel"
    """parallel: among languages that have parallel text with the language of the sentence, in proportion to
    pairs^0.7; uniform: any other language."""

    def __post_init__(self):
        _check_shares("objectives.shares", self.shares)
        _check_shares("objectives.later_shares", self.later_shares)
        if self.later_shares and not self.shares:
            raise UserError("objectives.later_shares is given without objectives.shares: give these, too")
        unknown = set(self.names) - set(OBJECTIVES)
        if unknown or not self.names:
            raise UserError(
                f"objectives.active is {self.active}: name one or more of {', '.join(OBJECTIVES)}"
            )
        if self.active is not None and self.shares and set(self.active) != set(self._with_share):
            raise UserError(
                f"objectives.active has {', '.join(self.active)}, but objectives.shares has "
                f"{', '.join(self._with_share)}: leave objectives.active out"
            )
        if "btmlm" in self.names and "mmlm" not in self.names:
            key = "shares" if self.shares else "active"
            raise UserError(
                f"objectives.{key} has btmlm without mmlm; add mmlm, to which its share goes at first"
            )

    @property
    def names(self) -> list[str]:
        """The objectives that are trained: `active`, or those with a share at some time, or the paper's."""
        if self.active is not None:
            return self.active
        return self._with_share if self.shares else list(OF_THE_PAPER)

    @property
    def _with_share(self) -> list[str]:
        return [name for name in OBJECTIVES if self.shares.get(name) or self.later_shares.get(name)]


def _check_shares(key: str, shares: dict[str, float]) -> None:
    """Raise a UserError that names the key, unless these are shares of objectives, or empty."""
    unknown = [name for name in shares if name not in OBJECTIVES]
    if unknown:
        raise UserError(f"{key} has {', '.join(unknown)}: name one or more of {', '.join(OBJECTIVES)}")
    if any(share < 0 for share in shares.values()):
        raise UserError(f"{key} is {shares}: a share must be at least 0")
    if shares and not 0 < sum(shares.values()) < math.inf:
        raise UserError(f"{key} is {shares}: one share must be above 0, and their sum finite")


@dataclass
class InitConfig:
    """The initial weights. A run with a checkpoint in its output folder continues from that instead.

    Released ERNIE-M weights have no head, and a fresh head would disturb the encoder. So the head can first
    be trained alone, at its own learning rate. The schedule of `optimizer` begins after these steps.
    """

    encoder: str = option(SCRATCH, free=True, needed=True)
    """"scratch", or weights in any format of docs/convert.md."""

    word_table: str = option("", free=True)
    """A static model, as `ernie-m train` makes, with the vocabulary of the corpus. Its principal
    components are the first word vectors of a new encoder. For small models and little text."""

    lm_head: str = option(FRESH, free=True)
    """"fresh", or a folder with a head (XLM-R's or ours); "encoder": the head in `encoder`."""

    lm_head_warmup_steps: NonNegativeInt = 0
    """The number of steps that train only the head and the language embeddings."""

    lm_head_learning_rate: PositiveFloat = 1e-3
    """The constant learning rate of these steps."""


@dataclass
class OptimizerConfig:
    """Adam with decoupled decay and a linear schedule (paper Table 11)."""

    steps: PositiveInt = STEPS
    """The number of optimizer steps; the schedule ends there."""

    tokens: NonNegativeInt = 0
    """If positive, the run and its schedule end after about this many trained tokens instead."""

    batch_size: PositiveInt = 2048
    """Sequences per optimizer step over all devices and micro-batches."""

    learning_rate: PositiveFloat = 2e-4
    """The peak learning rate."""

    word_rate_ratio: PositiveShare = 1.0
    """The share of the learning rate that the embedding matrix learns at; its decay keeps the full rate. A
    low one keeps what `init.word_table` says."""

    warmup_steps: NonNegativeInt = 10_000
    """Steps of the linear rise; 0: the rate is constant."""

    schedule: Literal["paddlenlp", "official"] = "paddlenlp"
    """After the rise, paddlenlp: a straight line from the peak to 0 at T, as in the paper (section 4.1);
    official: peak x (1 - t / T), as in the official fine-tuning code; it drops when the rise ends."""

    beta1: BelowOne = 0.98
    """0.98 as printed in Table 11."""

    beta2: BelowOne = 0.999
    """0.999 as printed in Table 11. InfoXLM, with the same data and steps, uses (0.9, 0.98)."""

    epsilon: PositiveFloat = 1e-6
    """Adam's epsilon."""

    weight_decay: NonNegativeFloat = 0.01
    """The decoupled weight decay."""

    clip_norm: PositiveFloat = 1.0
    """The largest global norm of the gradient. **choice**: the paper does not print one."""


@dataclass
class RunConfig:
    """How the run is executed."""

    output: str = option("output/pretrain", free=True, needed=True)
    """The folder for checkpoints, metrics and the final models."""

    overwrite: bool = option(False, free=True)
    """Whether to remove the run in the folder and begin anew. Leave it out to continue the run."""

    seed: Annotated[int, Range(at_least=0, below=1 << 32)] = 1
    """The seed of the weights, the order of the text, the masks and the dropout."""

    micro_batch_tokens: PositiveInt = option(8192, free=True)
    """The most tokens in one forward pass on one device, at least data.max_seq_len. The gradients of a
    device's further tokens are accumulated."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU."""

    amp_level: Literal["O1", "O2"] = "O1"
    """O1: float32 weights; O2: weights in the lower precision too, with float32 master weights in the
    optimizer. O2 needs a GPU and `amp`."""

    kernels: Literal["fast", "plain"] = option("fast", free=True)
    """plain: Paddle's own operations alone, to see whether a faster one is at fault. On a CPU they compute
    what a GPU computes, FlashMask and mixed precision aside."""

    dtype: Literal["float32", "float64"] = "float32"
    """The type of the weights; float64 is for tests."""

    recompute: bool = option(False, free=True)
    """Whether to recompute activations in the backward pass, which saves memory."""

    sharding_stage: Annotated[int, Range(at_least=0, at_most=1)] = option(0, free=True)
    """1: the devices share the optimizer state; 0: each has all of it."""

    log_steps: PositiveInt = option(50, free=True)
    """Steps between lines in the log and in metrics.jsonl."""

    save_steps: PositiveInt = option(1000, free=True)
    """Steps between checkpoints."""

    keep_checkpoints: PositiveInt = option(2, free=True)
    """The number of checkpoints that are kept."""

    eval_steps: NonNegativeInt = option(0, free=True)
    """Steps between held-out evaluations. 0: evaluate only at the end."""

    eval_sequences: NonNegativeInt = option(512, free=True)
    """The most held-out sequences per language or pair and objective. 0: no evaluation."""

    max_bad_steps: PositiveInt = option(10, free=True)
    """Stop after this many consecutive steps whose loss is not a finite number."""

    stop_after_steps: NonNegativeInt = option(0, free=True)
    """Save and stop at this step without changing the schedule. 0: run to the end."""

    stall_ends_seconds: NonNegativeFloat = option(3600.0, free=True)
    """With several processes, end this one when a step, an evaluation, a checkpoint or the reader takes
    longer, as when another machine has died. 0: never."""

    compute_ratio: PositiveFloat = 1.0
    """Divides the number of steps (paper Table 8: comparison at equal compute)."""


@dataclass
class PretrainConfig:
    """A pre-training run. Options that are `free` may change when it continues from a checkpoint; all others
    decide what the model learns.

    Raises:
        UserError: an impossible value; the message names the key, the value and what is allowed.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @staticmethod
    def check_override(place: str, later: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
        """Refuse a value that would not count, because another key is given beside it or was before.

        Args:
            place: what stands before a key in an error: "FILE: ", or "--" for the command line.
            later: its values, by their keys.
            earlier: those of the files before.
        """
        are_alone = "objectives.shares" in later and "objectives.later_shares" not in later
        if are_alone and earlier.get("objectives.later_shares"):
            raise UserError(
                f"{place}objectives.shares is given alone, and objectives.later_shares of an earlier file "
                "would take its place later in the run: give --objectives.later_shares, too ('{}': none)"
            )
        # A saved configuration has the default number of steps beside its tokens.
        is_saved = "optimizer.tokens" in later and later.get("optimizer.steps") == STEPS
        if "optimizer.steps" in later and not is_saved and {**earlier, **later}.get("optimizer.tokens"):
            raise UserError(
                f"{place}optimizer.steps does not count beside optimizer.tokens: leave it out, or give "
                "--optimizer.tokens 0, too"
            )

    def __post_init__(self):
        if not self.data.corpus:
            raise UserError("data.corpus is empty: give the folder that ernie-m build_corpus wrote")
        if self.init.encoder == SCRATCH:
            self.model = self.model.completed(BASE)
        max_seq_len = self.data.max_seq_len
        # Two rows of the table are reserved. Before an encoder is opened its length may not be known.
        longest = (self.model.max_position_embeddings or math.inf) - 2
        if not 8 <= max_seq_len <= longest:  # in 8 tokens, a pair has 4 besides the special ones
            raise UserError(
                f"data.max_seq_len {max_seq_len} is outside 8 to {longest}, model.max_position_embeddings - 2"
            )
        longest_example = max_seq_len
        of_masks = ""
        if self.objectives.camlm_context == "with_masks":
            # A pair has four special tokens. The number of masks is rounded on each side, and at least one.
            longest_example += int(self.objectives.mask_rate * (max_seq_len - 4)) + 2
            of_masks = " and, with objectives.camlm_context with_masks, a row for each mask"
        if self.run.micro_batch_tokens < longest_example:
            raise UserError(
                f"run.micro_batch_tokens {self.run.micro_batch_tokens} is below {longest_example}, the "
                f"longest example (data.max_seq_len {max_seq_len}{of_masks}): raise it, or shorten "
                "data.max_seq_len"
            )
        if self.init.lm_head == FROM_ENCODER and self.init.encoder == SCRATCH:
            raise UserError(
                "init.lm_head is 'encoder' but init.encoder is 'scratch': there is no head to take"
            )
        if self.init.word_table and self.init.encoder != SCRATCH:
            raise UserError("init.word_table is for init.encoder scratch: other encoders have word vectors")
