"""The configuration of a pre-training run: one YAML file per run, and `--section.key value` overrides a key.

The defaults are the full strategy with the choices of docs/objectives.md. configs/pretrain/ holds the paper's
tables.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from utils.config import within
from utils.errors import UserError

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")
SCRATCH, FRESH, FROM_ENCODER = "scratch", "fresh", "encoder"


@dataclass
class ModelConfig:
    """The shape of the encoder (paper Table 11). The size of the vocabulary comes from the corpus.

    Args:
        hidden_size: H.
        num_hidden_layers: L.
        num_attention_heads: N; the inner size of the feed-forward layers is 4 H.
        hidden_dropout_prob: dropout after the embeddings and each sub-layer.
        attention_probs_dropout_prob: dropout on the attention probabilities.
        initializer_range: standard deviation of the initial weights. 0.02 suits H >= 768; narrower models
            learn sooner with about 1 / sqrt(H).
        max_position_embeddings: rows of the position table, of which two are reserved.
        language_embedding: which tokens get the language embedding of their side.
    """

    hidden_size: int = within("(0, )", 768)
    num_hidden_layers: int = within("(0, )", 12)
    num_attention_heads: int = within("(0, )", 12)
    hidden_dropout_prob: float = within("[0, 1)", 0.1)
    attention_probs_dropout_prob: float = within("[0, 1)", 0.1)
    initializer_range: float = within("(0, )", 0.02)
    max_position_embeddings: int = 514
    language_embedding: Literal["masks", "none", "all"] = "masks"


@dataclass
class DataConfig:
    """Where the text is and how it is sampled.

    Args:
        corpus: folder written by `python -m pretrain.build_corpus`.
        languages: the languages to train on; empty: every language of the corpus.
        max_seq_len: longest sequence in tokens, including special tokens.
        pack_lines: MMLM and BTMLM read consecutive lines of one document up to max_seq_len; false: one line
            each.
        language_alpha: monolingual text is sampled with p_l ~ tokens_l^alpha (XLM-R: 0.3).
        pair_alpha: parallel text is sampled with p_ab ~ pairs_ab^alpha (InfoXLM: 0.7).
        parallel_share: train on this share of each language pair's sentence pairs. They are drawn with a seed
            of their own, the same for every run.seed, and a smaller share is a part of a larger one.
        verify: compare the checksum of every shard before the first step, not only the sizes.
    """

    corpus: str = ""
    languages: list[str] = field(default_factory=list)
    max_seq_len: int = 512
    pack_lines: bool = True
    language_alpha: float = within("[0, 1]", 0.3)
    pair_alpha: float = within("[0, 1]", 0.7)
    parallel_share: float = within("(0, 1]", 1.0)
    verify: bool = False


@dataclass
class ObjectiveConfig:
    """The objectives, their shares, and the choices that the paper leaves open (docs/objectives.md).

    Args:
        active: any of mmlm, tlm, camlm, btmlm. Without it those of `shares`, and without either all four
            (the paper's exp5).
        monolingual_share: without `shares`: the share of a step's sequences that is monolingual text, if both
            kinds are active. Each part is divided equally among its active objectives.
        shares: objective -> its share of a step's sequences, which is also its weight in the loss. Shares are
            divided by their sum: {mmlm: 15, btmlm: 15, camlm: 70}.
        later_shares: the shares from `later_start` on; empty: they do not change.
        later_start: `later_shares` begin at this share of all steps.
        same_pairs: TLM and CAMLM train on the same pairs: each pair that is drawn serves both, with masks of
            its own for each, and counts once in optimizer.batch_size.
        mask_rate: share of the non-special tokens that is chosen for prediction.
        btmlm_start: BTMLM begins at this share of all steps; until then its share goes to MMLM.
        pseudo_proportion: pseudo-tokens per token of the sentence (Figure 6: 0.05 to 0.20).
        pseudo_positions: first: right after the sentence, like the first tokens of a translation; spread:
            over its length.
        pseudo_choice: arg max, or a sample at `temperature`.
        pseudo_pieces: frequent: pieces that occur at least `min_piece_count` times in the language; all: the
            whole vocabulary without special tokens.
        min_piece_count: see `pseudo_pieces`.
        temperature: of the sampling.
        second_language: parallel: among languages that have parallel text with the language of the sentence,
            in proportion to pairs^0.7; uniform: any other language.
    """

    active: list[str] | None = None
    monolingual_share: float = within("[0, 1]", 0.5)
    shares: dict[str, float] = field(default_factory=dict)
    later_shares: dict[str, float] = field(default_factory=dict)
    later_start: float = within("[0, 1]", 0.5)
    same_pairs: bool = False
    mask_rate: float = within("(0, 0.9]", 0.15)  # camlm predicts from unmasked tokens
    btmlm_start: float = within("[0, 1]", 0.3)
    pseudo_proportion: float = within("(0, 1]", 0.2)
    pseudo_positions: Literal["first", "spread"] = "first"
    pseudo_choice: Literal["argmax", "sample"] = "argmax"
    pseudo_pieces: Literal["frequent", "all"] = "frequent"
    min_piece_count: int = within("[0, )", 5)
    temperature: float = within("(0, )", 1.0)
    second_language: Literal["parallel", "uniform"] = "parallel"

    @property
    def names(self) -> list[str]:
        """The objectives of the run, in the order of `OBJECTIVES`."""
        if self.shares:
            return [name for name in OBJECTIVES if self.shares.get(name) or self.later_shares.get(name)]
        if self.active is None:
            return list(OBJECTIVES)
        return [name for name in OBJECTIVES if name in self.active]

    def check(self) -> None:
        """Raise a UserError if the objectives or their shares are impossible, or contradict each other."""
        known = ", ".join(OBJECTIVES)
        if self.active is not None and (not self.active or not set(self.active) <= set(OBJECTIVES)):
            raise UserError(f"objectives.active is {self.active}: name one or more of {known}")
        for key, shares in (("shares", self.shares), ("later_shares", self.later_shares)):
            unknown = [name for name in shares if name not in OBJECTIVES]
            if unknown:
                raise UserError(f"objectives.{key} has {', '.join(unknown)}: name one or more of {known}")
            if any(not 0 <= share < math.inf for share in shares.values()):
                raise UserError(f"objectives.{key} is {shares}: a share must be at least 0, and finite")
            if shares and sum(shares.values()) == 0:
                raise UserError(f"objectives.{key} is {shares}: one share must be above 0")
        if self.later_shares and not self.shares:
            raise UserError(
                "objectives.later_shares is given without objectives.shares: give the shares before it too"
            )
        if self.shares and self.active is not None and set(self.active) != set(self.names):
            raise UserError(
                f"objectives.active has {', '.join(self.active)}, but objectives.shares has "
                f"{', '.join(self.names)}: leave objectives.active out"
            )
        if "btmlm" in self.names and "mmlm" not in self.names:
            key = "shares" if self.shares else "active"
            raise UserError(f"objectives.{key} has btmlm without mmlm; add mmlm, which has that share first")
        if self.same_pairs and not {"tlm", "camlm"} <= set(self.names):
            raise UserError(
                f"objectives.same_pairs needs tlm and camlm, but the objectives are {', '.join(self.names)}"
            )


@dataclass
class InitConfig:
    """The initial weights. A run with a checkpoint in its output folder continues from that instead.

    Released ERNIE-M weights have no head, and a fresh head would disturb the encoder. So the head can first
    be trained alone, at its own learning rate. The schedule of `optimizer` begins after these steps.

    Args:
        encoder: "scratch", or weights in any format of docs/convert.md.
        lm_head: "fresh", or a folder with a head (XLM-R's or ours); "encoder": the head in `encoder`.
        lm_head_warmup_steps: number of steps that train only the head and the language embeddings.
        lm_head_learning_rate: constant learning rate of these steps.
    """

    encoder: str = SCRATCH
    lm_head: str = FRESH
    lm_head_warmup_steps: int = within("[0, )", 0)
    lm_head_learning_rate: float = within("(0, )", 1e-3)


@dataclass
class OptimizerConfig:
    """Adam with decoupled decay and a linear schedule (paper Table 11).

    Args:
        steps: number of optimizer steps; the schedule ends there.
        tokens: if positive, the run and its schedule end after about this many trained tokens instead.
        batch_size: sequences per optimizer step over all devices and micro-batches.
        learning_rate: peak.
        warmup_steps: linear rise; 0: the rate is constant.
        schedule: after the rise, paddlenlp: a straight line from the peak to 0 at T, as in the paper (section
            4.1); official: peak x (1 - t / T), as in the official fine-tuning code; it drops when the rise
            ends.
        beta1: 0.98 as printed in Table 11.
        beta2: 0.999 as printed in Table 11. InfoXLM, with the same data and steps, uses (0.9, 0.98).
        epsilon: of Adam.
        weight_decay: decoupled.
        clip_norm: largest global norm of the gradient. **choice**: the paper does not print one.
    """

    steps: int = within("(0, )", 150_000)
    tokens: int = within("[0, )", 0)
    batch_size: int = within("(0, )", 2048)
    learning_rate: float = within("(0, )", 2e-4)
    warmup_steps: int = within("[0, )", 10_000)
    schedule: Literal["paddlenlp", "official"] = "paddlenlp"
    beta1: float = within("[0, 1)", 0.98)
    beta2: float = within("[0, 1)", 0.999)
    epsilon: float = within("(0, )", 1e-6)
    weight_decay: float = within("[0, )", 0.01)
    clip_norm: float = within("(0, )", 1.0)


@dataclass
class RunConfig:
    """How the run is executed.

    Args:
        output: folder for checkpoints, metrics and the final models.
        overwrite: remove the run in the folder and begin anew. Leave it out to continue the run.
        seed: of the weights, the order of the text, the masks and the dropout.
        micro_batch_tokens: most tokens in one forward pass on one device, at least data.max_seq_len. The
            gradients of a device's further tokens are accumulated.
        amp: lower precision on GPU.
        amp_level: O1: float32 weights; O2: weights in the lower precision too, with float32 master weights in
            the optimizer. O2 needs a GPU and `amp`.
        cpu_bf16: on a CPU with avx512_bf16 or AMX, multiply in bfloat16; `amp` then means GPUs alone.
        dtype: of the weights; float64 is for tests.
        recompute: recompute activations in the backward pass, which saves memory.
        sharding_stage: 1: the devices share the optimizer state; 0: each has all of it.
        log_steps: steps between lines in the log and in metrics.jsonl.
        save_steps: steps between checkpoints.
        keep_checkpoints: number of checkpoints that are kept.
        eval_steps: steps between held-out evaluations; 0: evaluate only at the end.
        eval_sequences: most held-out sequences per language or pair and objective; 0: no evaluation.
        max_bad_steps: stop after this many consecutive steps whose loss is not a finite number.
        stop_after_steps: save and stop at this step without changing the schedule; 0: run to the end.
        stall_seconds: log when a step, an evaluation, a checkpoint or the reader takes longer.
        stall_ends_seconds: with several processes, end this one when a step, an evaluation, a checkpoint or
            the reader takes longer, as when another machine has died; 0: never.
        compute_ratio: divides the number of steps (paper Table 8: comparison at equal compute).
    """

    output: str = "output/pretrain"
    overwrite: bool = False
    seed: int = within("[0, 4294967296)", 1)
    micro_batch_tokens: int = within("(0, )", 8192)
    amp: Literal["none", "bf16", "fp16"] = "none"
    amp_level: Literal["O1", "O2"] = "O1"
    cpu_bf16: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    recompute: bool = False
    sharding_stage: int = within("[0, 1]", 0)
    log_steps: int = within("(0, )", 50)
    save_steps: int = within("(0, )", 1000)
    keep_checkpoints: int = within("(0, )", 2)
    eval_steps: int = within("[0, )", 0)
    eval_sequences: int = within("[0, )", 512)
    max_bad_steps: int = within("(0, )", 10)
    stop_after_steps: int = within("[0, )", 0)
    stall_seconds: float = within("(0, )", 60.0)
    stall_ends_seconds: float = within("[0, )", 3600.0)
    compute_ratio: float = within("(0, )", 1.0)


# These keys may change when a run continues from a checkpoint. All others decide what the model learns. The
# corpus may move; its digest is compared (pretrain/run_folder.py).
FREE = (
    "data.corpus", "data.verify", "init.encoder", "init.lm_head", "run.output", "run.overwrite",
    "run.micro_batch_tokens", "run.recompute", "run.sharding_stage", "run.log_steps", "run.save_steps",
    "run.keep_checkpoints", "run.eval_steps", "run.eval_sequences", "run.max_bad_steps",
    "run.stop_after_steps", "run.stall_seconds", "run.stall_ends_seconds",
)  # fmt: skip


@dataclass
class PretrainConfig:
    """A pre-training run.

    UserError: an impossible value; the message names the key, the value and what is allowed.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self):
        self.objectives.check()
        if not self.data.corpus:
            raise UserError("data.corpus is empty: give the folder that pretrain.build_corpus wrote")
        max_seq_len = self.data.max_seq_len
        longest = self.model.max_position_embeddings - 2
        if not 8 <= max_seq_len <= longest:
            raise UserError(
                f"data.max_seq_len {max_seq_len} is outside 8 to {longest}, model.max_position_embeddings - 2"
            )
        if self.run.micro_batch_tokens < max_seq_len:
            raise UserError(
                f"run.micro_batch_tokens {self.run.micro_batch_tokens} is below data.max_seq_len "
                f"{max_seq_len}: the longest sequence must fit; raise it, or shorten data.max_seq_len"
            )
        if self.init.lm_head == FROM_ENCODER and self.init.encoder == SCRATCH:
            raise UserError(
                "init.lm_head is 'encoder' but init.encoder is 'scratch': there is no head to take"
            )
