"""A configuration is typed: every wrong key or value is one line that names it."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from utils.config import differences, load_config, read_yaml, save_config
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

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"steps: {self.steps} is below 1")


def test_yaml_then_command_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("optimizer: {peak_lr: 1e-3}\nlanguages: [en, de]\nsteps: 5\n")
    config = load_config(
        Config,
        ["--config", str(path), "--optimizer.style", "paddlenlp", "--steps", "7"],
    )
    assert config == Config(Optimizer(1e-3, "paddlenlp"), ["en", "de"], 7)


def test_the_saved_file_reads_back_equal(tmp_path):
    config = Config(Optimizer(3e-4), ["zh"], 2)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Config, ["--config", str(tmp_path / "config.yaml")]) == config
    assert differences(read_yaml(tmp_path / "config.yaml"), config) == []


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        (
            "optimizer: {peek_lr: 1}",
            [],
            ["peek_lr", "did you mean 'optimizer.peak_lr'"],
        ),
        ("stepz: 3", [], ["stepz", "did you mean 'steps'"]),
        ("steps: many", [], ["steps", "int", "many"]),
        ("", ["--optimizer.peak_lr", "high"], ["optimizer.peak_lr", "float", "high"]),
        ("", ["--optimizer.style", "new"], ["optimizer.style", "official", "new"]),
        ("", ["--optimiser.peak_lr", "1"], ["optimiser.peak_lr", "did you mean"]),
        ("steps: [", [], ["a.yaml, line 1, column 9: not YAML"]),
        ("", ["--config", "absent.yaml"], ["absent.yaml"]),
        ("steps: 0", [], ["steps", "below 1"]),
        # The parser would read these files, of any size, and quote them.
        ("config: /proc/version", [], ["a.yaml", "unknown key 'config'"]),
        ("optimizer: /proc/version", [], ["a.yaml", "optimizer: it is a section"]),
        ("", ["--optimizer", "/proc/version"], ["--optimizer is a section; give its keys"]),
        ("/proc/version", [], ["a.yaml: expected 'key: value' lines"]),
    ],
)
def test_wrong_input_is_one_line_that_names_the_key(tmp_path, text, arguments, expected):
    path = tmp_path / "a.yaml"
    path.write_text(text or "steps: 1")
    with pytest.raises(UserError) as error:
        load_config(Config, ["--config", str(path), *arguments])
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in expected), str(error.value)


@pytest.mark.parametrize(
    ("text", "arguments", "blamed"),
    [
        ("steps: 3", ["--stepz", "3"], "command line: unknown key 'stepz'"),
        ("steps: 3", ["--optimizer.peak_lr", "high"], "command line: "),
        ("steps: 3", ["--steps=0"], "command line: steps: 0 is below 1"),
        ("stepz: 3", ["--steps", "3"], "a.yaml: unknown key 'stepz'"),
        ("steps: 0", ["--optimizer.peak_lr", "1"], "a.yaml: steps: 0 is below 1"),
    ],
)
def test_the_place_of_the_mistake_is_blamed(tmp_path, monkeypatch, text, arguments, blamed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(Config, ["--config", "a.yaml", *arguments])
    assert str(error.value).startswith(blamed), error.value


@pytest.mark.parametrize("value", [".nan", "-.inf", "inf", "1e999"])
def test_a_number_that_is_not_finite(tmp_path, value):
    with pytest.raises(UserError, match=r"optimizer\.peak_lr") as refused:
        load_config(Config, ["--optimizer.peak_lr", value])
    assert "\n" not in str(refused.value)


def test_differences_name_the_keys():
    new = Config(Optimizer(style="paddlenlp"), steps=3)
    assert differences(Config(), new) == [
        "optimizer.style: official -> paddlenlp",
        "steps: 10 -> 3",
    ]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> (absent)", "b: (absent) -> 2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", "expected 'key: value' lines"),
        ("a: [", "not YAML"),
        ("just words", "expected 'key: value' lines"),
        pytest.param("a: " + "[" * 100_000, "nested too deeply", id="deep"),
        ("a: &x [*x]", "line 1, column 8: not YAML (*x is an alias; write its value out)"),
        ("a: &x {b: 1}\nc: {<<: *x}", "line 2, column 9: not YAML (*x is an alias"),
        pytest.param("# " + "x" * (1 << 20), "larger than 1 MiB", id="large"),
        ("a: 2001-99-99", "not YAML (month must be in 1..12)"),
        ("a: !!int", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!bool x", "not YAML"),
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
    with pytest.raises(UserError, match="a.yaml"):
        load_config(Config, ["--config", str(path)])
