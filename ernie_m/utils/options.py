"""Options: fields of a dataclass, filled from a command line and from YAML files.

A field is an option, and the string below it explains it, to a reader of the code and in `--help`:

    @dataclass
    class TrainingOptions:
        max_seq_len: Annotated[int, Range(at_least=8, at_most=512)] = 512
        \"\"\"The longest input in tokens, special tokens included.\"\"\"

        log_steps: PositiveInt = option(10, free=True)
        \"\"\"The number of steps between two lines of the log.\"\"\"

    options = parse_options(TrainingOptions, ["--max_seq_len", "256"])

A field whose type is a dataclass is a section, with options `--section.name`. `--config file.yaml` names a
file that gives some of them. The official programs, whose dataclass has the field `on_command_line` for the
names that were given, take no file, and an empty value, as in `--test_set ""`, undoes a flag there.
"""

import ast
import dataclasses
import difflib
import inspect
import json
import math
import operator
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml

from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError, pipe_may_close, say
from ernie_m.utils.files import read_text, shipped

T = TypeVar("T")
HELP_WIDTH = 110  # characters
LARGEST_YAML = 256 << 10  # bytes
LINE = "command line"  # the place of what no file gives
# As the official scripts write them. The official code takes any other text for false, also a mistyped
# `ture`; here it is refused.
BOOLEANS = {
    **dict.fromkeys(("true", "t", "1", "yes"), True),
    **dict.fromkeys(("false", "f", "0", "no"), False),
}
BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
HELP = ("-h", "--help", "--version")
NULLS = ("null", "Null", "NULL", "~")
IN_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "text",
    list[str]: "a list like en,de (in YAML [en, de])",
    list[int]: "a list like 1,2 (in YAML [1, 2])",
    list[float]: "a list like 0.1,0.5 (in YAML [0.1, 0.5])",
    dict[str, Any]: "a mapping like {en: news.txt}",
    dict[str, float]: "a mapping like {mmlm: 0.5, tlm: 0.5}",
    tuple[int, ...]: "an integer, or several like 1,2,3",
}


class Range:
    """The numbers that an option accepts, as in `Annotated[float, Range(at_least=0, below=1)]`."""

    def __init__(self, **bounds: float):
        self.bounds = bounds

    def __contains__(self, number: float) -> bool:
        return all(BOUNDS[name](number, bound) for name, bound in self.bounds.items())

    def __str__(self) -> str:
        return " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in self.bounds.items())


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
UnitInterval = Annotated[float, Range(at_least=0, at_most=1)]


def option(
    default: Any = MISSING,
    *,
    default_factory: Any = MISSING,
    free: bool = False,
    no_effect: str = "",
    only: Sequence[str] = (),
    positional: bool = False,
    ends_flags: bool = False,
    needed: bool = False,
) -> Any:
    """A field with marks. A field that has none of them needs only its default.

    Args:
        default, default_factory: as for `dataclasses.field`.
        free: it does not decide the result, so it may change when a stopped run or build is continued.
        no_effect: why an official flag does nothing here.
        only: the commands that read it, of several that share the dataclass; `--help` of the others omits it.
        positional: on a command line its value stands without a flag; a list takes all words that are left.
        ends_flags: it is positional and a list, and takes all words from its first one on, flags, too.
        needed: one of the few that a user gives first; `--help` begins with them.
    """
    return dataclasses.field(
        default=default,
        default_factory=default_factory,
        metadata={
            "free": free,
            "no_effect": no_effect,
            "only": only,
            "positional": positional,
            "ends_flags": ends_flags,
            "needed": needed,
        },
    )


def sections_of(cls: type) -> dict[str, type]:
    """A dataclass and its sections, by what stands before their keys: "" and "section."."""
    sections = {f"{field.name}.": field.type for field in dataclasses.fields(cls)}
    return {"": cls} | {prefix: kind for prefix, kind in sections.items() if dataclasses.is_dataclass(kind)}


def options_of(cls: type) -> dict[str, Field]:
    """The fields of a dataclass and of its sections that are options, by their keys."""
    return {
        f"{prefix}{field.name}": field
        for prefix, section in sections_of(cls).items()
        for field in dataclasses.fields(section)
        if not dataclasses.is_dataclass(field.type) and field.name != "on_command_line"
    }


def check_values(options: Any) -> None:
    """Check a dataclass that was made in Python, as a command checks what it reads.

    Raises:
        UserError: a value is not accepted.
    """
    fields = options_of(type(options))
    for key in fields:
        accept(fields, LINE, key, attrgetter(key)(options))  # attrgetter, because a key may be "section.name"


def deciding_options(options: Any) -> dict[str, Any]:
    """The options that decide the result, by their keys."""
    return {
        key: attrgetter(key)(options)
        for key, field in options_of(type(options)).items()
        if not (field.metadata.get("free") or field.metadata.get("no_effect"))
    }


def accept(options: Mapping[str, Field], place: str, key: str, value: Any) -> Any:
    """Return a value of a file or of the command line with the type of its option; see `convert`.

    Raises:
        UserError: there is no such option, or the value is not accepted; the message says what is, as in "it
            must be an integer".
    """
    on_line = place == LINE
    if key not in options:
        what = f"unknown flag --{key}" if on_line else f"{place}: unknown key '{key}'"
        advice = advice_on(key, options, "--" if on_line else "") or "--help lists what there is"
        raise UserError(f"{what}; {advice}")
    try:
        return convert(options[key].type, value)
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        start = _flag_of(key, options[key]) if on_line else f"{place}: {key} is"
        raise UserError(f"{start} {value}: {refusal(value, options[key].type)}") from error


def refusal(value: Any, kind: Any) -> str:
    """What is wrong with a value that is not what is accepted: the word has gone, or "it must be ..."."""
    accepted = in_words(kind)
    instead = GONE_TASKS.get(str(value))
    return f"it has gone; instead: {instead}" if instead and instead in accepted else f"it must be {accepted}"


def in_words(kind: Any) -> str:
    """What is accepted, as in "an integer, at least 1"."""
    if kind in IN_WORDS:
        return IN_WORDS[kind]
    parts = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    return ", ".join(map(in_words, parts)) or str(kind)  # the latter: of a Range


def convert(kind: Any, value: Any) -> Any:
    """Return a value as `kind`. It may be a text, from a command line or a file, or a list or dict of them.

    A text for a list is a,b or [a, b], and one for a dict {a: 1}.

    Raises:
        ValueError, OverflowError, RecursionError, yaml.YAMLError: the value is of another kind.
    """
    origin = get_origin(kind)
    kinds = get_args(kind)  # of the items; of a Literal its values
    if NoneType in kinds:
        return None if value is None or value in NULLS else convert(kinds[0], value)
    if isinstance(value, str) and origin in (list, tuple, dict):
        value = yaml_of(value if origin is dict or value.startswith("[") else f"[{value}]")
    if origin is Annotated and all(convert(kinds[0], value) in numbers for numbers in kinds[1:]):
        return convert(kinds[0], value)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(convert(kinds[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {convert(kinds[0], key): convert(kinds[1], item) for key, item in value.items()}
    if kind is bool and str(value).lower() in BOOLEANS:
        return BOOLEANS[str(value).lower()]
    # By its text True is no number, as it is for int(), and 1.5 is no integer.
    if kind in (int, float) and math.isfinite(float(str(value))):
        return kind(str(value))
    if kind is Any or value in kinds or (kind is str and isinstance(value, str)):
        return value
    raise ValueError(value)


class _Loader(yaml.BaseLoader):
    """Reads every value as a text, so that no can be the code of Norwegian: an option knows its own type.

    Keys that are there twice are refused, and so are tags, and aliases, which grow without end.
    """

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.tag:
            raise yaml.MarkedYAMLError(
                problem="a tag or an alias; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if first.setdefault(str(key.value), key) is not key:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def yaml_of(text: str) -> Any:
    """The texts, lists and dicts that a text in YAML stands for; a text that is empty stands for None.

    Raises:
        RecursionError, yaml.YAMLError: it is no YAML.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: str, known: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a YAML file, by their keys; those in a section by "section.key".

    Args:
        known: the keys that there are.

    Raises:
        UserError: it cannot be read, is larger than 256 KiB, has aliases, tags or duplicate keys, or is no
            mapping.
    """
    try:
        tree = yaml_of(read_text(shipped(path), LARGEST_YAML)) or {}  # None: the file is empty
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).replace('"<unicode string>", ', "").split())  # with its line
        raise UserError(f"{path}: not YAML ({problem})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    values: dict[str, Any] = {}
    for name, value in tree.items():
        is_section = _is_section(name, known) and isinstance(value, dict)
        items = {f"{name}.{key}": item for key, item in value.items()} if is_section else {name: value}
        if twice := values.keys() & items:  # as "a.b: 1" and as "a: {b: 1}"
            raise UserError(f"{path}: the key '{twice.pop()}' is there twice")
        values |= items
    # A run of an earlier version has saved what it did not use.
    return {
        key: value for key, value in values.items() if key in known or key not in GONE or value != "false"
    }


def _is_section(name: str, known: Iterable[str]) -> bool:
    """Whether a name is that of a section, by the keys that there are."""
    return any(key.startswith(f"{name}.") for key in known)


def _read_line(arguments: Sequence[str], options: Mapping[str, Field]) -> dict[str, Any]:
    """The texts of a command line by their keys, which may be unknown, or a word of HELP. Many words: a list.

    Raises:
        UserError: a word is no flag, or a flag has no value.
    """
    texts: dict[str, list[str]] = {}
    words = [*arguments]
    # The positional options that can take a word, in their order.
    positional = [key for key, field in options.items() if field.metadata.get("positional")]
    while words:
        word = words.pop(0)
        flags_end = any(options[key].metadata.get("ends_flags") for key in texts.keys() & options)
        if word in HELP and not flags_end:
            return {word: ""}
        key, equals_sign, text = word.removeprefix("--").partition("=")
        if flags_end or not word.startswith("--"):
            if not positional:
                raise UserError(f"'{word}' is where a flag was expected; a flag is written --name value")
            key, text = positional[0], word
        elif not equals_sign:
            is_bool = key in options and options[key].type is bool
            # After a boolean, a word that is none may be the value of a positional option.
            is_no_value = is_bool and positional and words and words[0].lower() not in BOOLEANS
            is_alone = not words or words[0].startswith("--") or is_no_value
            if is_alone and not is_bool and key in options:
                raise UserError(f"--{key} has no value; a flag is written --name value")
            text = "true" if is_alone else words.pop(0)
        texts.setdefault(key, []).append(text)
        positional = [one for one in positional if one != key or _takes_many_words(options[one])]
    many = {key for key, field in options.items() if _takes_many_words(field)}
    return {key: given if key in many else given[-1] for key, given in texts.items()}


def _takes_many_words(field: Field) -> bool:
    """Whether each word, or each value of the flag, is an item of its list."""
    return field is CONFIG or (field.metadata.get("positional", False) and get_origin(field.type) is list)


CONFIG = dataclasses.field()  # --config is a flag, but no field of a dataclass


def parse_options(cls: type[T], arguments: Sequence[str] | None = None, program: str = "__main__") -> T:
    """Make a dataclass of options from a command line, and from the YAML files that its --config names.

    Later files override earlier ones, and the command line overrides all. A dataclass may have a method
    `check_override(place, later, earlier)`, which compares the values of a place with those before.

    Args:
        arguments: None: those of this process.
        program: the name of a module, whose docstring begins `--help`.

    Raises:
        UserError: a file is missing or is no YAML, a key is unknown, or a value is not accepted. The message
            has all faults, with the file or the flag. `__post_init__` of the dataclass may raise others.
    """
    options = options_of(cls)
    is_official = hasattr(cls, "on_command_line")
    texts = _read_line(
        sys.argv[1:] if arguments is None else arguments,
        options if is_official else {"config": CONFIG, **options},
    )
    if texts.keys() & {*HELP}:
        with pipe_may_close():
            say(f"ERNIE-M {__version__}" if "--version" in texts else help_text(cls, program))
        sys.exit(0)

    # In an official program an empty text undoes a flag.
    texts = {key: text for key, text in texts.items() if text or not is_official or key not in options}
    paths = [] if is_official else texts.pop("config", [])
    values: dict[str, Any] = {}
    faults = []
    for place, given in [*((path, read_yaml(path, options)) for path in paths), (LINE, texts)]:
        later = {}
        for key, value in given.items():
            try:
                later[key] = accept(options, place, key, value)
            except UserError as error:
                faults.append(str(error))
        if hasattr(cls, "check_override"):
            cls.check_override(place, later, values)
        values |= later
    missing = [key for key, field in options.items() if _is_required(field) and key not in values]
    faults += [f"{_flag_of(key, options[key])} must be given (--help says more)" for key in missing]
    if faults:
        raise UserError(*faults)
    return _build(cls, values | {"on_command_line": tuple(texts)})


def _flag_of(key: str, field: Field) -> str:
    """What a command line shows of an option: "--key", or "KEY" if it is positional."""
    return key.upper() if field.metadata.get("positional") else f"--{key}"


def _is_required(field: Field) -> bool:
    """Whether a value must be given."""
    return field.default is field.default_factory is MISSING


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from the values of its keys. The sections come first, and are values, too."""
    for prefix, section in reversed(sections_of(cls).items()):
        keys = {field.name: f"{prefix}{field.name}" for field in dataclasses.fields(section)}
        made = section(**{name: values[key] for name, key in keys.items() if key in values})
        values = {**values, prefix.removesuffix("."): made}
    return made


# Words of other programs -> those of the options here.
OTHER_WORDS = {
    "lr": "learning_rate",
    "max_length": "max_seq_len",
    "max_seq_length": "max_seq_len",
    "max_steps": "steps",
    "micro_batch_size": "micro_batch_tokens",
    "model_name_or_path": "init_pretraining_params",
    "num_train_epochs": "epoch",
}
# Flags and keys that have gone -> what takes their place.
GONE = {
    "any_version": "nothing: each package comes in the version whose SHA-256 is known",
    "batch_tokens": "--max_batch_tokens",
    "check_sentences": "predictions with --engine onnx, and without",
    "check_set": "predictions with --engine onnx, and without",
    "decay_style": "its default, as in the official code",
    "dev_pairs": "--pairs",
    "dev_share": "a file of --dev_set, or ernie-m fit, which holds rows out",
    "ernie_config_path": "the folder of --model, which has its config.json",
    "fallback_of": "the model's scores on other text",
    "formats": "--format paddle or onnx",
    "gold": "--threshold, by the scores in scores.tsv",
    "gxlt_set": "--test_set, for each file",
    "head_start": "--init.word_table",
    "gradient_accumulation_steps": "--recipe_devices, so many times the number of devices",
    "header": "names of columns, or numbers, which say that there is no header",
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
    "multi_label": "ernie-m fit --task multi-label",
    "near_duplicates": "--deduplicate, or vectors as in docs/recipes.md",
    "neighbours": "its default, 4",
    "objectives.pseudo_choice": "--objectives.pseudo_temperature, above 0 to sample",
    "objectives.temperature": "--objectives.pseudo_temperature",
    "objectives.pseudo_pieces": "--objectives.min_piece_count, 0 for all pieces",
    "objectives.monolingual_share": "--objectives.shares",
    "data.parallel_share": "--objectives.shares",
    "piece_model_path": "the folder of --model, which has its vocabulary; of show_masks, words",
    "print_config": "config.yaml in the folder of a run",
    "ray": "the texts in several files",
    "reduce_range": "--format onnx, or --amp bf16",
    "retrieval": "its default, max",
    "run.stall_seconds": "--run.stall_ends_seconds",
    "run.visualdl": "metrics.jsonl, which pandas draws",
    "score_column": "--only",
    "select_by": "its default, accuracy; ernie-m fit shows scores by label",
    "serve": "ernie-m serve",
    "show_pairs": "nothing: pairs of every two languages are shown",
    "skip_bad_utf8": "--encoding",
    "src_file": "--pairs",
    "teacher": "--loss softmax with given negatives (--mine_negatives)",
    "tgt_file": "--pairs",
    "threads": "the variable OMP_NUM_THREADS",
    "tsv_columns": "--columns",
    "use_cuda": "the variable CUDA_VISIBLE_DEVICES, empty for the CPU",
    "vocab_path": "the folder of --model, which has its vocabulary",
    "word_column": "--columns WORDS,TAGS",
    "visualdl": "metrics.jsonl, which pandas draws",
    "with_apt": "nothing: pip fetches the text",
    "xtreme_save": "--test_save",
}
# The names of tasks that have gone -> those that take their place.
GONE_TASKS = {
    **dict.fromkeys(("classify", "classes"), "classification"),
    "labels": "multi-label",
    "score": "regression",
    **dict.fromkeys(("tag", "tags", "tagging"), "token-classification"),
    **dict.fromkeys(("answer", "answers", "question_answering"), "question-answering"),
    **dict.fromkeys(("encode", "encoding"), "embedding"),
    "retrieval": "search",
    **dict.fromkeys(("fill", "translate-probe"), "fill-mask"),
}


def advice_on(name: str, known: Iterable[str], dashes: str = "") -> str:
    """What to give in place of an unknown name: what has taken its place, or the known name most like it.

    Args:
        dashes: what stands before a name.

    Returns:
        "" if there is neither.
    """
    if _is_section(name, known):
        return f"it is a section; give its keys ({dashes}{name}.key)"
    section, _, part = name.rpartition(".")
    # Of keys with the same name that of the section is meant, or else the first one.
    in_order = sorted(known, key=lambda key: not key.startswith(f"{section}."))
    keys = {key.rpartition(".")[2]: key for key in reversed(in_order)}
    if name in GONE and part not in keys:
        return f"it has gone; instead: {GONE[name]}"
    meant = part if part in keys else OTHER_WORDS.get(part, part)
    words = {*meant.split("_")}
    near = [meant] if meant in keys else []
    near += [  # as seed for random_seed, out for output
        key
        for key in reversed(keys)
        if key.startswith(meant) or words <= {*key.split("_")} or words >= {*key.split("_")}
    ]
    near += difflib.get_close_matches(meant, keys, n=1, cutoff=0.75)  # below, most names are alike
    return f"did you mean {dashes}{keys[near[0]]}?" if near else ""


def explanations(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, of its base classes and its sections, by key.

    It is read from the source, because `python -OO` has no docstrings.
    """
    texts: dict[str, str] = {}
    for prefix, section in sections_of(cls).items():
        for base in filter(dataclasses.is_dataclass, reversed(section.__mro__)):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            texts |= {
                f"{prefix}{statement.target.id}": " ".join(below.value.value.split())
                for statement, below in pairwise(definition.body)
                if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr)
            }
    return texts


def help_text(cls: type, program: str) -> str:
    """Every option with what it accepts and what it means, except those that only other commands read.

    First what is positional, then what is needed, then the others, those of sections last.

    Args:
        program: the name of a module, whose docstring is the beginning.
    """
    path = Path(sys.argv[0])  # run_mrc.py, or run_mrc of `ernie-m run_mrc`
    flags = "[--flag VALUE ...]" if hasattr(cls, "on_command_line") else "[--config FILE] [--key VALUE ...]"
    usage = [path.name if path.suffix else f"ernie-m {path.name}", flags]
    lines = ["", ast.get_docstring(ast.parse(inspect.getsource(sys.modules[program]))) or "", ""]
    meanings = explanations(cls)
    options = [(key, field) for key, field in options_of(cls).items() if is_read(field)]
    options.sort(
        key=lambda item: (not item[1].metadata.get("positional"), not is_needed(item[1]), "." in item[0])
    )
    for key, field in options:
        accepted = "text" if _takes_many_words(field) else in_words(field.type)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.metadata.get("positional"):
            form = f"{key.upper()} ..." if _takes_many_words(field) else key.upper()
            usage.append(form if _is_required(field) else f"[{form}]")
        elif default not in (MISSING, None):
            accepted += f"; default: {json.dumps(default)}"
        meaning = meanings.get(key) or f"No effect: {field.metadata.get('no_effect')}."
        lines.append(f"  {_flag_of(key, field)}  ({accepted})")
        lines += textwrap.wrap(meaning, HELP_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join([f"usage: {' '.join(usage)}", *lines])


def is_needed(field: Field) -> bool:
    """Whether `--help` begins with it."""
    return _is_required(field) or field.metadata.get("needed", False)


def is_read(field: Field) -> bool:
    """Whether this command, perhaps of several that share the dataclass, reads the option."""
    return not field.metadata.get("only") or Path(sys.argv[0]).stem in field.metadata["only"]
