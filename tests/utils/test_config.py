"""A configuration is typed: every wrong key or value is one line that names it."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from utils.config import differences, load_config, read_yaml, save_config, within
from utils.errors import UserError


@dataclass
class Optimizer:
    peak_lr: float = 1e-4
    style: Literal["official", "paddlenlp"] = "official"


@dataclass
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    languages: list[str] = field(default_factory=list)
    steps: int = within("[1, )", 10)


def test_files_then_the_command_line(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("optimizer: {peak_lr: 1e-3}\nlanguages: [en, de]\nsteps: 5\n")
    second.write_text("steps: 6\noptimizer: {style: paddlenlp}")
    line = ["--config", str(first), f"--config={second}", "--languages", "[zh]"]
    assert load_config(Config, line) == Config(Optimizer(1e-3, "paddlenlp"), ["zh"], 6)
    assert load_config(Config, [*line, "--steps=7"]).steps == 7


def test_the_saved_file_reads_back_equal(tmp_path):
    config = Config(Optimizer(3e-4), ["zh"], 2)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Config, ["--config", str(tmp_path / "config.yaml")]) == config
    assert differences(read_yaml(tmp_path / "config.yaml"), config) == []


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("optimizer: {peek_lr: 1}", [], "a.yaml: unknown key 'peek_lr'|mean 'optimizer.peak_lr'"),
        ("stepz: 3", ["--steps", "3"], "a.yaml: unknown key 'stepz'|did you mean 'steps'"),
        ("steps: many", [], "a.yaml: |steps|int|many"),
        ("steps:", [], "a.yaml: steps: it has no value"),
        ("", ["--stepz", "3"], "command line: unknown key 'stepz'"),
        ("", ["--optimizer.peak_lr", "high"], "command line: |optimizer.peak_lr|float|high"),
        ("", ["--optimizer.style", "new"], "optimizer.style|official|new"),
        ("", ["--optimiser.peak_lr", "1"], "optimiser.peak_lr|did you mean"),
        ("", ["--config", "absent.yaml"], "absent.yaml"),
        ("", ["--config"], "command line: argument --config: expected one argument"),
        ("steps: 0", [], "a.yaml: steps is 0: it must be at least 1"),
        ("optimizer: {peak_lr: .nan}", [], "a.yaml: optimizer.peak_lr is nan: it must be a finite number"),
        ("", ["--optimizer.peak_lr", "1e999"], "command line: optimizer.peak_lr is inf"),
        # The parser would read these files, of any size, and quote them.
        ("config: /proc/version", [], "a.yaml: unknown key 'config'"),
        ("optimizer: /proc/version", [], "a.yaml: optimizer: it is a section"),
        ("", ["--optimizer", "/proc/version"], "command line: optimizer: it is a section; give its keys"),
    ],
)
def test_wrong_input_is_one_line_that_names_place_and_key(tmp_path, monkeypatch, text, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text or "steps: 1")
    with pytest.raises(UserError) as error:
        load_config(Config, ["--config", "a.yaml", *arguments])
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in expected.split("|")), message


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
