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
file that gives some of them. The official programs, whose dataclass has the field `on_command_line`, take no
file, and an empty value, as in `--test_set ""`, undoes a flag there.
"""

import ast
import dataclasses
import difflib
import inspect
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts, as in `Annotated[float, Range(at_least=0, below=1)]`."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        bounds = {name: bound for name, bound in vars(self).items() if math.isfinite(bound)}
        return " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())


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
    bare: bool = False,
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
        bare: `--name` without a value means `--name true`; its value is a boolean or the next flag follows.
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
            "bare": bare,
            "positional": positional,
            "ends_flags": ends_flags,
            "needed": needed,
        },
    )


def not_an_option(default: Any) -> Any:
    """A field that neither a flag nor a key sets."""
    return dataclasses.field(default=default, metadata={"not_an_option": True})


class Option(NamedTuple):
    """One option of a command.

    Attributes:
        flag: what a command line shows: "--key", or "KEY" if it is positional.
        kind: the type, without its ranges and without None.
        ranges: the range of a number, or nothing.
        may_be_none: whether None is accepted.
        default: `dataclasses.MISSING` if a value must be given.
        marks: see `option`; a field may have none.
    """

    flag: str
    kind: Any
    ranges: Sequence[Range]
    may_be_none: bool
    default: Any
    marks: Mapping[str, Any]

    @property
    def takes_many_words(self) -> bool:
        """Whether each word, or each value of the flag, is an item of its list."""
        return self is CONFIG or (self.is_positional and get_origin(self.kind) is list)

    @property
    def is_positional(self) -> bool:
        """Whether on a command line its value stands without a flag."""
        return bool(self.marks.get("positional"))

    @property
    def is_needed(self) -> bool:
        """Whether `--help` begins with it."""
        return self.default is MISSING or bool(self.marks.get("needed"))

    def accept(self, value: Any, place: str) -> Any:
        """Return a value with the type of the option; see `convert`.

        Args:
            place: where the value stands, the beginning of the error.

        Raises:
            UserError: the value is not accepted; the message says what is, as in "it must be an integer".
        """
        if self.may_be_none and (value is None or value in NULLS):
            return None
        try:
            value = convert(self.kind, value)
            if any(value not in numbers for numbers in self.ranges):
                raise ValueError(value)
        except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"{place}: {refusal(value, get_args(self.kind), str(self))}") from error
        return value

    def __str__(self) -> str:
        """What is accepted, as in "an integer, at least 1"."""
        one_of = f"one of {', '.join(map(str, get_args(self.kind)))}"  # the values of a Literal
        return ", ".join([IN_WORDS.get(self.kind, one_of), *map(str, self.ranges)])


CONFIG = Option("--config", list[str], (), False, [], {})  # a flag, but no field of a dataclass


def refusal(value: Any, choices: Sequence[Any], accepted: str) -> str:
    """What is wrong with a value that is none of the choices: the word has gone, or "it must be ..."."""
    instead = GONE_TASKS.get(str(value))
    return f"it has gone; instead: {instead}" if instead in choices else f"it must be {accepted}"


def convert(kind: Any, value: Any) -> Any:
    """Return a value as `kind`. It may be a text, from a command line or a file, or a list or dict of them.

    A text for a list is a,b or [a, b], and one for a dict {a: 1}.

    Raises:
        ValueError, OverflowError, RecursionError, yaml.YAMLError: the value is of another kind.
    """
    origin = get_origin(kind)
    kinds = get_args(kind)  # of the items; of a Literal its values
    if isinstance(value, str) and origin in (list, tuple, dict):
        is_plain = origin is not dict and not value.startswith("[")
        value = [part.strip() for part in value.split(",")] if is_plain else yaml_of(value)
    if isinstance(value, list | tuple) and origin in (list, tuple):
        return origin(convert(kinds[0], item) for item in value)
    if isinstance(value, dict) and origin is dict:
        return {convert(kinds[0], key): convert(kinds[1], item) for key, item in value.items()}
    if kind is bool and isinstance(value, str):
        value = BOOLEANS.get(value.lower())
    # For Python True is an int; as a number it is a mistake, and so is 1.5 as an integer.
    of_numbers = {int: (int, str), float: (int, float, str)}.get(kind, ())
    if type(value) in of_numbers and math.isfinite(float(value)):
        return kind(value)
    if kind is Any or value in kinds or (kind in (bool, str) and isinstance(value, kind)):
        return value
    raise ValueError(value)


def options_of(cls: type, prefix: str = "") -> dict[str, Option]:
    """The options of a dataclass and of its sections, by their keys.

    Args:
        prefix: stands before the keys: "section." for those of a section, "" for the others.
    """
    options: dict[str, Option] = {}
    annotations = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            options |= options_of(field.type, f"{key}.")
        elif "not_an_option" not in field.metadata:
            flag = key.upper() if field.metadata.get("positional") else f"--{key}"
            kind = annotations[field.name]
            may_be_none = NoneType in get_args(kind)
            if may_be_none:
                (kind,) = (part for part in get_args(kind) if part is not NoneType)
            kind, *ranges = get_args(kind) if get_origin(kind) is Annotated else (kind,)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            options[key] = Option(flag, kind, ranges, may_be_none, default, field.metadata)
    return options


def sections_of(cls: type) -> dict[str, type]:
    """The dataclasses that are fields of a dataclass, by the fields' names. A section has none itself."""
    fields = dataclasses.fields(cls)
    return {field.name: field.type for field in fields if dataclasses.is_dataclass(field.type)}


def check_values(options: Any) -> None:
    """Check a dataclass that was made in Python, as a command checks what it reads.

    Raises:
        UserError: a value is not accepted.
    """
    for key, option in options_of(type(options)).items():
        value = attrgetter(key)(options)  # attrgetter, because a key may be "section.name"
        option.accept(value, f"--{key} {value}")


def deciding_options(options: Any) -> dict[str, Any]:
    """The options that decide the result, by their keys."""
    marks_of = {key: option.marks for key, option in options_of(type(options)).items()}
    keys = [key for key, marks in marks_of.items() if not (marks.get("free") or marks.get("no_effect"))]
    return {key: attrgetter(key)(options) for key in keys}


class _Loader(yaml.BaseLoader):
    """Reads every value as a text, so that no can be the code of Norwegian: an option knows its own type.

    Keys that are there twice are refused, and so are tags, and aliases, which grow without end.
    """

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """What PyYAML calls for each node of the file."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.tag:
            name = getattr(event, "tag", f"*{event.anchor}")
            problem = f"{name} is a tag or an alias; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        first: dict[str, yaml.Mark] = {}  # where each key is
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            mark = first.setdefault(str(key.value), key.start_mark)
            if mark is not key.start_mark:
                problem = f"line {mark.line + 1} has the key '{key.value}', too"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
        return node


def yaml_of(text: str) -> Any:
    """The texts, lists and dicts that a text in YAML stands for; a text that is empty stands for None.

    Raises:
        RecursionError, yaml.YAMLError: it is no YAML.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: str, sections: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a YAML file, by their keys; those in a section by "section.key".

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
        is_section = name in sections and isinstance(value, dict)
        items = {f"{name}.{key}": item for key, item in value.items()} if is_section else {name: value}
        if twice := values.keys() & items:  # as "a.b: 1" and as "a: {b: 1}"
            raise UserError(f"{path}: the key '{twice.pop()}' is there twice")
        values |= items
    return values


def _read_line(arguments: Sequence[str], options: Mapping[str, Option]) -> dict[str, Any]:
    """The texts of a command line by their keys, which may be unknown, or a word of HELP. Many words: a list.

    Raises:
        UserError: a word is no flag, or a flag has no value.
    """
    texts: dict[str, Any] = {}
    words = [*arguments]
    # The positional options that have no value yet, in their order.
    positional = [key for key, option in options.items() if option.is_positional]
    while words:
        word = words.pop(0)
        if word in HELP:
            return {word: ""}
        key, equals_sign, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if not positional:
                raise UserError(f"'{word}' is where a flag was expected; a flag is written --name value")
            key, text = positional[0], word
            if options[key].marks.get("ends_flags"):
                texts[key] = [word, *words]
                break
        elif not equals_sign and key in options and options[key].marks.get("bare"):
            text = words.pop(0) if words and words[0].lower() in BOOLEANS else "true"
        elif not equals_sign and words and not words[0].startswith("--"):
            text = words.pop(0)
        elif not equals_sign and key in options and words[:1] != ["--help"]:
            raise UserError(f"--{key} has no value; a flag is written --name value")
        if key in options and options[key].takes_many_words:
            texts.setdefault(key, []).append(text)
        else:
            texts[key] = text
            positional = [one for one in positional if one != key]
    return texts


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
    arguments = sys.argv[1:] if arguments is None else arguments
    options = options_of(cls)
    is_official = hasattr(cls, "on_command_line")
    texts = _read_line(arguments, options if is_official else {"config": CONFIG, **options})
    if texts.keys() & {*HELP}:
        with pipe_may_close():
            say(f"ERNIE-M {__version__}" if "--version" in texts else help_text(cls, program))
        sys.exit(0)

    if is_official:  # an empty text undoes a flag
        texts = {key: text for key, text in texts.items() if text or key not in options}
    paths = [] if is_official else texts.pop("config", [])
    places = [*((path, read_yaml(path, sections_of(cls))) for path in paths), (LINE, texts)]
    values: dict[str, Any] = {}
    faults = []
    for place, given in places:
        later = {}
        for key, value in given.items():
            if key in GONE and key not in options and value == "false" and place != LINE:
                continue  # a run of an earlier version has saved what it did not use
            try:
                later[key] = _accepted(options, place, key, value)
            except UserError as error:
                faults.append(str(error))
        if hasattr(cls, "check_override"):
            cls.check_override(place, later, values)
        values |= later
    faults += [
        f"{option.flag} must be given (--help says more)"
        for key, option in options.items()
        if option.default is MISSING and key not in values
    ]
    if faults:
        raise UserError(*faults)
    if is_official:
        values["on_command_line"] = tuple(texts)
    return _build(cls, values)


def _accepted(options: Mapping[str, Option], place: str, key: str, value: Any) -> Any:
    """A value of a file or of the command line with the type of its option."""
    if key not in options:
        what = f"unknown flag --{key}" if place == LINE else f"{place}: unknown key '{key}'"
        advice = advice_on(key, options, "--" if place == LINE else "")
        raise UserError(f"{what}; {advice or '--help lists what there is'}")
    start = options[key].flag if place == LINE else f"{place}: {key} is"
    return options[key].accept(value, f"{start} {value}")


def _build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Make a dataclass and its sections from the values of their keys."""
    sections = {
        name: _build(section, values, f"{prefix}{name}.") for name, section in sections_of(cls).items()
    }
    names = [field.name for field in dataclasses.fields(cls) if f"{prefix}{field.name}" in values]
    return cls(**sections, **{name: values[f"{prefix}{name}"] for name in names})


_ALIKE = 0.75  # so alike are names of which one may be a slip; below, most have some letters in common
# Flags and keys that have gone -> what takes their place.
GONE = {
    "batch_tokens": "--max_batch_tokens",
    "check_sentences": "predictions with --engine onnx, and without",
    "check_set": "predictions with --engine onnx, and without",
    "dev_pairs": "--pairs",
    "dev_share": "a file of --dev_set, or ernie-m fit, which holds rows out",
    "ernie_config_path": "the folder of --model, which has its config.json",
    "formats": "--format paddle or onnx",
    "gold": "--threshold, by the scores in scores.tsv",
    "gxlt_set": "--test_set, for each file",
    "head_start": "--init.word_table",
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
    "objectives.monolingual_share": "--objectives.shares",
    "data.parallel_share": "--objectives.shares",
    "piece_model_path": "the folder of --model, which has its vocabulary",
    "print_config": "config.yaml in the folder of a run",
    "ray": "the texts in several files",
    "reduce_range": "--format onnx, or --amp bf16",
    "retrieval": "its default, max",
    "score_column": "--only",
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
    if any(key.startswith(f"{name}.") for key in known):
        return f"it is a section; give its keys ({dashes}{name}.key)"
    section, _, part = name.rpartition(".")
    in_order = sorted(known, key=lambda key: key.rpartition(".")[0] != section)  # those of the section first
    parts = {key: key.rpartition(".")[2] for key in in_order}
    near = [key for key in in_order if parts[key] == part]
    if name in GONE and not near:
        return f"it has gone; instead: {GONE[name]}"
    slips = difflib.get_close_matches(part, parts.values(), cutoff=_ALIKE)
    near += [key for key in in_order if _has_words_of(parts[key], part) or parts[key] in slips]
    return f"did you mean {dashes}{near[0]}?" if near else ""


def _has_words_of(key: str, name: str) -> bool:
    """Whether a name abbreviates a key, as seed, lr, out, or has a word more, as max_steps for steps."""
    words = key.split("_")
    is_short = key.startswith(name) or name == "".join(word[:1] for word in words)
    return is_short or {*words} <= {*name.split("_")} or {*words} >= {*name.split("_")}


def explanations(cls: type, prefix: str = "") -> dict[str, str]:
    """The string below each field of a dataclass, of its base classes and its sections, by key.

    It is read from the source, because `python -OO` has no docstrings.
    """
    texts: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for statement, below in pairwise(definition.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[f"{prefix}{statement.target.id}"] = " ".join(below.value.value.split())
    for name, section in sections_of(cls).items():
        texts |= explanations(section, f"{name}.")
    return texts


def help_text(cls: type, program: str) -> str:
    """Every option with what it accepts and what it means, except those that only other commands read.

    First what is positional, then what is needed, then the others, those of sections last.

    Args:
        program: the name of a module, whose docstring is the beginning.
    """
    path = Path(sys.argv[0])  # run_mrc.py, or run_mrc of `ernie-m run_mrc`
    usage = [path.name if path.suffix else f"ernie-m {path.name}"]
    usage.append(
        "[--flag VALUE ...]" if hasattr(cls, "on_command_line") else "[--config FILE] [--key VALUE ...]"
    )
    lines = ["", ast.get_docstring(ast.parse(inspect.getsource(sys.modules[program]))) or "", ""]
    meanings = explanations(cls)
    options = [(key, option) for key, option in options_of(cls).items() if is_read(option)]
    options.sort(key=lambda item: (not item[1].is_positional, not item[1].is_needed, "." in item[0]))
    for key, option in options:
        accepted = "text" if option.takes_many_words else str(option)
        if option.is_positional:
            form = f"{option.flag} ..." if option.takes_many_words else option.flag
            usage.append(form if option.default is MISSING else f"[{form}]")
        elif option.default not in (MISSING, None):
            accepted += f"; default: {json.dumps(option.default)}"
        no_effect = option.marks.get("no_effect")
        meaning = f"No effect: {no_effect}." if no_effect else meanings.get(key, "")
        lines.append(f"  {option.flag}  ({accepted})")
        lines += textwrap.wrap(meaning, HELP_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join([f"usage: {' '.join(usage)}", *lines])


def is_read(option: Option) -> bool:
    """Whether this command, perhaps of several that share the dataclass, reads the option."""
    return not option.marks.get("only") or Path(sys.argv[0]).stem in option.marks["only"]
