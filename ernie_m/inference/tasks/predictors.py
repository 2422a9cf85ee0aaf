"""The predictor of each task, and its input files in the format of its training data."""

from collections.abc import Callable
from pathlib import Path

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import InputFile, Predictor
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.inference.tasks.finetuned import (
    AnsweringPredictor,
    ClassificationPredictor,
    TaggingPredictor,
    ZeroShotPredictor,
)
from ernie_m.inference.tasks.search import SearchPredictor
from ernie_m.inference.tasks.training_files import QuestionsFile, TaggedFile
from ernie_m.model.tasks import (
    CLASSIFICATION,
    EMBEDDING,
    FILL_MASK,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SEARCH,
    TOKEN_CLASSIFICATION,
    ZERO_SHOT,
)
from ernie_m.reader.files.table_options import TableOptions


def _make_fill_mask_predictor(model: LoadedModel, options: PredictionOptions) -> Predictor:
    """Create the predictor of masked tokens, the only one that imports Paddle."""
    from ernie_m.inference.tasks.fill_mask import FillMaskPredictor

    return FillMaskPredictor(model, options)


PREDICTORS: dict[str, Callable[[LoadedModel, PredictionOptions], Predictor]] = {
    CLASSIFICATION: ClassificationPredictor,
    MULTI_LABEL: ClassificationPredictor,
    REGRESSION: ClassificationPredictor,
    ZERO_SHOT: ZeroShotPredictor,
    TOKEN_CLASSIFICATION: TaggingPredictor,
    QUESTION_ANSWERING: AnsweringPredictor,
    EMBEDDING: EmbeddingPredictor,
    SEARCH: SearchPredictor,
    FILL_MASK: _make_fill_mask_predictor,
}
# The tasks whose training data have a format of their own. The others read tables.
TRAINING_FILES = {TOKEN_CLASSIFICATION: TaggedFile, QUESTION_ANSWERING: QuestionsFile}


def make_predictor(
    task: str, model: LoadedModel, options: PredictionOptions = PredictionOptions()
) -> Predictor:
    """Create the predictor of a task on a model.

    Args:
        task: a key of `PREDICTORS`.

    Raises:
        UserError: the model does not support the task, or an option is invalid.
    """
    return PREDICTORS[task](model, options)


def open_training_file(
    task: str, path: Path, options: TableOptions, predictor: Predictor
) -> InputFile | None:
    """Open an input file in the format of the task's training data; None if the file has another format.

    Raises:
        UserError: the file cannot be read.
    """
    return TRAINING_FILES[task].try_open(path, options, predictor) if task in TRAINING_FILES else None
