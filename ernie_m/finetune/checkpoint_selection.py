"""The score by which the dev files select the best checkpoint: the metric and --select_on."""

from collections.abc import Sequence

from ernie_m.finetune.custom_metric import load_metric
from ernie_m.finetune.evaluate import LanguageFile, Scores
from ernie_m.finetune.finetune_args import LAST, MEAN
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.score_tables import average
from ernie_m.model.tasks import QUESTION_ANSWERING
from ernie_m.utils.errors import UserError, join_items


def add_metric(task: FinetuningTask, metric: str, dev_files: Sequence[LanguageFile]) -> None:
    """Set the function of --metric as the metric of a task, after testing it on gold labels.

    Raises:
        UserError: see `load_metric`.
    """
    task.metric, task.custom_metric, task.metric_digest = load_metric(metric)
    for file in dev_files[:1]:
        gold = task.get_gold_values(file.data)
        first = [answers[0] for answers in gold] if task.name == QUESTION_ANSWERING else gold
        task.custom_metric(first, gold)


def check_selection(task: FinetuningTask, dev_files: Sequence[LanguageFile], select_on: str) -> None:
    """Check that each file which selects the best checkpoint has a score.

    Args:
        select_on: --select_on.

    Raises:
        UserError: the gold values of such a file have no score; the message names all of them.
    """
    unscored = [
        str(file.path)
        for file in dev_files
        if file.pattern == dev_files[0].pattern
        and select_on in (MEAN, LAST, file.language)
        and not task.has_score(file.data)
    ]
    if unscored and not task.custom_metric:
        raise UserError(
            f"{join_items(unscored)}: no {task.gold}, so no score to select a checkpoint by. Use files "
            "with labels, remove these languages from --lang_map_config, or set --do_val false"
        )


def compute_selection_score(scores: Scores, metric: str, select_on: str) -> float | None:
    """Compute the score of a step from the dev files of the first pattern: of a language, or the mean.

    Args:
        select_on: --select_on.

    Returns:
        The score, in percent; None: without gold values, which `check_selection` rejects for training.
    """
    by_language = {language: metrics[metric] for language, metrics in next(iter(scores.values())).items()}
    if select_on not in (MEAN, LAST):
        return by_language[select_on]
    known = {language: score for language, score in by_language.items() if score is not None}
    return average(known) if known == by_language else None
