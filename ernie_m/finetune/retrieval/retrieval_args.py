"""The flags of run_retrieval.py. Reader processes import this file, so it does not import Paddle."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ernie_m.finetune.finetune_args import FINE_TUNED_TASKS, Decay, TrainingFlags
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL, Pooling
from ernie_m.reader.files.table_options import TableOptions
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


@dataclass
class RetrievalFlags(TableOptions, TrainingFlags):
    """The flags of run_retrieval.py: model and data, then the search, then training."""

    beside_run = (r"retrieval\.(txt|md|json)", r"sweep\.json", "predictions")

    init_pretraining_params: str | None = option(None, free=True, needed=True)
    """The weights; %d is replaced by the seed, as in checkpoints/seed_%d/best. Default: random weights."""

    init_task: Literal[FINE_TUNED_TASKS] | None = option(None, free=True)
    """The task for which the weights must have been fine-tuned; others are refused."""

    init_checkpoint: str | None = option(None, free=True)
    """A step folder from which training continues."""

    pairs: str | None = option(None, free=True, needed=True)
    """The folder of <language>-en.<language> and .en, of <language>-en.tsv, or of tatoeba.<lan>-eng.<lan>
    and .eng."""

    languages: str | None = option(None, free=True)
    """Codes of XTREME, separated by commas. Default: all languages in the folder."""

    layer: str = "middle"
    """The layer of the vectors: a number, middle or top. sweep: a table of all layers. Default with a model
    that says how its vectors are made: as it says."""

    pooling: Pooling = MEAN_WITHOUT_SPECIAL
    """A vector is the mean of all tokens, the mean without [CLS] and [SEP], the state of [CLS] (cls),
    or the pooled [CLS]. Default with a model that says how its vectors are made: as it says."""

    score: Literal["cosine", "margin"] = option("cosine", free=True)
    """cosine, or margin: the ratio of the cosine to the mean cosine of the 4 nearest neighbours."""

    centre_on: str | None = option(None, free=True)
    """Files of sentences, "de<=de.txt,en<=en.txt": the report also has searches with vectors from which the
    mean of their language is subtracted. Default: the means beside the weights, if there are any."""

    untrained: bool = option(True, free=True)
    """Whether to search with random weights, too."""

    do_train: bool = option(False, free=True)
    """Whether to fine-tune first."""

    train_set: str | None = option(None, free=True)
    """A corpus folder of ernie-m build_corpus, whose parallel text is used; or a file of pairs (.tsv, .csv,
    .tmx), whose rows have a query, its positive, and any number of negatives; or two files, en.txt,de.txt.
    A name such as en-de.tsv or "en-de<=pairs.tsv" says that they are translations, which decides prompts."""

    mine_negatives: str | None = option(None, free=True)
    """A text file with one text on each line, among which the rows of a file of pairs, --train_set, find hard
    negatives: lines near to the query. negatives.tsv in --checkpoints receives the rows with them."""

    num_negatives: PositiveInt = option(3, free=True)
    """The number of negatives that a row receives, or fewer if no more are found."""

    range_min: NonNegativeInt = option(0, free=True)
    """The number of nearest candidates that are passed over, because they may be further positives.
    Candidates are no positives of the query, and --relative_margin below them."""

    range_max: PositiveInt = option(100, free=True)
    """The number of nearest lines that are looked at, beside the positives of a query."""

    relative_margin: UnitInterval = option(0.05, free=True)
    """A negative's cosine with the query is below that of the least near positive by at least this share of
    the latter."""

    loss: Literal["hardest", "softmax"] = "hardest"
    """hardest: binary cross-entropy of each pair and of its hardest negatives in the step. softmax:
    cross-entropy of each query over all positives and negatives of the step."""

    both_directions: bool = False
    """With --loss softmax: also cross-entropy of each positive over all queries; the loss is the mean."""

    max_steps: PositiveInt = 200_000
    """The number of training steps."""

    batch_size: Annotated[int, Range(at_least=2)] = 32
    """The pairs of a step, over all processes. For each pair, all others are negatives."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""

    layerwise_lr_decay: Decay = 1.0
    """d: layer i of L learns at the rate times d^(L-i)."""

    pair_alpha: UnitInterval = 0.7
    """Language pairs are drawn in proportion to their size to this power."""

    scale: PositiveFloat = 20.0
    """The logit of a pair is scale x (cosine - offset); with --loss softmax scale x cosine."""

    offset: float = 0.5
    """The cosine at which the probability of a translation is one half."""

    validation_pairs: NonNegativeInt = 500
    """The number of held-out pairs of each language pair, or of a file, of which at most a tenth is held out.
    0: no validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        can_sweep = (
            not (self.do_train or self.mine_negatives)
            and len(self.seeds) == 1
            and self.pooling != "pooled"
            and self.score == "cosine"
        )
        if self.layer == "sweep" and not can_sweep:
            raise UserError(
                "--layer sweep searches with one seed and a mean of tokens, by cosine; train and mine at one "
                "layer"
            )
        if not (self.do_train or self.pairs or self.mine_negatives):
            raise UserError("nothing to do: give --pairs, or --do_train true, or --mine_negatives")
        if self.do_train and not self.train_set:
            raise UserError(
                "--train_set is needed with --do_train true: a corpus of build_corpus or a file of pairs"
            )
        if self.mine_negatives:
            self._check_mining()
        if self.both_directions and self.loss != "softmax":
            raise UserError("--both_directions true belongs to --loss softmax")
        if self.init_checkpoint and not self.do_train:
            raise UserError(
                "--init_checkpoint resumes --do_train true; to search with it, name it with "
                "--init_pretraining_params"
            )

    def _check_mining(self) -> None:
        """Refuse flags that do not go together with --mine_negatives."""
        if not self.train_set:
            raise UserError("--train_set is needed with --mine_negatives: a file of pairs")
        if self.do_train or self.pairs or self.centre_on or len(self.seeds) > 1:
            raise UserError(
                "--mine_negatives only writes rows: give it without --do_train, --pairs and --centre_on, and "
                "with one seed; train on the rows with a second command"
            )
        if self.range_max - self.range_min < self.num_negatives:
            raise UserError(
                f"--range_min {self.range_min} and --range_max {self.range_max}: fewer than --num_negatives "
                f"{self.num_negatives} lines are between them"
            )

    def start_of(self, seed: int) -> str | None:
        """The weights that a seed begins with; None: random ones."""
        weights = self.init_pretraining_params
        return self.init_checkpoint or (weights and weights.replace("%d", str(seed)))
