"""YAML files that are refused, and what differs between two configurations."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from utils.config import differences, read_yaml
from utils.errors import UserError


@dataclass
class Optimizer:
    peak_lr: float = 1e-4
    style: Literal["official", "paddlenlp"] = "official"


@dataclass
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    languages: list[str] = field(default_factory=list)
    steps: int = 10


def test_a_file_without_end_is_not_read_whole():
    with pytest.raises(UserError, match="^/dev/zero: larger than 1 MiB"):
        read_yaml("/dev/zero")


def test_differences_name_the_keys():
    new = Config(Optimizer(style="paddlenlp"), steps=3)
    assert differences(Config(), new) == ["optimizer.style: official -> paddlenlp", "steps: 10 -> 3"]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", "expected 'key: value' lines"),
        ("a: [", "line 1, column 5: not YAML"),
        pytest.param("a: " + "[" * 100_000, "nested too deeply", id="deep"),
        ("a: &x [*x]", "line 1, column 8: not YAML (*x is an alias; write its value out)"),
        pytest.param("# " + "x" * (1 << 20), "larger than 1 MiB", id="large"),
        ("a: 2001-99-99", "not YAML (month must be in 1..12)"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_read_yaml_refuses_what_is_no_mapping_and_what_has_no_end(tmp_path, text, expected):
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="a.yaml") as error:
        read_yaml(path)
    assert expected in str(error.value)
