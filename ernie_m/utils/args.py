"""Parses options, defined as dataclass fields, from the command line and YAML files.

The string below a field documents the option, in the code and in `--help`:

    @dataclass
    class TrainingOptions:
        max_seq_len: Annotated[int, Range(at_least=8, at_most=512)] = 512
        \"\"\"Maximum input length in tokens, including special tokens.\"\"\"

        log_steps: PositiveInt = option(10, free=True)
        \"\"\"Number of steps between log lines.\"\"\"

    options = parse_options(TrainingOptions, ["--max_seq_len", "256"])

A field whose type is a dataclass is a section, with options `--section.name`. `--config file.yaml` reads
options from a file, except for `OfficialFlags`.
"""

import ast
import builtins
import dataclasses
import difflib
import inspect
import json
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml

from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_text, reject_undecodable_names, resolve_shipped_path
from ernie_m.utils.value_types import describe_type, is_valid

# Option names of other libraries -> those of this project.
OTHER_WORDS = {
    "lr": "learning_rate",
    "max_length": "max_seq_len",
    "max_seq_length": "max_seq_len",
    "max_steps": "steps",
    "micro_batch_size": "micro_batch_tokens",
    "model_name_or_path": "init_pretraining_params",
    "num_train_epochs": "epoch",
    "per_device_train_batch_size": "batch_size",
    "warmup_ratio": "warmup_proportion",
}


def suggest_name(name: str, known_names: Collection[str], prefix: str = "") -> str:
    """Return a suggestion for an unknown name, for a message: the most similar known name.

    Args:
        name: the unknown name, which may be "section.key".
        known_names: the known names.
        prefix: prefix of the suggested name, such as "--".
    """
    section, dot, part = name.rpartition(".")
    meant = OTHER_WORDS.get(part, part)

    def compute_similarity(key: str) -> float:
        short = key.rpartition(".")[2]
        return difflib.SequenceMatcher(None, section + dot + meant, key if section else short).ratio()

    keys = [key for key in known_names if key.startswith(f"{name}.")]
    if keys:
        return f"it is a section. Set its keys, such as {keys[0]}, and in YAML put a space after each colon"
    # For example seed for random_seed, a section for one of its keys, max_limit for limit, and typos.
    near = [
        key
        for key in known_names
        if meant in key or key in meant.split("_") or compute_similarity(key) >= 0.75
    ]
    if not near:
        return "see --help for all names"
    return f"did you mean {prefix}{max(near, key=lambda key: (meant in key, compute_similarity(key)))}?"


T = TypeVar("T")
# As in the official scripts. The official code interprets any other text as false, even a typo such as
# `ture`; here it is an error.
BOOLEANS = {
    **dict.fromkeys(("true", "t", "1", "yes"), True),
    **dict.fromkeys(("false", "f", "0", "no"), False),
}
NULLS = ("null", "Null", "NULL", "~")


def option(default: Any = MISSING, *, default_factory: Any = MISSING, **metadata: Any) -> Any:
    """Make a dataclass field of an option with metadata; an option without metadata needs only its default.

    Args:
        default, default_factory: as for `dataclasses.field`.
        metadata: `free`: the option does not affect the result, so it may change when work is resumed.
            `no_effect`: reason why an official flag has no effect; `--help` omits the flag.
            `only`: the commands that use the option, if several share the dataclass; the `--help` of other
            commands omits it.
            `positional`: the option is a positional argument; a list takes all remaining arguments.
            `needed`: the option is listed at the beginning of `--help`.
    """
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


CONFIG = option()  # --config is a flag, but not a dataclass field


@dataclasses.dataclass(kw_only=True)
class OfficialFlags:
    """Flags as in the official commands: they are not read from files, and `--flag ""` unsets a flag.

    Attributes:
        on_command_line: the names of the given flags.
    """

    on_command_line: tuple[str, ...] = ()


def list_sections(cls: type) -> dict[str, type]:
    """Return key prefix -> dataclass of its options: "" for `cls` itself, "section." for its sections."""
    return {"": cls} | {
        f"{field.name}.": field.type
        for field in dataclasses.fields(cls)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type)
    }


def list_options(cls: type) -> dict[str, Field]:
    """Return option key -> field, of a dataclass and its sections."""
    return {
        f"{prefix}{field.name}": field
        for prefix, section in list_sections(cls).items()
        for field in dataclasses.fields(section)
        if not dataclasses.is_dataclass(field.type) and field.name != "on_command_line"
    }


def get_result_options(options: Any) -> dict[str, Any]:
    """Return option key -> value, of the options that affect the result."""
    return {
        key: attrgetter(key)(options)
        for key, field in list_options(type(options)).items()
        if not (field.metadata.get("free") or field.metadata.get("no_effect"))
    }


def convert_value(value_type: Any, value: Any) -> Any:
    """Convert text from a command line or YAML file, or a list or dict of texts, to a type.

    A list is written a,b or [a, b], and a dict {a: 1}.

    Raises:
        AttributeError, KeyError, RecursionError, TypeError, ValueError, yaml.YAMLError: the value is invalid.
    """
    item_types = get_args(value_type)  # of the items; for a Literal its values
    if isinstance(value, str) and get_origin(value_type) in (list, tuple, dict):
        value = parse_yaml(value if get_origin(value_type) is dict or value.startswith("[") else f"[{value}]")
    match get_origin(value_type) or value_type:
        case types.UnionType | typing.Union:
            value = None if value in NULLS else convert_value(item_types[0], value)
        case typing.Annotated:
            value = convert_value(item_types[0], value)
        case builtins.list | builtins.tuple if isinstance(value, list):
            value = get_origin(value_type)(convert_value(item_types[0], item) for item in value)
        case builtins.dict:
            value = {key: convert_value(item_types[1], item) for key, item in value.items()}
        case builtins.bool:
            value = BOOLEANS[value.lower()]
        case builtins.int | builtins.float:
            value = value_type(value)
        case builtins.str:  # a shell expands ~ only at the start of a word
            value = re.sub(r"(?<![^,])~(?=/)", os.path.expanduser("~"), value)
    if not is_valid(value_type, value):
        raise ValueError(value)
    return value


class _Loader(yaml.BaseLoader):
    """YAML loader that reads every value as text, so that `no` can be the code of Norwegian.

    Duplicate keys are rejected. Anchors, aliases and tags are ordinary text.
    """

    fetch_anchor = fetch_alias = fetch_tag = yaml.BaseLoader.fetch_plain

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        for (first, _), (second, _) in pairwise(sorted(node.value, key=lambda item: str(item[0].value))):
            if first.value == second.value:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key '{first.value}'", problem_mark=second.start_mark
                )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Parse YAML into strings, lists and dicts; None if the text is empty.

    Raises:
        RecursionError, yaml.YAMLError: the text is not valid YAML.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: str, known_keys: Collection[str]) -> dict[str, Any]:
    """Read a YAML file of options: key -> value, with keys such as "section.key".

    Args:
        known_keys: known option keys. A mapping under another key is a section.

    Raises:
        UserError: the file cannot be read, is larger than 256 KiB, has duplicate keys, or is not a mapping.
    """
    try:
        # An empty file is None.
        tree = parse_yaml(read_text(resolve_shipped_path(path), max_bytes=256 << 10)) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    values: dict[str, Any] = {}
    for name, value in tree.items():
        # An empty section has no unknown key, so its own name must be known.
        is_section = (
            isinstance(value, dict)
            and name not in known_keys
            and (value or any(key.startswith(f"{name}.") for key in known_keys))
        )
        items = {f"{name}.{key}": item for key, item in value.items()} if is_section else {name: value}
        if twice := values.keys() & items:  # such as "a.b: 1" and "a: {b: 1}"
            raise UserError(f"{path}: duplicate key '{twice.pop()}'")
        values |= items
    return values


def _is_list_option(field: Field) -> bool:
    """Return whether an option collects several arguments in a list: --config and positional lists."""
    return field is CONFIG or (field.metadata.get("positional", False) and get_origin(field.type) is list)


def _parse_command_line(arguments: list[str], options: Mapping[str, Field]) -> dict[str, Any]:
    """Parse a command line: key -> text, or list of texts. Keys may be unknown.

    Args:
        arguments: the arguments; consumed.
        options: known options by key.

    Raises:
        UserError: an argument is unexpected, or a value is missing.
    """
    texts: dict[str, Any] = {}
    # The positional options that can take a word, in order.
    positional = [key for key, field in options.items() if field.metadata.get("positional")]
    while arguments:
        word = arguments.pop(0)
        key, equals_sign, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if not positional:
                raise UserError(f"unexpected argument '{word}'; options are written --name value")
            key, text = positional[0], word
        elif not equals_sign:
            is_bool = key in options and options[key].type is bool
            # After a boolean, a word that is not one may be the value of a positional option.
            is_alone = (not arguments or arguments[0].startswith("--")) or (
                is_bool and positional and arguments[0].lower() not in BOOLEANS
            )
            if is_alone and not is_bool and key in options:
                raise UserError(f"missing value of --{key}; options are written --name value")
            text = "true" if is_alone else arguments.pop(0)
        takes_many = key in options and _is_list_option(options[key])
        texts[key] = [*texts.get(key, []), text] if takes_many else text
        positional = [one for one in positional if one != key or takes_many]
    return texts


def parse_options(cls: type[T], arguments: Sequence[str] | None = None, module_name: str = "__main__") -> T:
    """Parse a command line and the YAML files of --config into a dataclass of options.

    Later files override earlier ones, and the command line overrides all files. A dataclass may define
    `check_override(location, later, earlier)`, to compare the values of a file or command line with those of
    earlier files.

    Args:
        arguments: the command line; None: that of this process.
        module_name: name of the module whose docstring begins `--help`.

    Raises:
        UserError: an argument is not UTF-8, a file is missing or not YAML, a key is unknown, or a value is
            invalid. The message has all errors, with file or flag. `__post_init__` of the dataclass may raise
            further errors.
    """
    options = list_options(cls)
    is_official = issubclass(cls, OfficialFlags)
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if {"-h", "--help", "--version"} & {*words}:
        say(f"ERNIE-M {__version__}" if "--version" in words else format_help(cls, module_name))
        sys.exit(0)
    reject_undecodable_names(words)
    texts = _parse_command_line(words, options if is_official else {"config": CONFIG, **options})

    # In an official command an empty text unsets a flag.
    texts = {key: text for key, text in texts.items() if text or not is_official or key not in options}
    paths = [] if is_official else texts.pop("config", [])
    values: dict[str, Any] = {}
    errors = []
    for location, given in [*((f"{path}: ", read_yaml(path, options)) for path in paths), ("--", texts)]:
        later = {**given}
        for key, value in given.items():
            if key in options:
                try:
                    later[key] = convert_value(options[key].type, value)
                except (AttributeError, KeyError, RecursionError, TypeError, ValueError, yaml.YAMLError):
                    errors.append(
                        f"{location}{key} {value}: invalid value (expected "
                        f"{describe_type(options[key].type)})"
                    )
            else:
                errors.append(f"{location}{key}: unknown option; {suggest_name(key, options, '--')}")
        check_override = getattr(cls, "check_override", None)
        if check_override is not None:
            check_override(location, later, values)
        values |= later
    errors += [
        f"missing required option {_format_flag(key, field)} (see --help)"
        for key, field in options.items()
        # A suggestion for a wrong name already covers it.
        if _is_required(field)
        and values.get(key, "") == ""
        and f"did you mean --{key}?" not in "".join(errors)
    ]
    if errors:
        raise UserError(*errors)
    return _build(cls, values | {"on_command_line": tuple(texts)})


def _format_flag(key: str, field: Field) -> str:
    """Format the name of an option: "--key", or "KEY" for a positional option."""
    return key.upper() if field.metadata.get("positional") else f"--{key}"


def get_default(field: Field) -> Any:
    """Return the default of an option; MISSING: it is required."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _is_required(field: Field) -> bool:
    """Return whether an option is required: whether it has no default."""
    return get_default(field) is MISSING


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass, and the dataclasses of its sections, from option values by key."""
    for prefix, section in reversed(list_sections(cls).items()):
        names = {field.name: prefix + field.name for field in dataclasses.fields(section)}
        made = section(**{name: values[key] for name, key in names.items() if key in values})
        values = {**values, prefix.removesuffix("."): made}
    return made


def read_option_docs(cls: type) -> dict[str, str]:
    """Return option key -> documentation, the string below the field, of a dataclass and its sections.

    The strings are read from the source code, as Python does not keep them.
    """
    texts: dict[str, str] = {}
    for prefix, section in list_sections(cls).items():
        for base in filter(dataclasses.is_dataclass, reversed(section.__mro__)):
            source = textwrap.dedent(inspect.getsource(base))
            texts |= {
                f"{prefix}{ast.unparse(statement.target)}": " ".join(ast.literal_eval(below.value).split())
                for node in ast.parse(source).body
                if isinstance(node, ast.ClassDef)
                for statement, below in pairwise(node.body)
                if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr)
            }
    return texts


def format_help(cls: type, module_name: str) -> str:
    """Return the text of --help: usage, description, and every option with type, default and documentation.

    Args:
        cls: dataclass of the options.
        module_name: name of the module whose docstring is the description.
    """
    lines = [f"usage: {format_usage(cls)}", "", read_description(module_name), ""]
    for flag, kind, meaning in describe_options(cls):
        lines += [f"  {flag}  ({kind})", textwrap.indent(textwrap.fill(meaning, 102), " " * 8)]
    return "\n".join(lines)


def format_usage(cls: type) -> str:
    """Format the usage of the current command: its name, --config, --key, and the positional options."""
    path = Path(sys.argv[0])  # run_mrc.py, or run_mrc of `ernie-m run_mrc`
    is_official = issubclass(cls, OfficialFlags)
    return " ".join(
        [
            path.name if path.suffix else f"ernie-m {path.name}",
            "[--flag VALUE ...]" if is_official else "[--config FILE] [--key VALUE ...]",
            *(key.upper() for key, field in list_options(cls).items() if field.metadata.get("positional")),
        ]
    )


def read_description(module_name: str) -> str:
    """Read the docstring of an imported module: from its source, as `python -OO` removes `__doc__`."""
    module = ast.parse(inspect.getsource(sys.modules[module_name]))
    return ast.get_docstring(module) or ""


def describe_options(cls: type) -> list[tuple[str, str, str]]:
    """Return (flag, type with default or "required", documentation) of every option of the current command.

    Positional options come first, then required and important ones, then the others, with sections last.
    """
    options = sorted(
        ((key, field) for key, field in list_options(cls).items() if is_used_by_command(field)),
        key=lambda item: (
            _format_flag(*item)[0] == "-",
            not (_is_required(item[1]) or item[1].metadata.get("needed")),
            "." in item[0],
        ),
    )
    meanings = read_option_docs(cls)
    described = []
    for key, field in options:
        kind = "space-separated list" if _is_list_option(field) else describe_type(field.type)
        default = get_default(field)
        if default is MISSING:
            kind += "; required"
        elif default not in (None, "", [], {}):
            kind += f"; default: {json.dumps(default)}"
        described.append((_format_flag(key, field), re.sub(r"\ban? ", "", kind), meanings.get(key, "")))
    return described


def is_used_by_command(field: Field) -> bool:
    """Return whether the current command uses an option; several commands may share a dataclass."""
    command = Path(sys.argv[0]).stem
    return "no_effect" not in field.metadata and command in field.metadata.get("only", [command])
