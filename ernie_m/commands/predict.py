"""Predict JSON lines or the rows of a table. See docs/predict.md.

echo '{"text": "A man eats."}' | ernie-m predict --task classification --model checkpoints/best
ernie-m predict --task embedding --model exported --engine onnx --input texts.jsonl --output vectors.jsonl
ernie-m predict --input new.csv --model checkpoints/kinds --output labeled.csv --sort uncertain
"""

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ernie_m.inference.prediction_options import PredictorFlags
from ernie_m.model.pipeline_config import COLUMNS, read_pipeline_config
from ernie_m.model.tasks import (
    CLASSIFICATION,
    EMBEDDING,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SEARCH,
    TASKS,
    TOKEN_CLASSIFICATION,
    ZERO_SHOT,
    find_task,
)
from ernie_m.reader.files.find_files import split_file_list
from ernie_m.reader.files.plain_text import split_extensions
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, escape_control_characters, say
from ernie_m.utils.files import read_json, reject_overwrite
from ernie_m.utils.value_types import PositiveShare

if TYPE_CHECKING:
    from ernie_m.inference.load import LoadedModel

_CLASSIFIERS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)  # which share one type of head
# Options that apply to some tasks only.
_FOR_TASKS = {
    "pooling": (EMBEDDING, SEARCH),
    "layer": (EMBEDDING, SEARCH),
    "prompt": (EMBEDDING, SEARCH),
    "corpus": (SEARCH,),
    "index": (SEARCH,),
    "labels": (ZERO_SHOT,),
    "target_accuracy": (CLASSIFICATION,),
}


@dataclass
class PredictFlags(PredictorFlags, LabelOptions):
    """Command-line options of `ernie-m predict`."""

    task: Literal[tuple(TASKS)] | None = None
    """Task to predict (default: the task of the model's head)."""

    input: str = option("-", needed=True)
    """Input file: JSON lines, a table, one text per line, CoNLL or SQuAD, or - for JSON lines on standard
    input."""

    output: str = option("-", needed=True)
    """New output file in the format of its name (.csv, .tsv, .jsonl, or .trec for search), compressed if it
    ends in .gz, .bz2 or .xz, or - for standard output."""

    sort: Literal["table", "uncertain"] = "table"
    """Order of a table's predicted rows: as in the input (table), or lowest confidence first (uncertain)."""

    target_accuracy: PositiveShare | None = None
    """Accuracy of classification, such as 0.95, for which to find the lowest probability that reaches it on
    the labeled rows of a table."""

    def __post_init__(self) -> None:
        corpus = [path for _, path in split_file_list(self.corpus)] if self.corpus else []
        if folders := [path for path in corpus if Path(path).is_dir()]:
            raise UserError(f"--corpus {folders[0]} is a folder (expected files, separated by commas)")
        # Do not overwrite existing files or the inputs.
        output = Path(os.path.realpath(self.output))
        if self.output != "-" and output.exists():
            raise UserError(f"--output {self.output} already exists. Choose another file")
        reject_overwrite(
            [self.input, *corpus], f"--output {self.output}", [output.with_name(f"{output.name}.part")]
        )


def main() -> None:
    """Run `ernie-m predict`."""
    flags = parse_options(PredictFlags, None, __name__)
    # Imported here, so that --help is fast.
    from ernie_m.inference.load import load
    from ernie_m.inference.predict_files import (
        JsonLines,
        TableFile,
        has_objects,
        read_requests,
        write_predictions,
    )
    from ernie_m.inference.tasks.predictors import TRAINING_FILES, make_predictor, open_training_file
    from ernie_m.reader.files.labeled_tables import TAGGED, open_unlabeled_table

    options = flags.get_prediction_options()
    settings = read_settings(flags.model)
    columns = read_trained_columns(flags.model, settings)
    errors = RowErrors("standard input" if flags.input == "-" else flags.input, flags.on_error == "skip")
    path = Path(flags.input)

    # Check the input before loading a model, where the format does not depend on it.
    ask = partial(open_unlabeled_table, path, flags, errors, columns, are_requests=has_objects(flags.input))
    table = None
    task = flags.task or find_task(str(settings.get("task")))
    if task in TASKS and task not in TRAINING_FILES:
        table = ask()
        table.check_text_columns(
            read_pipeline_config(settings, None).pairs if task in _CLASSIFIERS else False
        )
        errors.report(partial(say, file=sys.stderr))
    model = load(flags.model, engine=flags.engine, task=flags.task, amp=flags.amp)
    task = choose_task(flags, model)
    predictor = make_predictor(task, model, options)

    # Tagging and question answering first check for an official file.
    file = None if flags.input == "-" else open_training_file(task, path, flags, predictor)
    if file is None:
        is_question = task == QUESTION_ANSWERING
        alternatives = [TAGGED.format("--columns WORD,TAG")] if task == TOKEN_CLASSIFICATION else []
        table = table or ask(are_questions=is_question, alternatives=alternatives)
        table.check_text_columns(model.pipeline_config.pairs if task in _CLASSIFIERS else is_question)
        if flags.target_accuracy and (table.are_requests or not table.labels):
            raise UserError("--target_accuracy requires a table with a column of labels. Set --label COLUMN")
        file = (
            JsonLines(table)
            if table.are_requests
            else TableFile(table, flags.sort != "table", flags.output, flags.target_accuracy)
        )
    may_sort = isinstance(file, TableFile) and task in (CLASSIFICATION, MULTI_LABEL, QUESTION_ANSWERING)
    if flags.sort != "table" and not may_sort:
        raise UserError(f"--sort {flags.sort} requires a table, and a task with probabilities. Remove --sort")

    requests = read_requests(file, predictor.parse, errors)
    if all(request.content is None for request in requests):
        say(f"--input {flags.input}: empty input, no predictions", file=sys.stderr)
    write_predictions(predictor, requests, file, flags.output)
    if requests and split_extensions(flags.output)[0] != ".trec":
        for line in file.format_summary():
            say(escape_control_characters(line), file=sys.stderr)


def choose_task(flags: PredictFlags, model: "LoadedModel") -> str:
    """Return the task to predict: --task, or the task of the model's head.

    Raises:
        UserError: the task is not specified, the model is for another task, or an option is for another task.
    """
    task = flags.task or model.default_task
    if task is None:
        raise UserError(f"--model {flags.model} has no head. Set --task")
    if task in _CLASSIFIERS and model.default_task in _CLASSIFIERS and task != model.default_task:
        raise UserError(f"--task {task}: the task of {flags.model} is {model.default_task}. Remove --task")
    given = [name for name, tasks in _FOR_TASKS.items() if getattr(flags, name) and task not in tasks]
    if given:
        raise UserError(
            f"--{given[0]} requires task {' or '.join(_FOR_TASKS[given[0]])}, got {task}. Remove --{given[0]}"
        )
    if split_extensions(flags.output)[0] == ".trec" and task != SEARCH:
        raise UserError(f"--output {flags.output}: a run file (.trec) requires task search, got {task}")
    return task


def read_settings(model: str) -> dict[str, Any]:
    """Read config.json of a model directory; {} if it is missing."""
    path = Path(model) / "config.json"
    settings = read_json(path) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def read_trained_columns(model: str, settings: dict[str, Any]) -> dict[str, str]:
    """Return the columns of a model's training table: option -> column name.

    Args:
        model: the directory of the model, for errors.
        settings: the content of config.json.

    Raises:
        UserError: the columns in config.json are invalid.
    """
    columns = settings.get(COLUMNS, {})
    if not (isinstance(columns, dict) and all(isinstance(name, str) for name in columns.values())):
        raise UserError(
            f"{model}: config.json: invalid '{COLUMNS}' (expected an object that maps options to columns)"
        )
    return columns
