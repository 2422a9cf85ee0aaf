"""Flags of the fine-tuning commands, including every official flag with its type and default.

The processes that build batches import this module, so it does not import Paddle.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from ernie_m.finetune.score_tables import load_recipe_scores
from ernie_m.training.training_flags import ComputeFlags
from ernie_m.utils.args import OfficialFlags, is_used_by_command, list_options, option
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger
from ernie_m.utils.value_types import NonNegativeFloat, PositiveInt, PositiveShare, Range, UnitInterval

# The tasks that this project fine-tunes.
FineTunedTask = Literal["classification", "token-classification", "question-answering", "search"]
# Values of --select_on besides the languages. LAST: the dev files are scored only at the end.
MEAN = "mean"
LAST = "last"
# Commands that read a flag, for `option(only=...)`; the --help of the other commands omits it.
MRC = ("run_mrc",)
TAGGER = ("run_sequence_labeling",)
CLASSIFIER = ("run_classifier",)
_DIVIDED = "evaluation is always divided among the processes"
_NO_EXECUTOR = "there is no static-graph executor"

AtLeastOne = Annotated[float, Range(at_least=1)]
SequenceLength = Annotated[int, Range(at_least=8, at_most=512)]


@dataclass
class VocabularyFlags:
    """Flags for the files of a vocabulary."""

    vocab_path: str | None = option(None, free=True)
    """Path to vocab.txt (default: built from --piece_model_path, or the one next to the weights)."""

    piece_model_path: str | None = option(None, free=True)
    """Path to the SentencePiece model (default: the one next to the weights)."""


@dataclass
class ModelFileFlags(VocabularyFlags):
    """Flags for the files next to the weights: model config, vocabulary and SentencePiece model."""

    ernie_config_path: str | None = option(None, free=True)
    """Path to ernie_config.json, the model configuration (default: the one next to the weights)."""

    @property
    def model_file_paths(self) -> tuple[str | None, str | None, str | None]:
        """Paths of model configuration, vocabulary and SentencePiece model; None: next to the weights."""
        return self.ernie_config_path, self.vocab_path, self.piece_model_path


@dataclass
class TrainingFlags(ModelFileFlags, ComputeFlags, OfficialFlags):
    """Flags common to all fine-tuning commands.

    Attributes:
        beside_run: regular expressions for the files of reports and predictions that the command writes to
            --checkpoints.
    """

    beside_run: ClassVar[tuple[str, ...]]

    init_checkpoint: str | None = option(None, free=True)
    """Fine-tuned checkpoint to load with its head; training resumes if it has a training state (step_N)."""

    init_pretraining_params: str | None = option(None, free=True, needed=True)
    """Pretrained weights in any supported format, with their head if it matches the task and labels."""

    checkpoints: str = option("checkpoints", free=True, needed=True)
    """Output directory for checkpoints (step_N, best) and results."""

    learning_rate: NonNegativeFloat = 5e-5
    """Peak learning rate."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay, not applied to biases and layer norms, and not scaled by layer-wise
    learning-rate decay."""

    layerwise_lr_decay: PositiveShare = 0.9
    """Layer-wise learning-rate decay d: layer i of L (from 0) is trained at learning_rate * d^(L-i), the word
    and position embeddings at learning_rate * d^(L+1), and all other weights at learning_rate."""

    warmup_proportion: UnitInterval = 0.1
    """Fraction of training steps with linear warm-up (0: constant learning rate)."""

    save_steps: PositiveInt = option(10000, free=True)
    """Number of steps between checkpoints; one is also saved at the end."""

    validation_steps: PositiveInt = 1000
    """Number of steps between evaluations."""

    skip_steps: PositiveInt = option(10, free=True)
    """Number of steps between log lines."""

    train_set: str | None = option(None, free=True, needed=True)
    """Training file."""

    max_seq_len: SequenceLength = 512
    """Maximum sequence length in tokens, including special tokens; the default is lowered to the model's
    maximum."""

    batch_size: PositiveInt = option(32, free=True)
    """Batch size per device in sequences, or in tokens with --in_tokens."""

    random_seed: tuple[int, ...] | None = None
    """Random seed, or several to run one after another (default: 1)."""

    use_cuda: bool = option(True, free=True)
    """Whether to use GPUs if available."""

    do_train: bool = option(True, free=True)
    """Whether to run training."""

    # The official scripts do not have the following flags.

    max_steps: PositiveInt | None = None
    """Maximum number of optimizer steps."""

    lr_schedule_style: Literal["official", "paddlenlp"] = "official"
    """Shape of the linear decay after warm-up: 1 - t/T of the peak at step t of T (official), or a straight
    line from the peak to 0 (paddlenlp)."""

    paper: str | None = option(None, free=True)
    """Recipe whose published scores the report shows, such as xnli_cross_lingual_transfer."""

    keep_checkpoints: PositiveInt = option(2, free=True)
    """Number of step_N checkpoints to keep, in addition to best."""

    overwrite: bool = option(False, free=True)
    """Whether to delete the previous run in --checkpoints and start over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paper is not None and self.paper not in load_recipe_scores():
            raise UserError(
                f"--paper {self.paper}: unknown recipe (choose from {', '.join(load_recipe_scores())})"
            )
        have_equal = len(set(self.seeds)) < len(self.seeds)
        if have_equal or min(self.seeds) < 0 or max(self.seeds) >= 2**63:
            seeds = ",".join(map(str, self.seeds))
            raise UserError(
                f"--random_seed {seeds}: invalid seeds (expected distinct integers from 0 to 2^63 - 1)"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order in which they are trained."""
        return self.random_seed or (1,)

    @property
    def initial_checkpoint(self) -> str | None:
        """The path of the initial checkpoint; None: random weights."""
        return self.init_checkpoint or self.init_pretraining_params


class PredictionFlags(NamedTuple):
    """The flags of evaluation and prediction.

    Attributes:
        batch_size: the batch size per process in items, or with `in_tokens` in tokens including padding.
    """

    batch_size: int
    in_tokens: bool
    stall_ends_seconds: float


@dataclass
class FinetuneFlags(TrainingFlags):
    """The flags of run_classifier.py, run_sequence_labeling.py and run_mrc.py."""

    beside_run = (
        r"(results|evaluation(-\d+)?)\.(txt|md|json)",
        r"(nbest_)?test_result.*\.\d+\.\d+(\.jsonl|\.tsv|\.csv)?",  # the default of --test_save names these
    )

    is_classify: bool = option(True, no_effect="the entry point decides the task")
    is_regression: bool = option(False, only=CLASSIFIER)
    """Whether labels are numbers, trained with mean squared error (as in STS-B)."""

    task_id: int = option(0, no_effect="the model has no task embedding")

    epoch: Annotated[int, Range(at_least=1, at_most=10_000)] = 3  # lists have its length
    """Number of training epochs."""

    lr_scheduler: Literal["linear_warmup_decay", "noam_decay"] = "linear_warmup_decay"
    """Learning-rate schedule; noam_decay multiplies the peak by min(u/w, sqrt(w/u)) at update u, with w
    warm-up steps."""

    use_fp16: bool = option(False, free=True)
    """Same as --amp fp16."""

    use_dynamic_loss_scaling: bool = True
    """Whether to use dynamic loss scaling with fp16."""

    init_loss_scaling: AtLeastOne = 102400.0
    """Initial loss scale with fp16."""

    incr_every_n_steps: PositiveInt = 100
    """Number of steps without overflow after which the fp16 loss scale is increased."""

    decr_every_n_nan_or_inf: PositiveInt = 2
    """Number of steps with overflow after which the fp16 loss scale is decreased."""

    incr_ratio: Annotated[float, Range(above=1)] = 2.0
    """Factor by which the fp16 loss scale is increased."""

    decr_ratio: Annotated[float, Range(above=0, below=1)] = 0.8
    """Factor by which the fp16 loss scale is decreased."""

    test_save: str = option("./checkpoints/test_result", free=True)
    """Output files for predictions, one pattern for each of --test_set; .<epoch>.<step> is appended."""

    metric: str = option("simple_accuracy", free=True)  # the digest of the file is compared
    """Additional metric, which selects the best checkpoint: FILE.py:FUNCTION, a function (predictions,
    targets) -> dict of percentages. The metric names of the official scripts are accepted and ignored."""

    verbose: bool = option(False, no_effect="the log is always complete")
    tokenizer: str = option("FullTokenizer", no_effect="there is one tokenizer")

    test_set: str | None = option(None, free=True)
    """Comma-separated file patterns for --do_test, in which %s stands for the language."""

    dev_set: str | None = option(None, free=True)
    """Comma-separated file patterns for --do_val, in which %s stands for the language; the first pattern
    selects the best checkpoint."""

    predict_batch_size: PositiveInt | None = option(None, free=True)
    """Batch size for evaluation and prediction (default: --batch_size)."""

    in_tokens: bool = False
    """Whether --batch_size counts tokens, including padding, instead of sequences."""

    do_lower_case: bool = option(True, no_effect="the official tokenizer never lower-cases")

    label_map_config: str | None = option(None, free=True, only=CLASSIFIER + TAGGER)
    """Path to label_map.json, which maps labels to ids (default: the labels of --init_checkpoint, otherwise
    the data contains ids)."""

    lang_map_config: str | None = option(None, free=True)
    """Path to lang_map.json, whose keys replace %s in file patterns."""

    num_labels: Annotated[int, Range(at_least=1, at_most=100_000)] = option(2, only=CLASSIFIER + TAGGER)
    """Number of classes; the default is that of --init_checkpoint, if given."""

    diagnostic: str | None = option(None, no_effect="give the file to --test_set")
    diagnostic_save: str | None = option(None, no_effect="use --test_save")

    max_query_length: PositiveInt = option(64, only=MRC)
    """Maximum question length in tokens."""

    max_answer_length: PositiveInt = option(100, only=MRC)
    """Maximum answer length in tokens."""

    doc_stride: PositiveInt = option(128, only=MRC)
    """Number of tokens between the starts of consecutive windows."""

    n_best_size: PositiveInt = option(20, only=MRC)
    """Number of n-best answers to write per question."""

    chunk_scheme: Literal["IO", "IOB", "IOE", "IOBES", "NONE"] = option("IOB", only=TAGGER)
    """Tagging scheme (IOB: IOB1 or IOB2; NONE: tags without prefixes, such as parts of speech)."""

    is_distributed: bool = option(False, no_effect="the launcher decides (fleetrun, launch.py)")
    use_fast_executor: bool = option(False, no_effect=_NO_EXECUTOR)
    num_iteration_per_drop_scope: int = option(10, no_effect=_NO_EXECUTOR)

    do_val: bool = True
    """Whether to evaluate on --dev_set."""

    do_test: bool = option(True, free=True)
    """Whether to predict --test_set and write --test_save."""

    use_multi_gpu_test: bool = option(False, no_effect=_DIVIDED)
    use_gpu_num_in_test: int = option(2, no_effect=_DIVIDED)
    metrics: bool = option(True, no_effect="the metric is always computed")

    shuffle: bool = True
    """Whether to shuffle the training set in each epoch."""

    for_cn: bool = option(True, no_effect="answers are compared by the rules of their language")
    enable_ce: bool = option(False, no_effect="it belonged to a test system of the official repository")

    # The official scripts do not have the following flags.

    recipe_devices: PositiveInt | None = option(None, free=True)
    """Number of devices that --batch_size was tuned for: a step's total batch is the product of both on any
    number of processes (default: the number of processes)."""

    auto_hyperparameters: bool = option(False, free=True)  # what it sets decides, and is recorded
    """Whether to choose --learning_rate, --layerwise_lr_decay and --epoch, unless given, from the sizes of
    model and training set."""

    select_on: str = MEAN
    """Criterion for the best checkpoint: the mean over languages, one language (such as en), or last for the
    final step."""

    official_compat: bool = option(True, only=MRC + TAGGER)
    """Whether labels, loss, windows and scores follow the official code; false is recommended for custom
    data."""

    split_han: bool = option(True, only=MRC)
    """Whether each Han character is a separate token, so that answers can end there; the default follows the
    model."""

    answer_rules: Literal["mlqa", "squad"] = option("mlqa", only=MRC)
    """Answer normalization for F1 and exact match: MLQA's, by language, or SQuAD v1.1's."""

    label_pieces: Literal["first", "leading", "all"] = option("first", only=TAGGER)
    """Subwords of a word that are labeled: the first that is not only a space (first), the first (leading),
    or all; the default follows the model."""

    def __post_init__(self) -> None:
        if self.use_fp16 and "amp" in self.on_command_line and self.amp != "fp16":
            raise UserError(f"--use_fp16 true (--amp fp16) contradicts --amp {self.amp}. Remove one")
        if self.use_fp16:
            self.amp = "fp16"
        super().__post_init__()

    @property
    def prediction(self) -> PredictionFlags:
        """The flags of evaluation and prediction."""
        batch_size = self.predict_batch_size or self.batch_size
        return PredictionFlags(batch_size, self.in_tokens, self.stall_ends_seconds)

    def check(self) -> None:
        """Check that no flags are missing or contradictory, before any file is read.

        Raises:
            UserError: a flag is missing, or flags contradict each other.
        """
        if not (self.do_train or self.do_val or self.do_test):
            raise UserError("nothing to do: --do_train, --do_val and --do_test are all false")
        missing = []
        if not (self.do_train or self.init_checkpoint):
            missing.append("missing --init_checkpoint with --do_train false: the fine-tuned model")
        needed = [("do_train", "train_set"), ("do_val", "dev_set"), ("do_test", "test_set")]
        for phase, data in needed:
            if getattr(self, phase) and not getattr(self, data):
                missing.append(f"missing --{data} with --{phase} true")
        if not self.initial_checkpoint and not self.piece_model_path:
            missing.append("missing --piece_model_path: the SentencePiece model (./configs/piece.model)")
        if not self.initial_checkpoint and not self.ernie_config_path:
            missing.append("missing --ernie_config_path: the model config (configs/base/ernie_config.json)")
        if missing:
            raise UserError("; ".join(missing))
        test_set = self.test_set or ""
        if self.do_test and test_set.count(",") != self.test_save.count(","):
            raise UserError("--test_set and --test_save require the same number of patterns")
        patterns = zip(test_set.split(","), self.test_save.split(","))
        if self.do_test and any(test.strip() and not save.strip() for test, save in patterns):
            raise UserError(f"--test_save {self.test_save}: empty name")


def log_ineffective_flags(options: Any) -> None:
    """Log each flag on the command line that has no effect, and why."""
    options_by_name = list_options(type(options))
    for name in options.on_command_line:
        marks = options_by_name[name].metadata
        if not is_used_by_command(options_by_name[name]):
            why = marks.get("no_effect") or f"only {', '.join(marks['only'])} uses it"
            logger.info("--%s has no effect: %s", name, why)
