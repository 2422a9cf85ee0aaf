"""Train an embedding model on sentence pairs. See docs/retrieval.md.

ernie-m train my --output model --model configs/e5-small

Pairs are found by file name and split into train and test pairs. A static model is trained first, as a
baseline; then the base model is fine-tuned, if one is given. log/commands.sh contains each step as a command.
The same command resumes an interrupted training.
"""

import sys
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from ernie_m.data.prepare import main as prepare
from ernie_m.data.prepare_pairs import FOUND, find_source_files
from ernie_m.data.train_vocab import main as train_vocab
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.start import run
from ernie_m.finetune.retrieval.training_plan import (
    Command,
    format_scores,
    plan_finetuning,
    plan_static_model,
)
from ernie_m.reader.files.pairs import parse_pair_files
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, get_command_name, say
from ernie_m.utils.files import atomic_file, compute_sha256, read_json
from ernie_m.utils.logging import show_only_warnings
from ernie_m.utils.output_lock import write_fingerprint
from ernie_m.utils.paddle_settings import read_cpu

_PLAN = "train.json"  # in the output: the inputs of the plan
# Command -> a function that runs it with its arguments.
_COMMANDS = {
    "prepare": prepare,
    "train_vocab": train_vocab,
    "run_retrieval": lambda words: run(parse_options(RetrievalFlags, words)),
}


@dataclass
class TrainFlags(TableOptions):
    """Command-line options of `ernie-m train`."""

    sources: list[str] = option(positional=True)
    """Directories or files of sentence pairs: en-de.tsv, .csv or .tmx, train.en next to train.de, or
    "en-de<=a.txt,b.txt"."""

    output: str
    """New output directory; the model is saved in best/."""

    model: str | None = option(None, needed=True)
    """Base model: a checkpoint in any supported format, or a model name on the Hugging Face Hub (default:
    none, to train a static model)."""


def main() -> None:
    """Run `ernie-m train`.

    Raises:
        UserError: --output contains other files, or a file or an option is invalid.
    """
    flags = parse_options(TrainFlags, None, __name__)
    output = Path(flags.output)
    pairs = output / "pairs"
    is_new = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not is_new and not (pairs / FOUND).is_file():
        raise UserError(
            f"--output {output} already exists and was not written by ernie-m train. Choose another folder"
        )
    found = find_source_files(flags.sources, output).pairs

    # Find the pairs first: their number and lengths determine the steps.
    of_tables = {field.name: getattr(flags, field.name) for field in fields(TableOptions)}
    options = [f"--{name}={value}" for name, value in of_tables.items() if value not in (None, "stop")]
    model = ["--model", flags.model] if flags.model else []
    words = ["prepare", "pairs", *flags.sources, "--output", pairs, *options, *model]
    split = Command("train/test split", words, pairs / FOUND)
    if not split.result.exists():
        run_step(split)
    # Resume only with the same model, files and options.
    paths = chain.from_iterable(parse_pair_files(file.files)[0] for file in found)
    digests = {path: compute_sha256(path) for path in paths}
    fingerprint = {"model": flags.model, "files": digests, "options": options}
    write_fingerprint(output / _PLAN, fingerprint, "choose a new folder")

    # Log the estimated time of each step, then run the steps; completed ones are skipped.
    facts = read_json(pairs / FOUND)
    table = output / "table" if flags.model else output
    of_table = plan_static_model(pairs, table, facts["pairs"])
    of_start = plan_finetuning(pairs, output, flags.model, facts) if flags.model else []
    cores = read_cpu().cores
    steps = [*of_table, *of_start]
    for number, step in enumerate(steps, 1):
        say(f"{number}/{len(steps)}, about {max(1, round(step.minutes / cores))} min: {step.purpose}")
    commands = output / "log" / "commands.sh"
    commands.parent.mkdir(exist_ok=True)
    with atomic_file(commands, "w") as file:
        file.writelines(f"{step}\n" for step in [split, *steps])
    say(f"commands: {commands}\n")
    for number, step in enumerate(steps, 1):
        with show_only_warnings():
            run_step(step, f"[{number}/{len(steps)}] ")
    folders = {"static baseline": table}
    if flags.model:
        folders |= {"base model": output / "before", "fine-tuned": output}
    say(
        f"\n{format_scores(folders, facts['pairs'])}\n",
        f"Saved {output / 'best'}.",
        f"Next: {get_command_name()} serve --model {output / 'best'} --corpus FILE",
    )


def run_step(step: Command, location: str = "") -> None:
    """Run a command of the plan in this process, unless it is complete. Exit after a stop request.

    Args:
        location: the number of the command in the plan, for the output.
    """
    if step.result.exists():
        say(f"{location}{step.purpose}: done")
        return
    say(f"{location}{step.purpose}")
    command, *words = map(str, step.words)
    code = 0
    try:
        _COMMANDS[command](words)
    except (KeyboardInterrupt, SystemExit):
        code = 130
    if code or not step.result.exists():
        say("interrupted; run the same command to resume", file=sys.stderr)
        sys.exit(code)
