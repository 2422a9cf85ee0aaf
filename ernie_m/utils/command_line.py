"""Command lines: their flags, `--help`, and the form of the official scripts.

That form is `--do_train 1 --random_seed 1,2`, and `parse_args` fills a dataclass of options
(ernie_m/utils/options.py) from it. An empty value, as in `--test_set ""`, undoes a flag. The other commands
also read YAML files: ernie_m/utils/load_config.py.
"""

import difflib
import inspect
import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_origin

from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError, pipe_may_close, say
from ernie_m.utils.logging import logger
from ernie_m.utils.options import Option, explanations, options_of, sections_of

T = TypeVar("T")
HELP_WIDTH = 110  # characters
VERSION = f"ERNIE-M {__version__}"
# How the official scripts write booleans. The official code takes any other text for false, also a mistyped
# `ture`; here it is refused.
OFFICIAL_BOOLEANS = {
    **dict.fromkeys(("true", "t", "1", "yes"), True),
    **dict.fromkeys(("false", "f", "0", "no"), False),
}


def command_name() -> str:
    """How this shell starts `ernie-m`."""
    beside = str(Path(sys.executable).with_name("ernie-m"))  # in a checkout it is not on the PATH
    if shutil.which("ernie-m") or not os.path.exists(beside):
        return "ernie-m"
    return min(os.path.relpath(beside), beside, key=len)  # the shorter one


def parse_args(cls: type[T], arguments: Sequence[str], description: str = "") -> T:
    """Make a dataclass from flags in the form of the official scripts.

    Its field `on_command_line` receives the names of the flags, without those that an empty value undoes.

    Raises:
        UserError: a flag is unknown, or a value is not accepted. `__post_init__` may raise others.
    """
    exit_after_help(arguments, cls, "[--flag VALUE]", description)
    options = options_of(cls)
    text_of = dict(read_flags(arguments, options))  # if a flag is given twice, its last text counts
    values: dict[str, Any] = {}
    for name, text in text_of.items():
        option = options[name]
        if text:  # an empty value undoes the flag
            values[name] = option.accept(official_form(option, text), f"--{name} {text}")
    return cls(**values, on_command_line=tuple(values))


def command_words() -> list[str]:
    """The words that started this process: python run_mrc.py ..., or ernie-m run_mrc ..."""
    starter = "python" if sys.argv[0].endswith(".py") else "ernie-m"
    return [starter, *sys.argv]


def without_overridden(arguments: Sequence[str]) -> str:
    """A command line in the form of the official scripts, without the flags that a later one overrides.

    The recipes give every flag, and what a user adds overrides some of them.

    Args:
        arguments: the script and its flags, which `parse_args` has accepted.
    """
    words_of: dict[str, list[str]] = {"": []}  # flag -> its words; "": the script
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name = word.partition("=")[0]
            words_of[name] = []  # those of an earlier flag of this name are dropped
        words_of[name].append(word)
    return shlex.join(chain.from_iterable(words_of.values()))


def exit_after_help(arguments: Sequence[str], cls: type, form: str, description: str) -> None:
    """Print what --version, --help or -h asks for, and end the program; without them do nothing."""
    answer = ""
    if "--version" in arguments:
        answer = VERSION
    elif "--help" in arguments or "-h" in arguments:
        answer = help_text(cls, form, description)
    if answer:
        with pipe_may_close():
            say(answer)
        sys.exit(0)


def read_flags(
    arguments: Sequence[str], options: Mapping[str, Option], sections: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Split a command line into flags and their texts, in their order.

    Raises:
        UserError: a word is no flag, or a flag is unknown or has no value.
    """
    flags: list[tuple[str, str]] = []
    # The positional options that have no value yet, in their order.
    without_value = [option for option in options.values() if option.positional]
    has_positional = bool(without_value)
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):  # the value of a positional option
            if not without_value:
                raise UserError(f"'{word}' is where a flag was expected; a flag is written --name value")
            flags.append((without_value[0].key, word))
            if not takes_many_words(without_value[0]):
                without_value.pop(0)
            continue
        name, equals_sign, text = word.removeprefix("--").partition("=")
        if name in sections:
            raise UserError(f"--{name}: it is a section; give its keys (--{name}.key)")
        if name not in options:
            advice = advice_on(name, options, dashes="--") or "--help lists the flags"
            raise UserError(f"unknown flag {word.partition('=')[0]}; {advice}")
        if not equals_sign:
            if options[name].bare and has_positional:  # another word may be the value of a positional option
                has_value = bool(words) and words[0] in ("true", "false")
            else:
                has_value = bool(words) and not words[0].startswith("--")
            if has_value:
                text = words.pop(0)
            elif options[name].bare:
                text = "true"
            else:
                raise UserError(f"--{name} has no value; a flag is written --name value")
        flags.append((name, text))
    return flags


def takes_many_words(option: Option) -> bool:
    """Whether all words without a flag that are left are the items of an option."""
    return option.positional and get_origin(option.kind) is list


def positional_form(option: Option) -> str:
    """A positional option in the first line of --help: "FROM", or "[FILES ...]" if it may be left out."""
    form = f"{option.flag} ..." if takes_many_words(option) else option.flag
    return form if option.default is MISSING else f"[{form}]"


_SAME_PART = 5  # how alike names are whose last parts are equal; more than any others
# Flags and keys that have gone -> what takes their place.
GONE = {
    "batch_tokens": "--max_batch_tokens of predict --serve",
    "check_sentences": "predictions with --engine onnx, and without",
    "check_set": "predictions with --engine onnx, and without",
    "dev_pairs": "--pairs",
    "dev_share": "a file of --dev_set, or ernie-m fit, which holds rows out",
    "ernie_config_path": "the folder of --model, which has its config.json",
    "formats": "--format paddle or onnx",
    "gold": "--threshold, by the scores in scores.tsv",
    "gxlt_set": "--test_set, for each file",
    "head_start": "--init.word_table",
    "init.head_start": "--init.word_table",
    "int8": "--format onnx, or --amp bf16",
    "keep_rest": "--drop_unknown",
    "label_map_config": "the folder of --model, which has its labels",
    "link": "nothing: the folder holds the encoder, too",
    "margin": "its default, ratio",
    "mask_rate": "its default, as in the paper",
    "max_seq_len": "what the folder says, or the whole text",
    "max_tokens": "text that is chosen before",
    "min_tokens": "text that is chosen before",
    "min_score": '--only "COLUMN>=SCORE"',
    "multi_label": "ernie-m fit --task labels",
    "near_duplicates": "--deduplicate, or vectors as in docs/recipes.md",
    "neighbours": "its default, 4",
    "objectives.monolingual_share": "--objectives.shares",
    "data.parallel_share": "--objectives.shares",
    "piece_model_path": "the folder of --model, which has its vocabulary",
    "print_config": "config.yaml in the folder of a run",
    "ray": "the texts in several files",
    "reduce_range": "--format onnx, or --amp bf16",
    "retrieval": "its default, max",
    "score_column": "--only",
    "show_pairs": "nothing: pairs of every two languages are shown",
    "skip_bad_utf8": "--encoding",
    "src_file": "--pairs",
    "teacher": "--loss softmax with given negatives (--mine_negatives)",
    "tgt_file": "--pairs",
    "threads": "the variable OMP_NUM_THREADS",
    "tsv_columns": "--columns",
    "use_cuda": "the variable CUDA_VISIBLE_DEVICES, empty for the CPU",
    "vocab_path": "the folder of --model, which has its vocabulary",
    "with_apt": "ernie-m get public_text, without it",
    "xtreme_save": "--test_save",
}


def advice_on(name: str, known: Iterable[str], dashes: str = "") -> str:
    """What to give in place of an unknown name: what has taken its place, or the known name most like it.

    Args:
        dashes: what stands before a name.

    Returns:
        "" if there is neither.
    """
    score_of = {key: _similarity(name, key) for key in known}
    nearest = max(score_of, key=score_of.__getitem__)
    if name in GONE and score_of[nearest] < _SAME_PART:  # a name without its section has not gone
        return f"it has gone; instead: {GONE[name]}"
    return f"did you mean {dashes}{nearest}?" if score_of[nearest] > 0 else ""


def _similarity(name: str, key: str) -> float:
    """How much an unknown key is like a known one, first by their last parts; 0: not at all."""
    section, _, part = name.rpartition(".")
    key_section, _, key_part = key.rpartition(".")
    if part == key_part:
        return _SAME_PART
    is_shorter = f"_{key_part}".endswith(f"_{part}")  # "rate" for "learning_rate"
    is_longer = f"_{part}".endswith(f"_{key_part}")  # "max_steps" for "steps"
    are_initials = part == "".join(word[:1] for word in key_part.split("_"))  # "lr" for "learning_rate"
    if is_shorter or is_longer or are_initials:
        score = 2.0
    else:
        score = difflib.SequenceMatcher(None, part, key_part).ratio()
    if score < 0.6:  # most pairs of words have some letters in common
        return 0
    return score + 2 if section == key_section else score


def official_form(option: Option, text: str) -> Any:
    """The value of a text on a command line of the official scripts.

    Other texts are returned as they are: `Option.accept` turns them into numbers, or refuses them.
    """
    if option.kind is bool:
        return OFFICIAL_BOOLEANS.get(text.lower(), text)
    if option.kind == tuple[int, ...]:  # --random_seed 1,2 or "[1, 2]"
        numbers = text.removeprefix("[").removesuffix("]").split(",")
        try:
            return tuple(map(int, numbers))
        except ValueError:
            return text
    return text


def help_text(cls: type, form: str, description: str) -> str:
    """Every option with what it accepts and what it means, except those that only other commands read."""
    program = Path(sys.argv[0])  # run_mrc.py, or run_mrc of `ernie-m run_mrc`
    name = program.name if program.suffix else f"ernie-m {program.name}"
    lines = [f"usage: {name} {form} ...", "", description.strip(), ""]
    for section, section_class in {"": cls, **sections_of(cls)}.items():
        if section:  # not the options of `cls` itself
            first_paragraph = inspect.cleandoc(section_class.__doc__).partition("\n\n")[0]
            lines += ["", f"{section}: {' '.join(first_paragraph.split())}"]
        meanings = explanations(section_class)
        for name, option in options_of(section_class).items():
            if "." in name:  # a key of a section, which has its own turn in this loop
                continue
            if not option.is_read_by(program.stem):
                continue
            flag = f"--{section}.{name}" if section else f"--{name}"
            accepted = "text" if takes_many_words(option) else str(option)
            if option.positional:
                flag = positional_form(option)
            default = ""
            if not option.positional and option.default not in (MISSING, None):
                default = f"; default: {json.dumps(option.default)}"
            meaning = f"No effect: {option.no_effect}." if option.no_effect else meanings.get(name, "")
            lines.append(f"  {flag}  ({accepted}{default})")
            lines += textwrap.wrap(meaning, HELP_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def log_ineffective_flags(options: Any) -> None:
    """Log one line for each flag on the command line that has no effect."""
    options_by_name = options_of(type(options))
    program = Path(sys.argv[0]).stem
    for name in options.on_command_line:
        option = options_by_name[name]
        why = option.no_effect
        if not option.is_read_by(program):
            why = f"it is for {', '.join(option.only)}"
        if why:
            logger.info("--%s has no effect: %s", name, why)
