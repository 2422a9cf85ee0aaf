"""YAML files: reading them, and writing a configuration."""

import dataclasses
import os
import re
from typing import Any, ClassVar

import yaml

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_text

LARGEST_YAML = 256 << 10  # bytes
LONGEST_NUMBER = 100  # characters; Python takes long for thousands of digits, and does not print them
# PyYAML raises these on a value that does not fit its tag, besides its own kind of error.
_NO_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_BOOLEAN = "tag:yaml.org,2002:bool"
_TRUE_OR_FALSE = re.compile("(true|True|TRUE|false|False|FALSE)$")


class _Loader(yaml.SafeLoader):
    """The safe loader without duplicate keys, endless numbers, and aliases, which grow without end.

    As in YAML 1.2, only true and false are booleans, so that no can be the code of Norwegian.
    """

    # The first character of a value -> the tags that the value may have, each with the pattern of its values.
    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, _TRUE_OR_FALSE if tag == _BOOLEAN else pattern) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """What PyYAML calls for each node of the file."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _refusal(f"*{event.anchor} is an alias; write its value out", event.start_mark)
        node = super().compose_node(parent, index)
        if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise _refusal(f"a number of {len(node.value):,} characters", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            line_of: dict[str, int] = {}
            for key, _ in node.value:
                name = str(key.value)
                if name in line_of:
                    raise _refusal(f"line {line_of[name]} has the key '{name}', too", key.start_mark)
                line_of[name] = key.start_mark.line + 1
        return node


def _refusal(problem: str, place: yaml.Mark) -> yaml.YAMLError:
    """What PyYAML would raise at this place."""
    return yaml.composer.ComposerError(None, None, problem, place)


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a YAML file as a dict.

    Raises:
        UserError: it cannot be read, is larger than 256 KiB, has aliases or duplicate keys, or is no mapping.
    """
    text = read_text(path, LARGEST_YAML)
    try:
        values = yaml.load(text, _Loader)
    except _NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not YAML (nested too deeply)") from error
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    return values or {}  # None: the file is empty


def yaml_value(text: str) -> Any:
    """The value that a text has in YAML. A text that is no YAML stands for itself."""
    try:
        return yaml.load(text, _Loader)
    except (*_NO_YAML, RecursionError):
        return text


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, in the dataclass's order; `load_config` reads it back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=110)
