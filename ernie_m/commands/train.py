"""Train a search model on sentence pairs: `ernie-m train my --output model --start configs/e5-small`.

It finds the pairs by the names of their files, holds some out, and trains a static model on the others,
which takes seconds. With a start it trains that, too, and the table says what the pairs alone teach. Every
step has a command of its own, which is printed; after an interruption the same command goes on.
See docs/retrieval.md.
"""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.data.own_pairs import FOUND, FoundFiles, find
from ernie_m.data.prepare.command import main as prepare_data
from ernie_m.data.train_vocab import main as train_vocab
from ernie_m.finetune.retrieval.flags import RetrievalFlags
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.files.pairs import PairFiles
from ernie_m.reader.files.rows import TableOptions
from ernie_m.training.claim import claim_file
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.errors import UserError, command_name, say
from ernie_m.utils.files import read_json, sha256_of
from ernie_m.utils.options import option, parse_options
from ernie_m.utils.paddle_settings import prepare, read_cpu
from ernie_m.utils.text_tables import in_columns

_PLAN = "train.json"  # in the output: what the steps are made from
_BATCH = 64  # pairs of a step, or fewer long ones
_STEP_TOKENS = 8192
# The learning rate and the most steps, by the width of the start: the small encoder of
# configs/pretrain/own.yaml, E5-small, released weights. Other widths take those of the nearest.
_RATE_AND_STEPS = {128: (1e-3, 9000), 384: (5e-5, 100), 768: (2e-5, 2000)}
# Static embeddings: docs/results.md has the study of these.
_TABLE = "configs/table/ernie_config.json"
_PIECES = 8000
_TABLE_BATCH = 512
_TABLE_RATE = 1e-2
_FEW_PAIRS = 100  # if fewer are held out, the log says how many per cent one of them is


@dataclass
class TrainFlags(TableOptions):
    """What to train on."""

    sources: list[str] = option(positional=True)
    """Folders, or files of pairs: en-de.tsv, .csv or .tmx, train.en beside train.de, each perhaps .gz;
    "en-de<=a.txt,b.txt" names others."""

    output: str
    """A new folder for the model, best/, and for the steps on the way."""

    start: str | None = option(None, needed=True)
    """The model to start from: a checkpoint, or the name of a model on Hugging Face's hub. Default: none; a
    static model is trained, with a vocabulary of the pairs."""


class Command(NamedTuple):
    """A command of the project.

    Attributes:
        purpose: what it does, in words.
        words: the program and its flags.
        result: the file that it writes last.
        minutes: how long it takes on one core.
    """

    purpose: str
    words: Sequence[object]
    result: Path
    minutes: float = 0.0

    def __str__(self) -> str:
        return shlex.join([command_name(), *map(str, self.words)])


def main() -> None:
    flags = parse_options(TrainFlags, None, __name__)
    output = Path(flags.output)
    is_new = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not is_new and not (output / "pairs" / FOUND).is_file():
        raise UserError(f"--output {output}: it exists, and ernie-m train did not make it; name a new folder")
    found = find(flags.sources, output)

    # Find the pairs first: how long they are and how many decides the steps.
    data = output / "pairs"
    words = ["prepare", "pairs", *flags.sources, "--output", data, *option_words(flags)]
    if flags.start:
        words += ["--model", flags.start]
    if not (data / FOUND).exists():
        carry_out(Command("find the pairs, and hold some out for the scores", words, data / FOUND))
    claim(output, flags, found)
    facts = read_json(data / FOUND)
    table = output / "table" if flags.start else output
    of_table = steps_of_table(output, table, found, facts["pairs"])
    of_start = []
    if flags.start:
        of_start = steps_on_pairs(output, flags.start, facts)
    # Say how long each step takes, then carry them out; those that are done are passed over.
    cores = read_cpu().cores
    for number, step in enumerate([*of_table, *of_start], 1):
        minutes = max(1, round(step.minutes / cores))
        say(
            f"\nstep {number} of {len(of_table + of_start)}, about {minutes} min: {step.purpose}\n  {step}",
        )
    for step in of_table:
        carry_out(step)
    folders = {"static embeddings": table}
    if flags.start:
        say("", scores(folders, facts["pairs"]))
        folders |= {"before": output / "before", "after": output}
    for step in of_start:
        carry_out(step)
    best = output / "best"
    say(
        f"\n{scores(folders, facts['pairs'])}\n",
        "Texts of another kind than these pairs are found less often: docs/retrieval.md has figures.",
        f"{best}: the model",
        "next, a page that searches the lines of a file:",
        f"  {command_name()} serve --model {best} --corpus FILE",
    )


def option_words(flags: TableOptions) -> list[str]:
    """The options of tables that are given, as on a command line."""
    given = {option.name: getattr(flags, option.name) for option in fields(TableOptions)}
    return [f"--{name}={value}" for name, value in given.items() if value not in (None, "stop")]


def claim(output: Path, flags: TrainFlags, found: FoundFiles) -> None:
    """Write down what the steps are made from, or compare it with what was.

    Raises:
        UserError: the output has the steps of another start or of other files.
    """
    paths = chain.from_iterable(PairFiles.find(file.files).paths for file in found.pairs)
    identity = {"start": flags.start, "files": {path: sha256_of(path) for path in paths}}
    words = option_words(flags)
    if words:
        identity["options"] = words
    claim_file(output / _PLAN, identity, "name a new folder")


def steps_of_table(output: Path, folder: Path, found: FoundFiles, counts: Mapping[str, Any]) -> list[Command]:
    """The steps that train a vocabulary on the pairs, and a table of its pieces.

    Args:
        folder: for the table; the vocabulary is below it.
    """
    pairs = output / "pairs"
    vocab = folder / "vocab"
    text: list[object] = []
    for file in (file for file in found.pairs if counts[file.name]["trained"]):
        in_order = sorted(file.languages, key=lambda language: language == "en")  # English last
        label = "-".join(in_order) or "query-positive"
        text += ["--parallel", f"{label}<={pairs / 'train' / file.name}.tsv"]
    trained, held_out = totals(counts)
    batch_size = max(2, min(_TABLE_BATCH, trained // 10))
    # More pairs bear a sharper softmax and fewer epochs; these fit the study in docs/results.md.
    scale = round(max(3.0, 3.5 * math.log10(trained) - 5.5), 1)
    epochs = max(3.0, 16.0 * (4000 / max(trained, 4000)) ** 0.5)
    steps = math.ceil(epochs * trained / batch_size)
    training = ["--ernie_config_path", _TABLE, "--piece_model_path", vocab / "piece.model"]
    training += ["--scale", scale, "--learning_rate", _TABLE_RATE]
    pieces = ["--vocab_size", _PIECES, "--hard_vocab_limit", "false"]
    return [
        Command(
            "train a vocabulary", ["train_vocab", "--output", vocab, *pieces, *text], vocab / "piece.model"
        ),
        Command(
            f"train a static model on {trained:,} pairs, and search the {held_out:,} held-out pairs",
            [*retrieval(output, folder), *on_pairs(output, batch_size, steps, parts=2), *training],
            folder / "retrieval.json",
        ),
    ]


def totals(counts: Mapping[str, Any]) -> tuple[int, int]:
    """How many pairs are trained on, and how many are held out, in all files."""
    trained = sum(count["trained"] for count in counts.values())
    return trained, sum(count["held_out"] for count in counts.values())


def retrieval(output: Path, folder: Path) -> list[object]:
    """The words of a search of the held-out pairs, whose report is in `folder`."""
    held_out = ["--pairs", output / "pairs" / "held-out", "--untrained", "false"]
    return ["run_retrieval", *held_out, "--checkpoints", folder]


def on_pairs(output: Path, batch_size: int, steps: int, parts: int = 5) -> list[object]:
    """The words of a training before the search, with an evaluation and a checkpoint after each part."""
    words = ["--do_train", "true", "--train_set", output / "pairs" / "train.tsv"]
    words += ["--loss", "softmax", "--both_directions", "true", "--batch_size", batch_size]
    words += ["--max_steps", steps, "--validation_steps", steps // parts, "--save_steps", steps // parts]
    return [*words, "--keep_checkpoints", 1]  # of E5-small one has 1.3 GB


def steps_on_pairs(output: Path, start: str, facts: Mapping[str, Any]) -> list[Command]:
    """The steps that score a model, train it on the pairs, and score it again.

    Args:
        start: the folder or the name of the model.
        facts: what `FOUND` holds: "pairs", the counts of each file, and "tokens_of_a_pair".

    Raises:
        UserError: the model has no layers.
    """
    config = open_checkpoint(start).config
    if config.is_static:
        raise UserError(f"--start {start}: it is a static model; leave --start out, and one is trained anew")
    # The nearest by ratio: 256 is nearer to 384 than to 128.
    nearest = min(_RATE_AND_STEPS, key=lambda width: abs(math.log(width / config.hidden_size)))
    rate, most_steps = _RATE_AND_STEPS[nearest]
    tokens = facts["tokens_of_a_pair"]
    trained, held_out = totals(facts["pairs"])
    batch_size = max(2, min(_BATCH, int(_STEP_TOKENS / tokens), trained // 10))
    steps = max(20, min(most_steps, 13 * trained // batch_size))  # at most 13 epochs
    model = ["--init_pretraining_params", start]
    training = [*on_pairs(output, batch_size, steps), "--learning_rate", rate]
    # The seconds that a pair takes in training, on one core: an estimate. In a search it takes a third.
    seconds = 1e-9 * config.num_hidden_layers * config.hidden_size**2 * tokens
    searched = held_out * seconds / 3
    validated = 6 * min(500, trained // 10) * seconds / 3  # before the first step and after five parts
    return [
        Command(
            f"search the {held_out:,} held-out pairs before the training",
            [*retrieval(output, output / "before"), *model],
            output / "before" / "retrieval.json",
            searched / 60,
        ),
        Command(
            f"train on {trained:,} pairs, and search again",
            [*retrieval(output, output), *training, *model],
            output / "retrieval.json",
            (steps * batch_size * seconds + validated + searched) / 60,
        ),
    ]


def run_retrieval(flags: RetrievalFlags) -> None:
    """What the command of this name does: search, or train and search."""
    with StopSignal(active=flags.do_train) as stop:
        prepare()
        # Not at the top, because Paddle reads its CPU settings when it is imported.
        from ernie_m.finetune.retrieval.command import search, train_then_search

        if flags.do_train:
            train_then_search(flags, stop)
        else:
            search(flags)
    stop.exit_as_asked()


def carry_out(step: Command) -> None:
    """Run a step in this process, unless it is finished; after a request to stop, this command ends."""
    if step.result.exists():
        say(f"\ndone: {step.purpose}")
        return
    say(f"\nnow: {step.purpose}\n  {step}")
    program, *words = map(str, step.words)
    code = 0
    try:
        if program == "run_retrieval":
            run_retrieval(parse_options(RetrievalFlags, words))
        else:
            {"prepare": prepare_data, "train_vocab": train_vocab}[program](words)
    except (KeyboardInterrupt, SystemExit):
        code = 130
    if code or not step.result.exists():
        say("stopped here; the same command goes on", file=sys.stderr)
        sys.exit(code)


def scores(folders: Mapping[str, Path], counts: Mapping[str, Any]) -> str:
    """The share of held-out pairs that are found, as a table, and what one of few pairs is in it.

    Args:
        folders: a name for the table -> the folder of a search.
        counts: the name of each file -> the numbers of its pairs.
    """
    lines = []
    for measure in ("cosine", "margin"):
        for name, folder in folders.items():
            for report in read_json(folder / "retrieval.json")["tables"]:
                if report["title"].startswith(f"mean of both directions, {measure},"):
                    (row,) = report["seeds"].values()
                    header = ["", *row]  # all reports have the same columns
                    cells = [f"{value:.1f}" for value in row.values()]
                    lines.append([f"{name}, by {measure}", *cells])
    title = "held-out pairs whose other side is found, per cent, mean of both directions"
    table = [title, in_columns([header, *lines])]
    for name, count in counts.items():
        if 0 < count["held_out"] < _FEW_PAIRS:
            table.append(f"one held-out pair of {name} is {100 / count['held_out']:.1f} per cent")
    return "\n".join(table)
