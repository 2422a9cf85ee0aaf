"""Checks of the flags and data files of a fine-tuning command, before Paddle and the weights are loaded."""

from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.reader.files.official_tsv import open_lines, parse_header
from ernie_m.reader.labels import expand_patterns, read_label_map, read_languages
from ernie_m.utils.errors import UserError, get_command_name, join_items

# Data folder of recipes, data/ and the task of `ernie-m prepare` -> the parts of `ernie-m download data`.
_PARTS = {
    "data/xnli": "xnli",
    "data/pawsx": "pawsx",
    "data/mlqa": "mlqa squad xquad",
    "data/panx": "panx",
    "data/conll": "conll",
}
_ANY = ["*"]  # for the language in a file name: any language


def check_inputs(flags: FinetuneFlags, expected_header: str = "") -> None:
    """Check the flags, then the files of --train_set, --dev_set, --test_set and --metric, and both maps.

    Args:
        expected_header: the header of TSV files, for errors, with text_a and label; "": the command has
            JSON files and no label map.

    Raises:
        UserError: a flag is invalid; or files cannot be read or lack columns, and the message names all of
            them, and the commands that write them.
    """
    flags.check()
    paths_of_error: dict[str, list[str]] = {}

    def collect_error(read: Callable[..., Any], path: str | Path, *arguments: Any) -> Any:
        try:
            return read(path, *arguments)
        except UserError as error:
            paths_of_error.setdefault(str(error).removeprefix(str(path)), []).append(str(path))

    def read_header(path: Path, columns: tuple[str, ...]) -> None:
        with open_lines(path) as (file, _):
            if columns:
                parse_header(file.readline(), path, columns, expected_header)

    if expected_header and flags.label_map_config and not flags.is_regression:
        collect_error(read_label_map, flags.label_map_config)
    languages = None
    if flags.lang_map_config:
        languages = collect_error(read_languages, flags.lang_map_config) or _ANY

    labeled: tuple[str, ...] = ("text_a", "label") if expected_header else ()
    columns_of_path = {Path(flags.train_set or ""): labeled} if flags.do_train else {}
    evaluated = {"dev": flags.do_val and flags.dev_set, "test": flags.do_test and flags.test_set}
    for purpose, patterns in evaluated.items():
        columns = labeled if purpose == "dev" else labeled[:1]
        for files in expand_patterns(patterns, languages, f"--{purpose}_set").values() if patterns else ():
            for path in files.values():
                paths = [path] if languages != _ANY else [Path(name) for name in sorted(glob(str(path)))]
                columns_of_path |= dict.fromkeys(paths, columns)
    if not flags.metric.isidentifier():  # FILE.py:FUNCTION, not an official name
        columns_of_path[Path(flags.metric.partition(":")[0])] = ()
    for path, columns in columns_of_path.items():
        if not path.is_fifo():  # can be read only once
            collect_error(read_header, path, columns)

    if paths_of_error:
        folder = Path(*Path(next(iter(paths_of_error.values()))[0]).parts[:2])
        parts = _PARTS.get(str(folder))
        command = get_command_name()
        advice = (
            f"sh scripts/data/get_data.sh {parts} (without a checkout: {command} download data {parts}) gets "
            f"these files or says how to; "
            f"{command} prepare {folder.name} FOLDER converts files that you have"
            if parts
            else f"{command} prepare writes such files from public datasets; {command} fit reads other tables"
        )
        errors = [f"{join_items(paths, 3)}{error}" for error, paths in paths_of_error.items()]
        raise UserError(*errors, advice)
