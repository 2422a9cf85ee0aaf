"""Flags of run_retrieval.py and `ernie-m mine_hard_negatives`. Does not import Paddle."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ernie_m.finetune.finetune_args import FineTunedTask, SequenceLength, TrainingFlags
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL, Pooling
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.utils.args import OfficialFlags, option
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


@dataclass(kw_only=True)
class EmbeddingFlags(TableOptions, OfficialFlags):
    """Flags of pairs and of their embeddings."""

    layer: str = "middle"
    """Encoder layer of the embeddings: a number, middle, last, or, in an evaluation, sweep to compare all
    layers; the default follows the model's settings, if any."""

    pooling: Pooling = MEAN_WITHOUT_SPECIAL
    """Pooling of token states into an embedding: the mean over all tokens (mean), the mean without [CLS] and
    [SEP] (mean_without_special), the state of [CLS] (cls), or the pooler output (pooler); the default follows
    the model's settings, if any."""

    max_seq_len: SequenceLength = 512
    """Maximum sequence length in tokens, including special tokens; the default is lowered to the model's
    maximum."""


@dataclass(kw_only=True)
class HardNegativeFlags(EmbeddingFlags):
    """The flags of `ernie-m mine_hard_negatives`."""

    train_set: str
    """Pairs: a table of queries, positives and negatives (.tsv, .csv, .tmx), or two aligned files
    (en.txt,de.txt)."""

    corpus: str
    """Text file, one text per line, from which to mine negatives."""

    model: str
    """Checkpoint in any supported format, preferably trained on the pairs."""

    output: str = option("negatives", needed=True)
    """Output directory for negatives.tsv: the pairs with their negatives, for run_retrieval --train_set."""

    num_negatives: PositiveInt = 3
    """Maximum number of hard negatives per pair."""

    range_min: NonNegativeInt = 0
    """Number of nearest candidates to skip, because they may be unlabeled positives."""

    range_max: PositiveInt = 100
    """Number of nearest candidates to consider, not counting the query's positives."""

    relative_margin: UnitInterval = 0.05
    """Minimum relative margin: a negative's cosine is at most (1 - relative_margin) times that of the least
    similar positive."""

    def __post_init__(self) -> None:
        if self.range_max - self.range_min < self.num_negatives:
            raise UserError(
                f"--range_min {self.range_min} and --range_max {self.range_max}: fewer candidates than "
                f"--num_negatives {self.num_negatives}. Increase --range_max"
            )


@dataclass
class RetrievalFlags(EmbeddingFlags, TrainingFlags):
    """The flags of run_retrieval.py, grouped by model and data, retrieval, and training."""

    beside_run = (r"retrieval\.(txt|md|json)", r"sweep\.json", "predictions")

    init_pretraining_params: str | None = option(None, free=True, needed=True)
    """Pretrained weights in any supported format, in which %d stands for the seed, as in
    checkpoints/seed_%d/best (default: random initialization)."""

    init_task: FineTunedTask | None = option(None, free=True)
    """Task for which the weights must have been fine-tuned."""

    init_checkpoint: str | None = option(None, free=True)
    """Checkpoint (step_N) to resume training from."""

    pairs: str | None = option(None, free=True, needed=True)
    """Directory of test bitexts: <language>-en.<language> and .en, <language>-en.tsv, or
    tatoeba.<lan>-eng.<lan> and .eng."""

    languages: str | None = option(None, free=True)
    """Comma-separated XTREME language codes to evaluate (default: all languages in --pairs)."""

    score: Literal["cosine", "margin"] = option("cosine", free=True)
    """Similarity score: cosine, or margin, the ratio of the cosine to the mean cosine of the 4 nearest
    neighbors."""

    center_on: str | None = option(None, free=True)
    """Text files whose mean embedding is subtracted per language, as in de<=de.txt,en<=en.txt, for additional
    scores (default: the model's language means, if any)."""

    untrained: bool = option(True, free=True)
    """Whether to also evaluate a randomly initialized model as a baseline."""

    do_train: bool = option(False, free=True)
    """Whether to fine-tune before evaluation."""

    train_set: str | None = option(None, free=True)
    """Training pairs: a corpus of ernie-m build_corpus, a table of queries, positives and negatives (.tsv,
    .csv, .tmx), or two aligned files (en.txt,de.txt)."""

    loss: Literal["hardest_negative_bce", "in_batch_softmax"] = "hardest_negative_bce"
    """Contrastive loss: binary cross-entropy of each pair and its hardest in-batch negatives, or softmax
    cross-entropy over all in-batch texts."""

    symmetric: bool = False
    """Whether to average in_batch_softmax over both directions, query to positive and positive to query."""

    max_steps: PositiveInt = 200_000
    """Number of training steps."""

    batch_size: Annotated[int, Range(at_least=2)] = 32
    """Number of pairs per step over all processes, which serve as in-batch negatives for each other."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, not applied to biases and layer norms."""

    layerwise_lr_decay: PositiveShare = 1.0
    """Layer-wise learning-rate decay d: layer i of L is trained at learning_rate * d^(L-i), the word and
    position embeddings at learning_rate * d^(L+1)."""

    pair_alpha: UnitInterval = 0.7
    """Exponent alpha for sampling language pairs in proportion to size^alpha."""

    scale: PositiveFloat = 20.0
    """Scale of the logits, scale * (cosine - offset), or scale * cosine with in_batch_softmax."""

    offset: float = 0.5
    """Cosine at which a pair's probability of being a translation is 0.5."""

    validation_pairs: NonNegativeInt = 500
    """Number of held-out pairs per language pair or file, at most a tenth of all pairs (0: no validation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        can_sweep = (
            not self.do_train and len(self.seeds) == 1 and self.pooling != "pooler" and self.score == "cosine"
        )
        if self.layer == "sweep" and not can_sweep:
            raise UserError(
                "--layer sweep requires one seed, cosine scores and mean pooling. Train at one layer"
            )
        if not (self.do_train or self.pairs):
            raise UserError("nothing to do: set --pairs or --do_train true")
        if self.do_train and not self.train_set:
            raise UserError(
                "missing --train_set, required by --do_train true: the output directory of ernie-m "
                "build_corpus, or a file of pairs"
            )
        if self.symmetric and self.loss != "in_batch_softmax":
            raise UserError("--symmetric true requires --loss in_batch_softmax")
        if self.init_checkpoint and not self.do_train:
            raise UserError(
                "--init_checkpoint resumes training and requires --do_train true. To evaluate a checkpoint, "
                "pass it as --init_pretraining_params"
            )

    def get_initial_checkpoint(self, seed: int) -> str | None:
        """Return the path of the initial checkpoint of a seed; None: random weights."""
        weights = self.init_pretraining_params
        return self.init_checkpoint or (weights and weights.replace("%d", str(seed)))
