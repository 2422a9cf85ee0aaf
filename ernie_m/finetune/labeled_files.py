"""The labeled files of a run: reading, and warnings about their rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.finetune.evaluate import LanguageFile
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.model.tasks import CLASSIFICATION
from ernie_m.reader.labels import expand_patterns, find_label_issues, read_languages
from ernie_m.utils.logging import logger


def read_files(
    task: FinetuningTask, patterns: str, purpose: str, language_map: str | None
) -> list[LanguageFile]:
    """Read the files of --dev_set or --test_set, in the order of the patterns and then of the languages.

    Args:
        patterns: the value of --dev_set or --test_set.
        purpose: "dev" or "test".
        language_map: the value of --lang_map_config.

    Raises:
        UserError: a file is missing or invalid.
    """
    languages = read_languages(language_map) if language_map else None
    files = []
    file_sets = expand_patterns(patterns, languages, f"--{purpose}_set")
    for pattern, path_of_language in file_sets.items():
        for language, path in path_of_language.items():
            files.append(LanguageFile(pattern, language, path, task.read(path, purpose)))
    return files


def check_rows(
    task: FinetuningTask, train_paths: Sequence[str], train_set: Sequence[Any], files: Sequence[LanguageFile]
) -> None:
    """Log warnings about truncated rows, conflicting labels, and evaluation rows in the training data."""
    has_ids = task.name == CLASSIFICATION and not task.get_pipeline_settings().get("regression")
    named: list[tuple[str | Path, Any]] = [(path, train_set) for path in train_paths]  # one, or none
    trained = None  # `hash_input` of the training rows
    for name, data in [*named, *((file.path, file.data) for file in files)]:
        task.warn_if_truncated(name, data)
        inputs = task.hash_inputs(data)
        targets, location = (data.targets, data.get_location) if has_ids else (np.zeros(0), str)
        for error in find_label_issues(inputs, targets, location, trained_inputs=trained):
            logger.warning("%s: %s", name, error)
        trained = inputs if data is train_set else trained
