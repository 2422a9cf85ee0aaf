"""What a pre-training run is made of. One YAML file per run; `--section.key value` overrides a key.

The defaults are the full strategy with the choices of docs/objectives.md; the files in configs/pretrain/
hold the
paper's tables.
"""

from dataclasses import dataclass, field
from typing import Literal

from utils.errors import UserError

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")


@dataclass
class ModelConfig:
    """The encoder's shape (paper Table 11). The vocabulary's size comes from the corpus.

    Args:
        hidden_size: H.
        num_hidden_layers: L.
        num_attention_heads: N; the inner size of the feed-forward layers is 4 H.
        hidden_dropout_prob: dropout after the embeddings and each sub-layer.
        attention_probs_dropout_prob: dropout on the attention probabilities.
        initializer_range: standard deviation of fresh weights. The family's 0.02 suits H of 768 and more; a narrow
            model leaves its start sooner with about 1 / sqrt(H).
        max_position_embeddings: rows of the position table; two of them are reserved.
        language_embedding: which tokens get their side's language embedding.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    max_position_embeddings: int = 514
    language_embedding: Literal["masks", "none", "all"] = "masks"


@dataclass
class DataConfig:
    """Where the text is and how it is drawn.

    Args:
        corpus: folder written by `python -m pretrain.build_corpus`.
        languages: train on these only; empty: on every language of the corpus.
        max_seq_len: longest sequence in tokens, specials included.
        pack_lines: MMLM and BTMLM read consecutive lines of one document up to max_seq_len; false: one line
            each.
        language_alpha: p_l ~ tokens_l^alpha over monolingual text (XLM-R: 0.3).
        pair_alpha: p_ab ~ pairs_ab^alpha over parallel text (InfoXLM: 0.7).
        verify: check every shard's checksum before the first step, not only the sizes.
    """

    corpus: str = ""
    languages: list[str] = field(default_factory=list)
    max_seq_len: int = 512
    pack_lines: bool = True
    language_alpha: float = 0.3
    pair_alpha: float = 0.7
    verify: bool = False


@dataclass
class ObjectiveConfig:
    """Which objectives, in which shares, and every choice the paper leaves open (docs/objectives.md).

    Args:
        active: any of mmlm, tlm, camlm, btmlm. The paper's exp5 is all four.
        monolingual_share: share of a step's sequences that go to monolingual text, where both kinds are
            active.
        mask_rate: share of non-special tokens that are chosen.
        btmlm_start: BTMLM begins at this share of all steps; before it, its part goes to MMLM.
        pseudo_proportion: pseudo-tokens per token of the sentence (Figure 6: 0.05 to 0.20).
        pseudo_positions: first: right after the sentence, as a target's first tokens; spread: over its
            length.
        pseudo_choice: arg max, or a draw at `temperature`.
        pseudo_pieces: frequent: pieces that occur at least `min_piece_count` times in the language; all: the
            whole
            vocabulary without specials.
        min_piece_count: see `pseudo_pieces`.
        temperature: of the draw.
        second_language: parallel: in proportion to pairs^0.7 among languages with parallel data with the
            sentence's own; uniform: any other language.
        camlm_form: compact: two rows of context and placeholders; dense: one row with the full matrix.
    """

    active: list[str] = field(default_factory=lambda: list(OBJECTIVES))
    monolingual_share: float = 0.5
    mask_rate: float = 0.15
    btmlm_start: float = 0.3
    pseudo_proportion: float = 0.2
    pseudo_positions: Literal["first", "spread"] = "first"
    pseudo_choice: Literal["argmax", "sample"] = "argmax"
    pseudo_pieces: Literal["frequent", "all"] = "frequent"
    min_piece_count: int = 5
    temperature: float = 1.0
    second_language: Literal["parallel", "uniform"] = "parallel"
    camlm_form: Literal["compact", "dense"] = "compact"


@dataclass
class InitConfig:
    """What the weights start from. A run that has a checkpoint in its output folder resumes from that
    instead.

    Args:
        encoder: "scratch", or a folder: XLM-R, an official parameter directory or one of ours.
        lm_head: "fresh", or a folder that holds a head (XLM-R, or one of ours); "encoder": the folder of
            `encoder`.
        lm_head_warmup_steps: train only the head and the language embeddings for so many steps, encoder
            frozen:
            released ERNIE-M weights have no head, and a fresh one would first disturb the encoder.
    """

    encoder: str = "scratch"
    lm_head: str = "fresh"
    lm_head_warmup_steps: int = 0


@dataclass
class OptimizerConfig:
    """Adam with decoupled decay and a linear schedule (paper Table 11).

    Args:
        steps: optimiser steps in all; the schedule ends there.
        tokens: when positive, the run and its schedule end at so many trained tokens instead of at `steps`.
        batch_size: sequences per optimiser step over all devices and micro-batches.
        learning_rate: peak.
        warmup_steps: linear rise.
        schedule: after the rise, official: peak x (1 - t / T); paddlenlp: a straight line from the peak to 0
            at T.
        beta1: 0.98 as Table 11 prints it.
        beta2: 0.999 as Table 11 prints it. InfoXLM, with the same data and steps, uses (0.9, 0.98).
        epsilon: Adam's.
        weight_decay: decoupled.
        clip_norm: largest global norm of the gradient.
    """

    steps: int = 150_000
    tokens: int = 0
    batch_size: int = 2048
    learning_rate: float = 2e-4
    warmup_steps: int = 10_000
    schedule: Literal["official", "paddlenlp"] = "official"
    beta1: float = 0.98
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass
class RunConfig:
    """How the run is carried out; nothing here changes what is learned, but for rounding.

    Args:
        output: folder for checkpoints, metrics and the final models.
        seed: of the weights, the order, the masks and the dropout.
        micro_batch_size: most sequences of one objective in one forward pass on one device.
        amp: lower precision on GPU.
        dtype: of the weights; float64 is for checks.
        recompute: recompute activations in the backward pass.
        sharding_stage: 1: optimizer state is divided among the devices (fleet).
        log_steps: a line in the log and in metrics.jsonl.
        save_steps: a checkpoint.
        keep_checkpoints: the last so many stay.
        eval_steps: held-out evaluation; 0: at the end only.
        eval_sequences: most held-out sequences per language or pair and objective.
        max_bad_steps: stop after so many steps in a row whose loss is not a finite number.
        stop_after_steps: stop and save at this step, the schedule unchanged; 0: at the end.
        compute_ratio: steps are divided by this (paper Table 8: a stop at equal compute).
    """

    output: str = "output/pretrain"
    seed: int = 1
    micro_batch_size: int = 32
    amp: Literal["none", "bf16", "fp16"] = "none"
    dtype: Literal["float32", "float64"] = "float32"
    recompute: bool = False
    sharding_stage: Literal[0, 1] = 0
    log_steps: int = 50
    save_steps: int = 1000
    keep_checkpoints: int = 2
    eval_steps: int = 0
    eval_sequences: int = 512
    max_bad_steps: int = 10
    stop_after_steps: int = 0
    compute_ratio: float = 1.0


@dataclass
class PretrainConfig:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objectives: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def check(config: PretrainConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        UserError: names the key, the value and what is allowed.
    """
    _check_objectives(config.objectives)
    model, data, optimizer, run = config.model, config.data, config.optimizer, config.run
    if not data.corpus:
        raise UserError("data.corpus is empty: give the folder that `python -m pretrain.build_corpus` wrote")
    if model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"model.hidden_size {model.hidden_size} is not a multiple of model.num_attention_heads "
            f"{model.num_attention_heads}"
        )
    usable = model.max_position_embeddings - 2
    if not 8 <= data.max_seq_len <= usable:
        raise UserError(
            f"data.max_seq_len {data.max_seq_len} is outside 8 to {usable}, model.max_position_embeddings - 2"
        )
    for key in ("batch_size", "steps", "learning_rate", "clip_norm"):
        _positive(f"optimizer.{key}", getattr(optimizer, key))
    for key in (
        "micro_batch_size",
        "log_steps",
        "save_steps",
        "keep_checkpoints",
        "max_bad_steps",
        "compute_ratio",
    ):
        _positive(f"run.{key}", getattr(run, key))
    if config.init.lm_head == "encoder" and config.init.encoder == "scratch":
        raise UserError(
            "init.lm_head is 'encoder' but init.encoder is 'scratch': there is no folder to take a head from"
        )


def _check_objectives(objectives: ObjectiveConfig) -> None:
    unknown = [name for name in objectives.active if name not in OBJECTIVES]
    if unknown or not objectives.active:
        raise UserError(
            f"objectives.active is {objectives.active}: name one or more of {', '.join(OBJECTIVES)}"
        )
    if len(set(objectives.active)) != len(objectives.active):
        raise UserError(f"objectives.active names an objective twice: {objectives.active}")
    if "btmlm" in objectives.active and "mmlm" not in objectives.active:
        raise UserError(
            "objectives.active has btmlm without mmlm: before btmlm starts its share goes to mmlm"
        )
    for key in ("monolingual_share", "mask_rate", "btmlm_start", "pseudo_proportion"):
        value = getattr(objectives, key)
        if not 0.0 <= value <= 1.0:
            raise UserError(f"objectives.{key} is {value}: it is a share, between 0 and 1")


def _positive(key: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{key} is {value}: it must be above 0")
