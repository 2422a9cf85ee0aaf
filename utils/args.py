"""The official command line of run_classifier.py, run_sequence_labeling.py and run_mrc.py.

Every official flag is here with its type and default. Values are written as for the official scripts
(`--do_train 1`, `--random_seed 1,2`, `--test_set ""`). jsonargparse refuses these, so argparse reads them.
"""

import argparse
import dataclasses
import difflib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml

from utils.config import check_ranges
from utils.errors import UserError
from utils.logging import logger


def boolean(text: str) -> bool:
    """`true`, `t`, `1`, `yes`, or `false`, `f`, `0`, `no`, in any case.

    The official code takes any other value as false, also a mistyped `ture`. Here it is refused.
    """
    known = {
        **dict.fromkeys(("true", "t", "1", "yes"), True),
        **dict.fromkeys(("false", "f", "0", "no"), False),
    }
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false (also t, 1, yes, f, 0, no)")
    return known[text.lower()]


def integers(text: str) -> tuple[int, ...]:
    """`1` or `1,2,3`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or a list like 1,2,3") from None


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number")
    return value


def text(value: str) -> str | None:
    """A string. An empty one is None, which undoes a flag that a script has given."""
    return value or None


def flag(default: Any, help: str, interval: str | None = None, choices: tuple[str, ...] | None = None) -> Any:
    metadata = {"help": help, "interval": interval, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def unused(default: Any, why: str) -> Any:
    """A flag that is accepted without effect; the log says why."""
    return dataclasses.field(default=default, metadata={"unused": why})


SCHEDULES = ("linear_warmup_decay", "noam_decay")
CHUNKS, PIECES = ("IOB", "IOB1", "IOB2", "IOE", "IOBES"), ("first", "all")
STYLES = ("official", "paddlenlp")
_DIVIDED = "evaluation is always divided among the processes"
_NO_EXECUTOR = "there is no static-graph executor"


@dataclasses.dataclass
class FinetuneFlags:
    """The flags, with their defaults, help and ranges. `given` holds the names on the command line."""

    ernie_config_path: str | None = flag(None, "ernie_config.json")
    init_checkpoint: str | None = flag(None, "a step folder of ours: resume; an official one: its weights")
    init_pretraining_params: str | None = flag(None, "pre-trained weights in any format of docs/convert.md")
    checkpoints: str = flag("checkpoints", "folder for step_N, best and the results")
    is_classify: bool = unused(True, "the entry point decides the task")
    is_regression: bool = unused(False, "no task here is a regression")
    task_id: int = unused(0, "the model has no task embedding")

    epoch: int = flag(3, "passes over the training set", "[1, )")
    learning_rate: float = flag(5e-5, "peak rate", "[0, )")
    lr_scheduler: str = flag("linear_warmup_decay", "schedule", choices=("linear_warmup_decay", "noam_decay"))
    weight_decay: float = flag(0.01, "decoupled decay; not on biases and layer norms", "[0, )")
    layerwise_lr_decay: float = flag(0.9, "d: layer i of L learns at rate x d^(L-i)", "(0, 1]")
    warmup_proportion: float = flag(0.1, "share of all steps; 0: a constant rate", "[0, 1]")
    save_steps: int = flag(10000, "steps between checkpoints; there is one at the end too", "[1, )")
    validation_steps: int = flag(1000, "steps between evaluations, besides each epoch's end", "[1, )")
    use_fp16: bool = flag(False, "the same as --amp fp16")
    use_dynamic_loss_scaling: bool = flag(True, "fp16: the loss scale follows overflows")
    init_loss_scaling: float = flag(102400.0, "fp16: first loss scale", "[1, )")
    incr_every_n_steps: int = flag(100, "fp16: good steps before the scale grows", "[1, )")
    decr_every_n_nan_or_inf: int = flag(2, "fp16: overflows before it shrinks", "[1, )")
    incr_ratio: float = flag(2.0, "fp16: growth")
    decr_ratio: float = flag(0.8, "fp16: shrinkage")
    test_save: str | None = flag("./checkpoints/test_result", "predictions; .<epoch>.<step> is appended")
    metric: str = unused("simple_accuracy", "the task decides the metric")

    skip_steps: int = flag(10, "steps between two lines with the loss", "[1, )")
    verbose: bool = unused(False, "the log is always complete")

    tokenizer: str = unused("FullTokenizer", "there is one tokenizer")
    train_set: str | None = flag(None, "training file")
    test_set: str | None = flag(None, "for --do_test: patterns with %%s, comma between")
    dev_set: str | None = flag(None, "patterns with %%s, comma between; the first selects the step")
    vocab_path: str | None = flag(None, "vocab.txt; default: derived from the pieces as XLM-R does")
    piece_model_path: str | None = flag(None, "sentencepiece model")
    max_seq_len: int = flag(512, "longest input in tokens, special tokens included", "[8, 512]")
    batch_size: int = flag(32, "per device and micro-batch; tokens with --in_tokens", "[1, )")
    predict_batch_size: int | None = flag(None, "for evaluation; default: batch_size", "[1, )")
    in_tokens: bool = flag(False, "batch_size counts tokens, padding included")
    do_lower_case: bool = unused(True, "the official tokenizer never lower-cases")
    random_seed: tuple[int, ...] | None = flag(None, "one seed, or several (1,2,3) run in turn; default: 1")
    label_map_config: str | None = flag(None, "label_map.json: label -> id")
    lang_map_config: str | None = flag(None, "lang_map.json: its keys replace %%s")
    num_labels: int = flag(2, "number of classes", "[1, )")
    diagnostic: str | None = unused(None, "give the file to --test_set")
    diagnostic_save: str | None = unused(None, "use --test_save")
    max_query_length: int = flag(64, "run_mrc: longest question in tokens", "[1, )")
    max_answer_length: int = flag(100, "run_mrc: longest answer in tokens", "[1, )")
    doc_stride: int = flag(128, "run_mrc: tokens between the starts of two windows", "[1, )")
    n_best_size: int = flag(20, "run_mrc: candidates that are written", "[1, )")
    chunk_scheme: str = flag("IOB", "run_sequence_labeling: scheme; IOB: IOB1 or IOB2", choices=CHUNKS)

    use_cuda: bool = flag(True, "use GPUs if there are any")
    is_distributed: bool = unused(False, "the launcher decides (fleetrun, launch.py)")
    use_fast_executor: bool = unused(False, _NO_EXECUTOR)
    num_iteration_per_drop_scope: int = unused(10, _NO_EXECUTOR)
    do_train: bool = flag(True, "train")
    do_val: bool = flag(True, "evaluate on --dev_set")
    do_test: bool = flag(True, "predict --test_set into --test_save")
    use_multi_gpu_test: bool = unused(False, _DIVIDED)
    use_gpu_num_in_test: int = unused(2, _DIVIDED)
    metrics: bool = unused(True, "the metric is always computed")
    shuffle: bool = flag(True, "a new order of the training set in each epoch")
    for_cn: bool = unused(True, "answers are compared by the rules of their language")
    enable_ce: bool = unused(False, "it belonged to a test system of the official repository")

    # Flags that the official scripts do not have.
    overwrite: bool = flag(False, "start again: remove what a run left in --checkpoints")
    max_steps: int | None = flag(None, "optimizer steps after which the run ends", "[1, )")
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step and device", "[1, )")
    amp: str = flag("none", "mixed precision on GPU", choices=("none", "bf16", "fp16"))
    select_on: str = flag("mean", "select the step by the mean over languages or by one (en); or last")
    lr_schedule_style: str = flag("official", "after warm-up: 1-t/T, or straight to 0", choices=STYLES)
    decay_style: str = flag("official", "decay at the full rate, or at each layer's", choices=STYLES)
    recompute: bool = flag(False, "recompute activations in the backward pass: less memory")
    paper: str | None = flag(None, "show the paper's figures of a recipe: xnli_cross_lingual_transfer, ...")
    xtreme_save: str | None = flag(None, "with --do_test: a folder for the predictions in XTREME's layout")
    keep_checkpoints: int = flag(2, "number of step_N folders that are kept; best is always kept", "[1, )")
    stall_ends_seconds: float = flag(
        3600.0, "several processes: end one that waits longer in a step, evaluation or checkpoint; 0: never",
        "[0, )",
    )  # fmt: skip
    dtype: str = flag("float32", "of the weights; float64 is for checks", choices=("float32", "float64"))
    official_compat: bool = flag(False, "run_mrc, run_sequence_labeling: the official code's behaviour")
    split_han: bool = flag(True, "run_mrc: each Han character is a token, so an answer can end there")
    answer_rules: str = flag("mlqa", "run_mrc: how F1 and exact match compare", choices=("mlqa", "squad"))
    gxlt_set: str | None = flag(None, "run_mrc: evaluate contexts x questions; a pattern with two %%s")
    label_pieces: str = flag("first", "run_sequence_labeling: tagged pieces", choices=PIECES)
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.use_fp16 and "amp" not in self.given:
            self.amp = "fp16"
        check_ranges(self)
        seeds = self.random_seed or (1,)
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise UserError(f"--random_seed {','.join(map(str, seeds))}: seeds are not negative and differ")


FLAGS = {field.name: field for field in dataclasses.fields(FinetuneFlags) if field.name != "given"}
# These may change when a run is resumed, because they do not decide what is learned. Files and weights are
# compared by contents; batch_size and gradient_accumulation_steps by the number of examples in a step.
FREE = (
    "ernie_config_path", "init_checkpoint", "init_pretraining_params", "checkpoints", "overwrite",
    "save_steps", "keep_checkpoints", "skip_steps", "train_set", "dev_set", "test_set", "test_save",
    "xtreme_save", "do_train", "do_test", "vocab_path", "piece_model_path", "label_map_config",
    "lang_map_config", "batch_size", "gradient_accumulation_steps", "predict_batch_size", "use_cuda",
    "use_fp16", "recompute", "paper", "gxlt_set", "stall_ends_seconds",
)  # fmt: skip
_READERS = {bool: boolean, str: text, float: number, int: int, tuple[int, ...]: integers}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def parse_args(arguments: Sequence[str], description: str = "") -> FinetuneFlags:
    """Read the flags of a command line.

    Raises:
        UserError: an unknown flag (with the nearest known one), a value of the wrong type or out of range.
    """
    parser = _Parser(
        description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for name, field in FLAGS.items():
        unused, optional = field.metadata.get("unused"), type(None) in get_args(field.type)
        reader = _READERS[get_args(field.type)[0] if optional else field.type]
        shown = f"no effect: {unused}" if unused else f"{field.metadata['help']} (default: {field.default})"
        scripts, script = shown.split(":")[0], Path(sys.argv[0]).stem
        if script.startswith("run_") and scripts.startswith("run_") and script not in scripts:
            shown = argparse.SUPPRESS  # of another task
        # The official --enable_ce has no value.
        bare = {"nargs": "?", "const": True} if name == "enable_ce" else {}
        parser.add_argument(
            f"--{name}", type=reader, choices=field.metadata.get("choices"), help=shown, **bare
        )
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UserError(_unknown(unknown[0]))
    return FinetuneFlags(**vars(values), given=tuple(vars(values)))


def _unknown(argument: str) -> str:
    name = argument.split("=")[0].lstrip("-")
    if not argument.startswith("-"):
        return f"'{argument}' is where a flag was expected; a flag is written --name value"
    near = difflib.get_close_matches(name, FLAGS, 1)
    return f"unknown flag --{name}" + (
        f"; did you mean --{near[0]}?" if near else " (--help lists the flags)"
    )


def log_unused(args: FinetuneFlags) -> None:
    """Log one line for each given flag that has no effect."""
    for name in args.given:
        if unused := FLAGS[name].metadata.get("unused"):
            logger.info("--%s has no effect: %s", name, unused)


def deciding(args: FinetuneFlags) -> dict[str, Any]:
    """The flags that decide what is learned, as JSON values."""
    return {name: value for name, value in _effective(args).items() if name not in FREE}


def to_yaml(args: FinetuneFlags) -> str:
    """The resolved flags that have an effect, as YAML."""
    return yaml.safe_dump(_effective(args), sort_keys=False, allow_unicode=True, width=110)


def _effective(args: FinetuneFlags) -> dict[str, Any]:
    values = {name: getattr(args, name) for name, field in FLAGS.items() if "unused" not in field.metadata}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
