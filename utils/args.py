"""The official command line: one parser for run_classifier.py, run_sequence_labeling.py and run_mrc.py.

Every official flag is here with its type and default; booleans are written `--flag true`. A flag that has no
meaning any more is accepted, and one line in the log says why. The flags of our own stand in the last group.
"""

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import yaml

from utils.errors import UserError
from utils.logging import logger
from utils.runtime import length_multiple


def boolean(text: str) -> bool:
    """`true`, `false` (any case), 1, 0, yes, no, as the official scripts write them."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"'{text}' is not true or false")
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
    """A string; an empty one is the same as not giving the flag, which takes back what a script gave."""
    return value or None


class Flag(NamedTuple):
    """One flag. `unused` says why it has no effect, where it has none."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    unused: str | None = None
    choices: tuple[str, ...] | None = None


SCHEDULES = ("linear_warmup_decay", "noam_decay")
STYLES = ("official", "paddlenlp")
DTYPES = ("float32", "float64")
PIECES = ("first", "all")
ANSWER_RULES = ("mlqa", "squad")
CHUNKS = ("IOB", "IOB1", "IOB2")
GROUPS: dict[str, list[Flag]] = {
    "model": [
        Flag("ernie_config_path", str, None, "ernie_config.json"),
        Flag("init_checkpoint", str, None, "a step folder of ours: resume; an official one: its weights"),
        Flag("init_pretraining_params", str, None, "pre-trained weights in any format of docs/convert.md"),
        Flag("checkpoints", str, "checkpoints", "folder for step_N, best and the results"),
        Flag("is_classify", bool, True, "", "the entry point decides the task"),
        Flag("is_regression", bool, False, "", "no task here is a regression"),
        Flag("task_id", int, 0, "", "the model has no task embedding"),
    ],
    "train": [
        Flag("epoch", int, 3, "passes over the training set"),
        Flag("learning_rate", float, 5e-5, "peak rate"),
        Flag("lr_scheduler", str, "linear_warmup_decay", "schedule", choices=SCHEDULES),
        Flag("weight_decay", float, 0.01, "decoupled decay; not on biases and layer norms"),
        Flag("layerwise_lr_decay", float, 0.9, "d: layer i of L learns at rate x d^(L-i)"),
        Flag("warmup_proportion", float, 0.1, "share of all steps; 0: a constant rate"),
        Flag("save_steps", int, 10000, "a checkpoint step_N so often, and at the end"),
        Flag("validation_steps", int, 1000, "evaluate so often, at each change of epoch, at the end"),
        Flag("use_fp16", bool, False, "the same as --amp fp16"),
        Flag("use_dynamic_loss_scaling", bool, True, "fp16: the loss scale follows overflows"),
        Flag("init_loss_scaling", float, 102400.0, "fp16: first loss scale"),
        Flag("incr_every_n_steps", int, 100, "fp16: good steps before the scale grows"),
        Flag("decr_every_n_nan_or_inf", int, 2, "fp16: overflows before it shrinks"),
        Flag("incr_ratio", float, 2.0, "fp16: growth"),
        Flag("decr_ratio", float, 0.8, "fp16: shrinkage"),
        Flag("test_save", str, "./checkpoints/test_result", "predictions; .<epoch>.<step> is appended"),
        Flag("metric", str, "simple_accuracy", "", "the task decides the metric"),
    ],
    "log": [
        Flag("skip_steps", int, 10, "log the loss every so many steps"),
        Flag("verbose", bool, False, "", "the log is always complete"),
    ],
    "data": [
        Flag("tokenizer", str, "FullTokenizer", "", "there is one tokenizer"),
        Flag("train_set", str, None, "training file"),
        Flag("test_set", str, None, "to predict with --do_test: patterns with %%s, comma between"),
        Flag("dev_set", str, None, "patterns with %%s, comma between; the first selects the step"),
        Flag("vocab_path", str, None, "vocab.txt; without it the vocabulary is derived as XLM-R does"),
        Flag("piece_model_path", str, None, "sentencepiece model"),
        Flag("max_seq_len", int, 512, "longest input in tokens, specials included; at most 512"),
        Flag("batch_size", int, 32, "per device and micro-batch; tokens with --in_tokens"),
        Flag("predict_batch_size", int, None, "for evaluation; default: batch_size"),
        Flag("in_tokens", bool, False, "batch_size counts tokens, padding included"),
        Flag("do_lower_case", bool, True, "", "the official tokenizer never lower-cases"),
        Flag("random_seed", integers, None, "one seed, or several (1,2,3) that are run in turn; default 1"),
        Flag("label_map_config", str, None, "label_map.json: label -> id"),
        Flag("lang_map_config", str, None, "lang_map.json: its keys take the place of %%s"),
        Flag("num_labels", int, 2, "number of classes"),
        Flag("diagnostic", str, None, "", "give the file to --test_set"),
        Flag("diagnostic_save", str, None, "", "use --test_save"),
        Flag("max_query_length", int, 64, "run_mrc: longest question in tokens"),
        Flag("max_answer_length", int, 100, "run_mrc: longest answer in tokens"),
        Flag("doc_stride", int, 128, "run_mrc: tokens between the starts of two windows"),
        Flag("n_best_size", int, 20, "run_mrc: candidates that are written"),
        Flag("chunk_scheme", str, "IOB", "run_sequence_labeling: of the tags; IOB: either", choices=CHUNKS),
    ],
    "run_type": [
        Flag("use_cuda", bool, True, "use GPUs where there are any"),
        Flag("is_distributed", bool, False, "", "the launcher decides (fleetrun, launch.py)"),
        Flag("use_fast_executor", bool, False, "", "there is no static-graph executor"),
        Flag("num_iteration_per_drop_scope", int, 10, "", "there is no static-graph executor"),
        Flag("do_train", bool, True, "train"),
        Flag("do_val", bool, True, "evaluate on --dev_set"),
        Flag("do_test", bool, True, "predict --test_set into --test_save"),
        Flag("use_multi_gpu_test", bool, False, "", "evaluation is always divided among the processes"),
        Flag("use_gpu_num_in_test", int, 2, "", "evaluation is always divided among the processes"),
        Flag("metrics", bool, True, "", "the metric is always computed"),
        Flag("shuffle", bool, True, "a new order of the training set in each epoch"),
        Flag("for_cn", bool, True, "", "answers are compared by the rules of their language"),
        Flag("enable_ce", bool, False, "", "it belonged to a test system of the official repository"),
    ],
    "beyond the official flags": [
        Flag("overwrite", bool, False, "begin anew: remove what a run left in --checkpoints"),
        Flag("max_steps", int, None, "end after so many optimiser steps; the schedule ends there too"),
        Flag("gradient_accumulation_steps", int, 1, "micro-batches per optimiser step and device"),
        Flag("amp", str, "none", "mixed precision on GPU", choices=("none", "bf16", "fp16")),
        Flag("pad_to_multiple_of", int, None, "of a batch's length; default: 8 with --amp, else 1"),
        Flag("select_on", str, "mean", "select the step by the mean over languages or by one (en); or last"),
        Flag("lr_schedule_style", str, "official", "after warm-up: 1-t/T, or straight to 0", choices=STYLES),
        Flag("decay_style", str, "official", "decay at the full rate, or at each layer's", choices=STYLES),
        Flag("recompute", bool, False, "recompute activations in the backward pass: less memory"),
        Flag("paper", str, None, "show the paper's figures of this recipe: xnli_cross_lingual_transfer, ..."),
        Flag("xtreme_save", str, None, "with --do_test: a folder for the predictions in XTREME's layout"),
        Flag("keep_checkpoints", int, 2, "the last so many step_N stay; best stays always"),
        Flag("dtype", str, "float32", "of the weights; float64 is for checks", choices=DTYPES),
        Flag("official_compat", bool, False, "run_mrc, run_sequence_labeling: the official code's behaviour"),
        Flag("split_han", bool, True, "run_mrc: each Han character is a token, so an answer can end there"),
        Flag("answer_rules", str, "mlqa", "run_mrc: how F1 and exact match compare", choices=ANSWER_RULES),
        Flag("gxlt_set", str, None, "run_mrc: evaluate contexts x questions; a pattern with two %%s"),
        Flag("label_pieces", str, "first", "run_sequence_labeling: which pieces are tagged", choices=PIECES),
    ],
}  # fmt: skip
# What may change when a run goes on: it decides nothing of what is learned. Files and weights are compared by
# their contents, batch_size and gradient_accumulation_steps by the number of examples in a step.
FREE = (
    "ernie_config_path", "init_checkpoint", "init_pretraining_params", "checkpoints", "overwrite",
    "save_steps", "keep_checkpoints", "skip_steps", "train_set", "dev_set", "test_set", "test_save",
    "xtreme_save", "do_train", "do_test", "vocab_path", "piece_model_path", "label_map_config",
    "lang_map_config", "batch_size", "gradient_accumulation_steps", "predict_batch_size", "use_cuda",
    "use_fp16", "recompute", "paper", "gxlt_set",
)  # fmt: skip
FLAGS = {flag.name: flag for flags in GROUPS.values() for flag in flags}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def make_parser(description: str = "") -> argparse.ArgumentParser:
    """The shared parser. Its namespace holds only flags that were given; `parse_args` fills in the rest."""
    parser = _Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            help_text = (
                f"no effect: {flag.unused}" if flag.unused else f"{flag.help} (default: {flag.default})"
            )
            of_type = {bool: boolean, str: text, float: number}.get(flag.type, flag.type)
            group.add_argument(f"--{flag.name}", type=of_type, choices=flag.choices, help=help_text)
    return parser


def parse_args(arguments: Sequence[str], description: str = "") -> argparse.Namespace:
    """The flags as a namespace with every name of `FLAGS`, and `given`, the names on the command line.

    Raises:
        UserError: an unknown flag (with the nearest known one), a value of the wrong type or out of range.
    """
    given, unknown = make_parser(description).parse_known_args(arguments)
    if unknown:
        raise UserError(_unknown(unknown[0]))
    args = argparse.Namespace(**{**{flag.name: flag.default for flag in FLAGS.values()}, **vars(given)})
    args.given = tuple(vars(given))
    if args.use_fp16 and "amp" not in args.given:
        args.amp = "fp16"
    if args.pad_to_multiple_of is None:
        args.pad_to_multiple_of = length_multiple(args.amp)
    _check_ranges(args)
    return args


def log_unused(args: argparse.Namespace) -> None:
    """One line for each flag that was given and has no meaning any more."""
    for name in args.given:
        if FLAGS[name].unused:
            logger.info("--%s has no effect: %s", name, FLAGS[name].unused)


def deciding(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that decide what is learned, as JSON values."""
    names = [name for name, flag in FLAGS.items() if not flag.unused and name not in FREE]
    return {name: list(value) if isinstance(value := getattr(args, name), tuple) else value for name in names}


def to_yaml(args: argparse.Namespace) -> str:
    """The resolved flags that have a meaning, as YAML, in the order of the groups."""
    values = {name: getattr(args, name) for name, flag in FLAGS.items() if not flag.unused}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def _unknown(argument: str) -> str:
    name = argument.split("=")[0].lstrip("-")
    if not argument.startswith("-"):
        return f"'{argument}' stands where a flag was expected; a flag is written --name value"
    near = difflib.get_close_matches(name, FLAGS, 1)
    return f"unknown flag --{name}" + (
        f"; did you mean --{near[0]}?" if near else " (--help lists the flags)"
    )


_AT_LEAST_1 = (
    "epoch", "save_steps", "validation_steps", "skip_steps", "batch_size", "predict_batch_size", "num_labels",
    "max_steps", "gradient_accumulation_steps", "keep_checkpoints", "max_query_length", "max_answer_length",
    "doc_stride", "n_best_size", "pad_to_multiple_of", "incr_every_n_steps", "decr_every_n_nan_or_inf",
    "init_loss_scaling",
)  # fmt: skip


def _check_ranges(args: argparse.Namespace) -> None:
    for name in _AT_LEAST_1:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: it must be at least 1")
    if not 8 <= args.max_seq_len <= 512:
        raise UserError(f"--max_seq_len {args.max_seq_len}: the position table has room for 8 to 512 tokens")
    if not 0 <= args.warmup_proportion <= 1:
        raise UserError(f"--warmup_proportion {args.warmup_proportion}: it is a share, between 0 and 1")
    if not 0 < args.layerwise_lr_decay <= 1:
        raise UserError(f"--layerwise_lr_decay {args.layerwise_lr_decay}: it must be above 0 and at most 1")
    for name in ("learning_rate", "weight_decay"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)}: it must not be negative")
    if args.random_seed is not None and (
        min(args.random_seed) < 0 or len(set(args.random_seed)) < len(args.random_seed)
    ):
        raise UserError(
            f"--random_seed {','.join(map(str, args.random_seed))}: seeds are not negative and differ"
        )
