"""The flags of the fine-tuning commands. Reader processes import this file, so it does not import Paddle.

FinetuneFlags has every official flag with its type and default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from ernie_m.finetune.score_tables import recipes
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, SEARCH, TOKEN_CLASSIFICATION
from ernie_m.utils.args import NonNegativeFloat, PositiveInt, Range, UnitInterval, is_read, option, options_of
from ernie_m.utils.errors import UserError, command_name
from ernie_m.utils.logging import logger

FINE_TUNED_TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, SEARCH)
# Values of --select_on beside the languages. LAST: the dev files are scored only at the end.
MEAN = "mean"
LAST = "last"
# The commands that read a flag, for `option(only=...)`. The --help of the others omits it.
MRC = ("run_mrc",)
TAGGER = ("run_sequence_labeling",)
CLASSIFIER = ("run_classifier",)
_DIVIDED = "evaluation is always divided among the processes"
_NO_EXECUTOR = "there is no static-graph executor"

AtLeastOne = Annotated[float, Range(at_least=1)]
Decay = Annotated[float, Range(above=0, at_most=1)]
SequenceLength = Annotated[int, Range(at_least=8, at_most=512)]

# A folder that the recipes read -> the parts of `ernie-m download data` that fill it.
_PARTS_OF_DATA = {
    "xnli": "xnli",
    "pawsx": "pawsx",
    "mlqa": "mlqa squad xquad",
    "panx": "panx",
    "conll": "conll",
}
_BY_HAND = ("panx", "conll")  # cannot be fetched


def _check_recipe_data(train_set: Path) -> None:
    """Raise a UserError if a training file lies in a recipe's folder, such as data/xnli, that is not there.

    If another file is missing, its reader says so.
    """
    folder = Path(*train_set.parts[:2])  # data/xnli of data/xnli/train/train.en.tsv
    parts = _PARTS_OF_DATA.get(folder.name)
    if folder.parent == Path("data") and parts and not folder.exists():
        verb = "says how to get" if parts in _BY_HAND else "fetches"
        raise UserError(f"{folder}: no such folder; {command_name()} download data {parts} {verb} the data")


@dataclass
class TrainingFlags:
    """The flags that all commands share.

    Attributes:
        beside_run: reports and predictions that the command leaves in --checkpoints: patterns of whole names.
    """

    beside_run: ClassVar[tuple[str, ...]]

    ernie_config_path: str | None = option(None, free=True)
    """The model's shape, ernie_config.json, whose other keys are not read. Default: the one beside the
    weights."""

    init_checkpoint: str | None = option(None, free=True)
    """A step folder of this project, to resume from, or an official checkpoint, for its weights."""

    init_pretraining_params: str | None = option(None, free=True, needed=True)
    """Weights in any format of docs/convert.md, with their head if it is of the same task and labels."""

    checkpoints: str = option("checkpoints", free=True, needed=True)
    """The folder for step_N, best and the results."""

    learning_rate: NonNegativeFloat = 5e-5
    """The peak learning rate."""

    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay. Biases and layer norms do not decay."""

    layerwise_lr_decay: Decay = 0.9
    """d: layer i of L learns at the rate times d^(L-i)."""

    warmup_proportion: UnitInterval = 0.1
    """The share of all steps in which the rate rises. 0: the rate is constant."""

    save_steps: PositiveInt = option(10000, free=True)
    """The number of steps between checkpoints. There is one at the end, too."""

    validation_steps: PositiveInt = 1000
    """The number of steps between evaluations. There is one at the end of each epoch, too."""

    skip_steps: PositiveInt = option(10, free=True)
    """The number of steps between two log lines with the loss."""

    train_set: str | None = option(None, free=True, needed=True)
    """The training file."""

    vocab_path: str | None = option(None, free=True)
    """vocab.txt. Default: made from --piece_model_path, or the one beside the weights."""

    piece_model_path: str | None = option(None, free=True)
    """The sentencepiece model. Default: the one beside the weights."""

    max_seq_len: SequenceLength = 512
    """The longest input in tokens, special tokens included. Default: 512, or less if the model has room for
    less."""

    batch_size: PositiveInt = option(32, free=True)
    """The sequences of a micro-batch on one device; with --in_tokens its tokens."""

    random_seed: tuple[int, ...] | None = None
    """One seed, or several (1,2,3) that are run in turn. Default: 1."""

    use_cuda: bool = option(True, free=True)
    """Whether to use GPUs if there are any."""

    do_train: bool = option(True, free=True)
    """Whether to train."""

    # From here on, flags that the official scripts do not have.

    max_steps: PositiveInt | None = None
    """The number of optimizer steps after which the run ends."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Half precision: bf16 on a GPU from A100 on, or on a CPU with avx512_bf16 or AMX; fp16 on a GPU."""

    kernels: Literal["fast", "plain"] = option("fast", free=True)
    """plain: Paddle's own operations alone, to see whether a faster one is at fault. On a CPU they compute
    what a GPU computes, FlashMask and mixed precision aside."""

    lr_schedule_style: Literal["official", "paddlenlp"] = "official"
    """After the warm-up the rate is the peak times 1 - t/T (official), or falls straight to 0 (paddlenlp)."""

    recompute: bool = option(False, free=True)
    """Whether the backward pass recomputes activations, which saves memory."""

    paper: str | None = option(None, free=True)
    """The recipe whose figures in the paper the report shows: xnli_cross_lingual_transfer, ..."""

    keep_checkpoints: PositiveInt = option(2, free=True)
    """The number of step_N folders that are kept. best is always kept."""

    overwrite: bool = option(False, free=True)
    """Whether to start again: removes what a run left in --checkpoints."""

    stall_ends_seconds: NonNegativeFloat = option(3600.0, free=True)
    """Of several processes, one that reads or waits longer than this is ended. 0: never."""

    dtype: Literal["float32", "float64"] = "float32"
    """The type of the weights. float64 is for checks."""

    on_command_line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.paper is not None and self.paper not in recipes():
            raise UserError(
                f"--paper {self.paper}: the paper has no such recipe; it has {', '.join(recipes())}"
            )
        have_equal = len(set(self.seeds)) < len(self.seeds)
        if have_equal or min(self.seeds) < 0 or max(self.seeds) >= 2**63:
            seeds = ",".join(map(str, self.seeds))
            raise UserError(f"--random_seed {seeds}: seeds must be from 0 to 2^63 - 1 and differ")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order in which they are run."""
        return self.random_seed or (1,)

    @property
    def start(self) -> str | None:
        """The weights that the run begins with; None: random ones."""
        return self.init_checkpoint or self.init_pretraining_params

    @property
    def named_files(self) -> tuple[str | None, str | None, str | None]:
        """Shape, vocabulary and sentencepiece model of `open_model`; None: the file beside the weights."""
        return self.ernie_config_path, self.vocab_path, self.piece_model_path


class PredictionFlags(NamedTuple):
    """What evaluations and predictions of whole files take of the flags.

    Attributes:
        batch_size: items of a process, or with `in_tokens` padded tokens.
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
    """Whether labels are numbers to predict, by mean squared error, as in STS-B."""

    task_id: int = option(0, no_effect="the model has no task embedding")

    epoch: PositiveInt = 3
    """The number of passes over the training set."""

    lr_scheduler: Literal["linear_warmup_decay", "noam_decay"] = "linear_warmup_decay"
    """The schedule of the learning rate."""

    use_fp16: bool = option(False, free=True)
    """The same as --amp fp16."""

    use_dynamic_loss_scaling: bool = True
    """fp16: whether the loss scale follows the overflows."""

    init_loss_scaling: AtLeastOne = 102400.0
    """fp16: the first loss scale."""

    incr_every_n_steps: PositiveInt = 100
    """fp16: the number of steps without overflow before the loss scale grows."""

    decr_every_n_nan_or_inf: PositiveInt = 2
    """fp16: the number of overflows before the loss scale shrinks."""

    incr_ratio: Annotated[float, Range(above=1)] = 2.0
    """fp16: the factor by which the loss scale grows."""

    decr_ratio: Annotated[float, Range(above=0, below=1)] = 0.8
    """fp16: the factor by which the loss scale shrinks."""

    test_save: str = option("./checkpoints/test_result", free=True)
    """The files for predictions, one pattern for each of --test_set. .<epoch>.<step> is appended."""

    metric: str = option("simple_accuracy", no_effect="the task decides the metric")
    verbose: bool = option(False, no_effect="the log is always complete")
    tokenizer: str = option("FullTokenizer", no_effect="there is one tokenizer")

    test_set: str | None = option(None, free=True)
    """The files for --do_test: patterns with %s, separated by commas."""

    dev_set: str | None = option(None, free=True)
    """The files for --do_val: patterns with %s, separated by commas. The first pattern selects the step."""

    predict_batch_size: PositiveInt | None = option(None, free=True)
    """The batch size of evaluations. Default: --batch_size."""

    in_tokens: bool = False
    """Whether --batch_size counts tokens, padding included."""

    do_lower_case: bool = option(True, no_effect="the official tokenizer never lower-cases")

    label_map_config: str | None = option(None, free=True)
    """label_map.json: label -> id. Default: the labels of --init_checkpoint, or else the data has ids."""

    lang_map_config: str | None = option(None, free=True)
    """lang_map.json: its keys replace %s."""

    num_labels: PositiveInt = 2
    """The number of classes. Default: that of --init_checkpoint, or else 2."""

    diagnostic: str | None = option(None, no_effect="give the file to --test_set")
    diagnostic_save: str | None = option(None, no_effect="use --test_save")

    max_query_length: PositiveInt = option(64, only=MRC)
    """The longest question in tokens."""

    max_answer_length: PositiveInt = option(100, only=MRC)
    """The longest answer in tokens."""

    doc_stride: PositiveInt = option(128, only=MRC)
    """The number of tokens between the starts of two windows."""

    n_best_size: PositiveInt = option(20, only=MRC)
    """The number of candidates that are written."""

    chunk_scheme: Literal["IO", "IOB", "IOE", "IOBES", "NONE"] = option("IOB", only=TAGGER)
    """The scheme of the tags. IOB is IOB1 or IOB2; NONE: tags without B- and I-, such as parts of speech."""

    is_distributed: bool = option(False, no_effect="the launcher decides (fleetrun, launch.py)")
    use_fast_executor: bool = option(False, no_effect=_NO_EXECUTOR)
    num_iteration_per_drop_scope: int = option(10, no_effect=_NO_EXECUTOR)

    do_val: bool = True
    """Whether to evaluate on --dev_set."""

    do_test: bool = option(True, free=True)
    """Whether to predict --test_set into --test_save."""

    use_multi_gpu_test: bool = option(False, no_effect=_DIVIDED)
    use_gpu_num_in_test: int = option(2, no_effect=_DIVIDED)
    metrics: bool = option(True, no_effect="the metric is always computed")

    shuffle: bool = True
    """Whether each epoch has a new order of the training set."""

    for_cn: bool = option(True, no_effect="answers are compared by the rules of their language")
    enable_ce: bool = option(False, no_effect="it belonged to a test system of the official repository")

    # From here on, flags that the official scripts do not have.

    recipe_devices: PositiveInt | None = option(None, free=True)
    """The number of devices for which --batch_size was chosen. A step then has the product of both, on any
    number of processes. Default: the number of processes."""

    rates_of_start: bool = option(False, free=True)  # what it sets decides, and is recorded
    """Whether --learning_rate, --layerwise_lr_decay and --epoch, unless they are given, are those that suit
    the size of the start and the number of rows (`ernie_m.finetune.run_setup`)."""

    select_on: str = MEAN
    """What selects the best step: the mean over the languages, one language (en), or last, the last step."""

    official_compat: bool = option(True, only=MRC + TAGGER)
    """Whether labels, loss, windows and scores are those of the official code, as for the paper's figures.
    false is better for data of your own."""

    split_han: bool = option(True, only=MRC)
    """Whether each Han character is a token, so that an answer can end there. Default: as the weights
    read."""

    answer_rules: Literal["mlqa", "squad"] = option("mlqa", only=MRC)
    """The rules by which F1 and exact match compare answers."""

    label_pieces: Literal["first", "leading", "all"] = option("first", only=TAGGER)
    """Which pieces of a word are tagged: the first that is no space alone, the leading one whatever it is, or
    all. Default: as the weights read."""

    def __post_init__(self) -> None:
        if self.use_fp16 and "amp" in self.on_command_line and self.amp != "fp16":
            raise UserError(
                f"--use_fp16 true is --amp fp16, and --amp {self.amp} is there, too; leave one out"
            )
        if self.use_fp16:
            self.amp = "fp16"
        super().__post_init__()

    @property
    def prediction(self) -> PredictionFlags:
        """How files are evaluated and predicted."""
        batch_size = self.predict_batch_size or self.batch_size
        return PredictionFlags(batch_size, self.in_tokens, self.stall_ends_seconds)

    def check(self) -> None:
        """Refuse flags that are missing or do not go together, before any file is read."""
        if not (self.do_train or self.do_val or self.do_test):
            raise UserError("--do_train, --do_val and --do_test are all false: there is nothing to do")
        missing = []
        if not (self.do_train or self.init_checkpoint):
            missing.append("--init_checkpoint is needed with --do_train false: the fine-tuned model")
        needed = [("do_train", "train_set"), ("do_val", "dev_set"), ("do_test", "test_set")]
        for phase, data in needed:
            if getattr(self, phase) and not getattr(self, data):
                missing.append(f"--{data} is needed with --{phase} true")
        if not self.start and not self.piece_model_path:
            missing.append("--piece_model_path is needed: the sentencepiece model (./configs/piece.model)")
        if not self.start and not self.ernie_config_path:
            missing.append("--ernie_config_path is needed: its shape (configs/base/ernie_config.json)")
        if missing:
            raise UserError("; ".join(missing))
        if self.do_train and self.train_set:
            _check_recipe_data(Path(self.train_set))
        test_set = self.test_set or ""
        if self.do_test and test_set.count(",") != self.test_save.count(","):
            raise UserError("--test_set and --test_save must name the same number of patterns")
        patterns = zip(test_set.split(","), self.test_save.split(","))
        if self.do_test and any(test.strip() and not save.strip() for test, save in patterns):
            raise UserError(f"--test_save {self.test_save}: one of its names is empty")


def log_ineffective_flags(options: Any) -> None:
    """Log one line for each flag on the command line that has no effect."""
    options_by_name = options_of(type(options))
    for name in options.on_command_line:
        marks = options_by_name[name].metadata
        if marks.get("no_effect") or not is_read(options_by_name[name]):
            why = marks.get("no_effect") or f"it is for {', '.join(marks['only'])}"
            logger.info("--%s has no effect: %s", name, why)
