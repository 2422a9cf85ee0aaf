"""Every wrong flag, key or value is one line that names it; both formats of command lines."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml

from ernie_m.finetune.finetune_args import log_ineffective_flags
from ernie_m.utils import __version__
from ernie_m.utils.args import OfficialFlags, format_help, option, parse_options
from ernie_m.utils.value_types import Names, PositiveInt, Range
from tests.helpers.files import write_file
from tests.launching import error_of

HOME = Path.home()


@dataclass
class Optimizer:
    """How the weights move."""

    peak_lr: float = 1e-4
    """The largest rate."""

    style: Literal["official", "paddlenlp"] = "official"
    """The schedule after the warm-up."""


@dataclass
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    """A section has no flag of its own."""

    languages: list[str] = field(default_factory=list)
    """The languages of
    the text."""

    steps: PositiveInt = 10
    """The number of steps, of which each reads a batch, computes its loss and gradients, and moves the
    weights."""

    ratios: dict[str, float] = field(default_factory=dict)
    limit: Annotated[float, Range(above=0, at_most=1)] | None = None
    output: str | None = option(None, needed=True)
    inputs: Names | None = None
    fast: bool = False


@dataclass
class Flags(OfficialFlags):
    epoch: PositiveInt = 3
    """The passes over the text."""

    do_test: bool = True
    random_seed: tuple[int, ...] | None = None
    test_set: str | None = None
    task_id: int = option(0, no_effect="there is one task")
    doc_stride: int = option(128, only=("run_mrc",))


def test_files_then_the_command_line(tmp_path):
    """A file overrides the one before it, and the command line all files, wherever a flag stands."""
    first = tmp_path / "a.yaml"
    second = tmp_path / "b.yaml"
    first.write_text("optimizer: {peak_lr: 1e-3}\nlanguages: [en, de]\nsteps: 5\n")
    second.write_text("steps: 6\noptimizer: {style: paddlenlp}")
    line = ["--config", str(first), f"--config={second}", "--languages", "[zh]"]
    assert parse_options(Config, line) == Config(Optimizer(1e-3, "paddlenlp"), ["zh"], 6)
    assert parse_options(Config, ["--steps=7", *line]).steps == 7


def test_the_saved_file_reads_back_equal(tmp_path):
    config = Config(Optimizer(3e-4), ["no", "on"], 2, {"mmlm": 0.5}, 0.25, "out")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    assert parse_options(Config, ["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (["--optimizer.peak_lr", "1e-3"], "optimizer", Optimizer(1e-3)),
        (["--steps", "010"], "steps", 10),
        (["--languages", "[en, '12']"], "languages", ["en", "12"]),
        (["--languages", "en, 12"], "languages", ["en", "12"]),
        (["--languages", "[no, 1]"], "languages", ["no", "1"]),
        (["--ratios", "{mmlm: 1}"], "ratios", {"mmlm": 1.0}),
        (["--limit", "null"], "limit", None),
        (["--output", "null"], "output", None),
        (["--output", "[a: b"], "output", "[a: b"),
        (["--output", "-"], "output", "-"),
        (["--fast", "--steps", "2"], "fast", True),
        (["--fast", "false"], "fast", False),
        (["--fast", "T"], "fast", True),
        (["--steps", "2", "--steps", "3"], "steps", 3),
        (["--output=~/out"], "output", f"{HOME}/out"),
        (["--inputs", "~/a,b~/c,~/d"], "inputs", f"{HOME}/a,b~/c,{HOME}/d"),
    ],
)
def test_values_on_the_command_line(line, name, value):
    assert getattr(parse_options(Config, line), name) == value


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        (
            "optimizer: {peek_lr: 1}",
            [],
            "a.yaml: optimizer.peek_lr: unknown option; did you mean --optimizer.p",
        ),
        ("peak_lr: 1", [], "a.yaml: peak_lr: unknown option; did you mean --optimizer.peak_lr?"),
        ("stepz: 3", ["--steps", "3"], "a.yaml: stepz: unknown option; did you mean --steps?"),
        ("12: 3", [], "a.yaml: 12: unknown option"),
        (
            "optimizer.peak_lr: 1\noptimizer: {peak_lr: 2}",
            [],
            "a.yaml: duplicate key 'optimizer.peak_lr'",
        ),
        ("- 1", [], "a.yaml: expected 'key: value' lines"),
        ("steps: [", [], "a.yaml: not YAML ("),
        pytest.param("steps: " + "[" * 100_000, [], "a.yaml: not YAML (maximum recursion", id="deep"),
        pytest.param("# " + "x" * (1 << 18), [], "a.yaml: larger than 262,144 bytes", id="large"),
        ("", ["--config", "/dev/zero"], "/dev/zero: larger than"),
        ("steps: 1\n'steps': 1", [], "a.yaml: not YAML (duplicate key 'steps' in "),
        ("ratios: {c: 2, d: 3,\n c: 4}", [], "a.yaml: not YAML (duplicate key 'c' in "),
        ("steps: &x [*x]", [], "a.yaml: steps &x [*x]: "),  # neither anchors nor tags: texts
        ("steps: !!python/object/apply:os.system [ls]", [], "a.yaml: steps !!python/"),
        ("steps: many", [], "a.yaml: steps many"),
        ("steps: 1.5", [], "a.yaml: steps 1.5"),
        ("steps: true", [], "a.yaml: steps true"),
        ("steps:", [], "a.yaml: steps"),
        ("steps: 0", [], "a.yaml: steps 0"),
        ("output: [1]", [], "a.yaml: output ['1']"),
        ("languages: {en: de}", [], "a.yaml: languages {'en': 'de'}"),
        ("ratios: {a: b}", [], "a.yaml: ratios {'a': 'b'}"),
        ("limit: 2", [], "a.yaml: limit 2"),
        ("fast: 2", [], "a.yaml: fast 2"),
        ("optimizer: {peak_lr: .nan}", [], "a.yaml: optimizer.peak_lr .nan"),
        (
            "stepz: 1\nlimit: 2",
            ["--steps", "0"],
            "a.yaml: stepz: unknown option; did you mean --steps?\n  a.yaml: limit 2: ",
        ),
        ("limit: 2", ["--zzz", "1", "--steps", "0"], "a.yaml: limit 2: "),
        ("", ["--stepz", "3"], "--stepz: unknown option; did you mean --steps?"),
        ("", ["--zzz", "3"], "--zzz: unknown option"),
        ("", ["--lang", "en"], "--lang: unknown option; did you mean --languages?"),
        ("", ["--max_limit", "1"], "--max_limit: unknown option; did you mean --limit?"),
        ("", ["-x", "3"], "unexpected argument '-x'"),
        (
            "",
            ["--optimiser.peak_lr=1"],
            "--optimiser.peak_lr: unknown option; did you mean --optimizer.peak",
        ),
        ("", ["--steps", "3", "4"], "unexpected argument '4'"),
        ("", ["--steps"], "missing value of --steps"),
        ("", ["--steps", "--fast"], "missing value of --steps"),
        ("", ["--config"], "missing value of --config"),
        ("", ["--optimizer.peak_lr", "high"], "--optimizer.peak_lr high: "),
        ("", ["--optimizer.peak_lr", "1e999"], "--optimizer.peak_lr 1e999: "),
        ("", ["--optimizer.style", "new"], "--optimizer.style new: "),
        ("", ["--fast", "ja"], "--fast ja: "),
        ("", ["--fast=ja"], "--fast ja: "),
        ("", ["--config", "absent.yaml"], "absent.yaml: "),
        # These must not be taken for the names of files.
        ("config: /proc/version", [], "a.yaml: config: unknown option"),
        ("optimizer: /proc/version", [], "a.yaml: optimizer: unknown option; it is a section"),
        ("optimizer:\n  style:official", [], "a.yaml: optimizer: unknown option; it is a section"),
        ("optimzer: {}", [], "a.yaml: optimzer: unknown option"),
        ("", ["--optimizer", "/proc/version"], "--optimizer: unknown option; it is a section"),
        ("", ["--inputs", "a, ,b"], "--inputs a, ,b: "),
        ("inputs: 'a,'", [], "a.yaml: inputs a,: "),
    ],
)
def test_rejects_invalid_input_by_location_and_key(tmp_path, in_tmp_path, text, arguments, expected):
    (tmp_path / "a.yaml").write_text(text or "steps: 1")
    assert error_of(parse_options, Config, ["--config", "a.yaml", *arguments]).startswith(expected)


@dataclass
class Required:
    model: str
    output: str
    steps: int = 1


def test_name_all_errors_at_once(tmp_path):
    path = write_file(tmp_path / "a.yaml", "stepz: 1\nsteps: 2.5")
    line = ["--config", str(path), "--zzz", "1", "--steps", "x", "--output", ""]
    lines = error_of(parse_options, Required, line).split("\n  ")
    locations = (
        f"{path}: stepz: ",
        f"{path}: steps 2.5",
        "--zzz: ",
        "--steps x: ",
        " --model ",
        " --output ",
    )
    assert [location in line for line, location in zip(lines, locations, strict=True)] == [True] * 6
    # A needed option whose name is misspelled is one error.
    (line,) = error_of(parse_options, Required, ["--modell", "x", "--output", "y"]).split("\n")
    assert line.startswith("--modell: ")


def test_official_command_line():
    """Values need no quotes or brackets. A flag's last value counts, and an empty one undoes the flag."""
    flags = parse_options(Flags, ["--random_seed", "1,2", "--do_test", "F", "--epoch=2"])
    assert parse_options(Flags, ["--random_seed", "[1, 2]"]).random_seed == (1, 2)
    assert flags == Flags(
        epoch=2,
        do_test=False,
        random_seed=(1, 2),
        on_command_line=("random_seed", "do_test", "epoch"),  # in order
    )
    assert parse_options(Flags, ["--epoch", "1", "--epoch", "2"]).epoch == 2
    undone = ["--test_set", "x", "--epoch", "2", "--test_set", "", "--epoch="]
    assert parse_options(Flags, undone) == Flags()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--epoch three", "--epoch three: "),
        ("--epoch 0", "--epoch 0: "),
        ("--do_test ture", "--do_test ture: "),
        ("--random_seed 1,x", "--random_seed 1,x: "),
        ("--epochs", "--epochs: unknown option; did you mean --epoch?"),
        ("--on_command_line x", "--on_command_line: unknown option"),
    ],
)
def test_mistakes_in_official_command_lines(line, expected):
    assert error_of(parse_options, Flags, line.split()).startswith(expected)


def test_flags_without_effect_say_so(caplog, info_log, monkeypatch):
    """Official flags that no command reads, and those that only another command reads."""
    monkeypatch.setattr("sys.argv", ["run_classifier.py"])
    log_ineffective_flags(parse_options(Flags, ["--task_id", "1", "--epoch", "2", "--doc_stride", "64"]))
    assert [message.split()[0] for message in caplog.messages] == ["--task_id", "--doc_stride"]


HELP = f"""\
usage: pretrain.py [--config FILE] [--key VALUE ...]

{__doc__}

  --output  (string)

  --languages  (comma-separated list)
        The languages of the text.
  --steps  (integer >= 1; default: 10)
        The number of steps, of which each reads a batch, computes its loss and gradients, and moves the
        weights.
  --ratios  (mapping such as {{mmlm: 0.5, tlm: 0.5}})

  --limit  (number > 0 and <= 1)

  --inputs  (comma-separated list of names)

  --fast  (true or false; default: false)

  --optimizer.peak_lr  (number; default: 0.0001)
        The largest rate.
  --optimizer.style  (one of official, paddlenlp; default: "official")
        The schedule after the warm-up.
"""


@pytest.mark.parametrize("line", ["--steps 3 --help", "--steps --help"])
def test_help_lists_each_option(monkeypatch, capsys, line):
    monkeypatch.setattr("sys.argv", ["somewhere/pretrain.py"])
    with pytest.raises(SystemExit) as ended:
        parse_options(Config, line.split(), __name__)
    assert not ended.value.code
    assert capsys.readouterr().out == HELP


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        parse_options(Flags, ["--version"])
    assert capsys.readouterr().out == f"ERNIE-M {__version__}\n"


@pytest.mark.parametrize("script, shows", [("run_mrc.py", True), ("run_classifier.py", False)])
def test_help_omits_what_only_other_commands_read(monkeypatch, script, shows):
    monkeypatch.setattr("sys.argv", [script])
    assert ("--doc_stride" in format_help(Flags, __name__)) is shows


@dataclass
class WithWords:
    task: Literal["xnli", "own"] = option(positional=True)
    """What to do."""

    sources: list[str] = option(positional=True)
    overwrite: bool = False
    output: str | None = None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("own a b --output x", WithWords("own", ["a", "b"], output="x")),
        ("--overwrite own --output x a", WithWords("own", ["a"], overwrite=True, output="x")),
        ("own --overwrite false a b", WithWords("own", ["a", "b"])),
        ("own --overwrite True a b", WithWords("own", ["a", "b"], overwrite=True)),
    ],
)
def test_words_without_a_flag(line, expected):
    """They may stand between the flags, and those after a bare flag are not its value."""
    assert parse_options(WithWords, line.split()) == expected


@pytest.mark.parametrize(
    ("line", "location"),
    [
        ("", "missing required option TASK (see --help)\n  missing required option SOURCES "),
        ("own", "SOURCES "),
        ("mlqa a", "--task mlqa: "),
        ("own a --outputs b", "--outputs: unknown option;"),
    ],
)
def test_mistakes_next_to_positional_arguments(line, location):
    assert location in error_of(parse_options, WithWords, line.split())


def test_help_begins_with_the_words(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prepare.py"])
    shown = [line for line in format_help(WithWords, __name__).splitlines() if line]
    assert shown == [
        "usage: prepare.py [--config FILE] [--key VALUE ...] TASK SOURCES",
        __doc__,
        "  TASK  (one of xnli, own; required)",
        "        What to do.",
        "  SOURCES  (space-separated list; required)",
        "  --overwrite  (true or false; default: false)",
        "  --output  (string)",
    ]
