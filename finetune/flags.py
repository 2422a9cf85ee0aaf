"""The flags of the fine-tuning commands. Reader processes import this file, so it does not import Paddle.

FinetuneFlags has every official flag with its type and default.
"""

import dataclasses
from dataclasses import dataclass

from finetune.report import check_recipe
from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, TAGGING
from utils.args import flag, free, unused
from utils.config import check_ranges
from utils.errors import UserError

STYLES = ("official", "paddlenlp")
TASKS = (CLASSIFICATION, TAGGING, QUESTION_ANSWERING, "retrieval")
# Values of --select_on beside the languages. LAST: the dev files are scored only at the end.
MEAN, LAST = "mean", "last"
_DIVIDED = "evaluation is always divided among the processes"
_NO_EXECUTOR = "there is no static-graph executor"


@dataclass
class TrainingFlags:
    """The flags that all commands share. `given` holds the names on the command line."""

    ernie_config_path: str | None = free(None, "ernie_config.json; default: the one beside the weights")
    init_checkpoint: str | None = free(None, "a step folder of ours: resume; an official one: its weights")
    init_pretraining_params: str | None = free(None, "pre-trained weights in any format of docs/convert.md")
    checkpoints: str = free("checkpoints", "folder for step_N, best and the results")
    learning_rate: float = flag(5e-5, "peak rate", "[0, )")
    weight_decay: float = flag(0.01, "decoupled decay; not on biases and layer norms", "[0, )")
    layerwise_lr_decay: float = flag(0.9, "d: layer i of L learns at rate x d^(L-i)", "(0, 1]")
    warmup_proportion: float = flag(0.1, "share of all steps; 0: a constant rate", "[0, 1]")
    save_steps: int = free(10000, "steps between checkpoints; there is one at the end too", "[1, )")
    validation_steps: int = flag(1000, "steps between evaluations, besides each epoch's end", "[1, )")
    skip_steps: int = free(10, "steps between two lines with the loss", "[1, )")
    train_set: str | None = free(None, "training file")
    vocab_path: str | None = free(None, "vocab.txt; default: from --piece_model_path or the weights")
    piece_model_path: str | None = free(None, "sentencepiece model; default: the one beside the weights")
    max_seq_len: int = flag(512, "longest input in tokens, special tokens included", "[8, 512]")
    batch_size: int = free(32, "per device and micro-batch; tokens with --in_tokens", "[1, )")
    random_seed: tuple[int, ...] | None = flag(None, "one seed, or several (1,2,3) run in turn; default: 1")
    use_cuda: bool = free(True, "use GPUs if there are any")
    do_train: bool = free(True, "train")
    # From here on, flags that the official scripts do not have.
    max_steps: int | None = flag(None, "optimizer steps after which the run ends", "[1, )")
    amp: str = flag("none", "mixed precision on GPU", choices=("none", "bf16", "fp16"))
    lr_schedule_style: str = flag("official", "after warm-up: 1-t/T, or straight to 0", choices=STYLES)
    recompute: bool = free(False, "recompute activations in the backward pass: less memory")
    paper: str | None = free(None, "show the paper's figures of a recipe: xnli_cross_lingual_transfer, ...")
    keep_checkpoints: int = free(2, "number of step_N folders that are kept; best is always kept", "[1, )")
    overwrite: bool = free(False, "start again: remove what a run left in --checkpoints")
    stall_ends_seconds: float = free(
        3600.0, "seconds; of several processes, one that reads or waits longer is ended; 0: never", "[0, )",
    )  # fmt: skip
    dtype: str = flag("float32", "of the weights; float64 is for checks", choices=("float32", "float64"))
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        check_recipe(self.paper)
        if not 0 <= min(self.seeds) <= max(self.seeds) < 2**63 or len(set(self.seeds)) < len(self.seeds):
            shown = ",".join(map(str, self.seeds))
            raise UserError(f"--random_seed {shown}: seeds must be from 0 to 2^63 - 1 and differ")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order in which they are run."""
        return self.random_seed or (1,)


@dataclass
class FinetuneFlags(TrainingFlags):
    """The flags of run_classifier.py, run_sequence_labeling.py and run_mrc.py."""

    is_classify: bool = unused(True, "the entry point decides the task")
    is_regression: bool = unused(False, "no task here is a regression")
    task_id: int = unused(0, "the model has no task embedding")
    epoch: int = flag(3, "passes over the training set", "[1, )")
    lr_scheduler: str = flag("linear_warmup_decay", "schedule", choices=("linear_warmup_decay", "noam_decay"))
    use_fp16: bool = free(False, "the same as --amp fp16")
    use_dynamic_loss_scaling: bool = flag(True, "fp16: the loss scale follows overflows")
    init_loss_scaling: float = flag(102400.0, "fp16: first loss scale", "[1, )")
    incr_every_n_steps: int = flag(100, "fp16: good steps before the scale grows", "[1, )")
    decr_every_n_nan_or_inf: int = flag(2, "fp16: overflows before it shrinks", "[1, )")
    incr_ratio: float = flag(2.0, "fp16: growth", "(1, )")
    decr_ratio: float = flag(0.8, "fp16: shrinkage", "(0, 1)")
    test_save: str = free("./checkpoints/test_result", "predictions; .<epoch>.<step> is appended")
    metric: str = unused("simple_accuracy", "the task decides the metric")
    verbose: bool = unused(False, "the log is always complete")
    tokenizer: str = unused("FullTokenizer", "there is one tokenizer")
    test_set: str | None = free(None, "for --do_test: patterns with %%s, comma between")
    dev_set: str | None = free(None, "patterns with %%s, comma between; the first selects the step")
    predict_batch_size: int | None = free(None, "for evaluation; default: batch_size", "[1, )")
    in_tokens: bool = flag(False, "batch_size counts tokens, padding included")
    do_lower_case: bool = unused(True, "the official tokenizer never lower-cases")
    label_map_config: str | None = free(None, "label_map.json: label -> id")
    lang_map_config: str | None = free(None, "lang_map.json: its keys replace %%s")
    num_labels: int = flag(2, "number of classes", "[1, )")
    diagnostic: str | None = unused(None, "give the file to --test_set")
    diagnostic_save: str | None = unused(None, "use --test_save")
    max_query_length: int = flag(64, "run_mrc: longest question in tokens", "[1, )")
    max_answer_length: int = flag(100, "run_mrc: longest answer in tokens", "[1, )")
    doc_stride: int = flag(128, "run_mrc: tokens between the starts of two windows", "[1, )")
    n_best_size: int = flag(20, "run_mrc: candidates that are written", "[1, )")
    chunk_scheme: str = flag(
        "IOB", "run_sequence_labeling: scheme; IOB: IOB1 or IOB2", choices=("IOB", "IOE", "IOBES")
    )
    is_distributed: bool = unused(False, "the launcher decides (fleetrun, launch.py)")
    use_fast_executor: bool = unused(False, _NO_EXECUTOR)
    num_iteration_per_drop_scope: int = unused(10, _NO_EXECUTOR)
    do_val: bool = flag(True, "evaluate on --dev_set")
    do_test: bool = free(True, "predict --test_set into --test_save")
    use_multi_gpu_test: bool = unused(False, _DIVIDED)
    use_gpu_num_in_test: int = unused(2, _DIVIDED)
    metrics: bool = unused(True, "the metric is always computed")
    shuffle: bool = flag(True, "a new order of the training set in each epoch")
    for_cn: bool = unused(True, "answers are compared by the rules of their language")
    enable_ce: bool = unused(False, "it belonged to a test system of the official repository")
    # From here on, flags that the official scripts do not have.
    gradient_accumulation_steps: int = free(1, "micro-batches per optimizer step and device", "[1, )")
    select_on: str = flag(MEAN, "select the step by the mean over languages or by one (en); or last")
    decay_style: str = flag("official", "decay at the full rate, or at each layer's", choices=STYLES)
    official_compat: bool = flag(False, "run_mrc, run_sequence_labeling: the official code's behaviour")
    split_han: bool = flag(True, "run_mrc: each Han character is a token, so an answer can end there")
    answer_rules: str = flag("mlqa", "run_mrc: how F1 and exact match compare", choices=("mlqa", "squad"))
    label_pieces: str = flag("first", "run_sequence_labeling: tagged pieces", choices=("first", "all"))

    def __post_init__(self) -> None:
        if self.use_fp16 and "amp" not in self.given:
            self.amp = "fp16"
        super().__post_init__()

    def check(self) -> None:
        """Refuse flags that do not go together, before any file is read."""
        if not (self.do_train or self.do_val or self.do_test):
            raise UserError("--do_train, --do_val and --do_test are all false: there is nothing to do")
        if not (self.do_train or self.init_checkpoint):
            raise UserError("--init_checkpoint is needed with --do_train false: the fine-tuned model")
        for asked, name in (("do_train", "train_set"), ("do_val", "dev_set"), ("do_test", "test_set")):
            if getattr(self, asked) and not getattr(self, name):
                raise UserError(f"--{name} is needed with --{asked} true")
        if self.do_test and self.test_set.count(",") != self.test_save.count(","):
            raise UserError("--test_set and --test_save must name the same number of patterns")
        if self.in_tokens and self.batch_size < self.max_seq_len:
            raise UserError(f"--batch_size {self.batch_size}: with --in_tokens at least --max_seq_len")


@dataclass
class RetrievalFlags(TrainingFlags):
    """The flags of run_retrieval.py: model and data, then the search, then training."""

    init_pretraining_params: str | None = free(
        None, "weights; default: random ones; %%d is replaced by the seed: checkpoints/seed_%%d/best"
    )
    init_task: str | None = free(None, f"refuse weights not fine-tuned for it: {', '.join(TASKS)}")
    init_checkpoint: str | None = free(None, "a step folder from which to continue (--do_train true)")

    pairs: str | None = free(
        None, "folder of <language>-en.<language>, .en, or tatoeba.<lan>-eng.<lan>, .eng"
    )
    languages: str | None = free(None, "codes of XTREME, separated by commas; default: all in the folder")
    layer: str = flag("middle", "a number, middle or top; sweep: a table of all layers")
    pooling: str = flag("mean", "specials: [CLS] and [SEP] too", choices=("mean", "specials", "pooled"))
    score: str = free(
        "cosine", "margin: the ratio to the mean of the 4 nearest neighbours", choices=("cosine", "margin")
    )

    untrained: bool = free(True, "search with random weights, too")

    do_train: bool = free(False, "fine-tune first, with hardest-negative binary cross-entropy")
    train_set: str | None = free(None, "corpus folder of pretrain.build_corpus; its parallel text is used")
    max_steps: int = flag(200_000, "number of training steps", "[1, )")
    batch_size: int = flag(32, "pairs of a step, over all processes; all others are negatives", "[2, )")
    weight_decay: float = flag(0.0, "decoupled decay", "[0, )")
    layerwise_lr_decay: float = flag(1.0, "layer i of L learns at rate x d^(L-i)", "(0, 1]")
    pair_alpha: float = flag(0.7, "language pairs are drawn in proportion to their size to this power")
    scale: float = flag(20.0, "the logit of a pair is scale x (cosine - offset)", "(0, )")
    offset: float = flag(0.5, "the cosine at which the probability of a translation is one half")
    validation_pairs: int = flag(500, "held-out pairs of each language pair; 0: no validation", "[0, )")

    def __post_init__(self) -> None:
        super().__post_init__()
        refusals = (
            (self.init_task not in (None, *TASKS), f"--init_task {self.init_task}: {', '.join(TASKS)}"),
            (self.layer == "sweep"
             and (self.do_train or len(self.seeds) > 1 or self.pooling == "pooled" or self.score != "cosine"),
             "--layer sweep searches with one seed and a mean of tokens, by cosine; train at one layer"),
            (not (self.do_train or self.pairs), "nothing to do: give --pairs, or --do_train true"),
            (self.do_train and not self.train_set,
             "--train_set is needed with --do_train true: a corpus of pretrain.build_corpus"),
            (self.init_checkpoint and not self.do_train,
             "--init_checkpoint resumes --do_train true; to search with it, name it with "
             "--init_pretraining_params"),
        )  # fmt: skip
        for wrong, message in refusals:
            if wrong:
                raise UserError(message)

    def of_seed(self, seed: int) -> "RetrievalFlags":
        """The flags of one seed, with the seed in the name of the weights."""
        weights = self.init_pretraining_params and self.init_pretraining_params.replace("%d", str(seed))
        return dataclasses.replace(self, random_seed=(seed,), init_pretraining_params=weights)
