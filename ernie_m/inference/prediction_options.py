"""Options of prediction, for `ernie-m predict`, `ernie-m serve` and the Python API."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from ernie_m.model.pipeline_config import NEITHER, Pooling, TextKind
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import is_blank
from ernie_m.utils.value_types import Names, PositiveInt, Range, describe_type, is_valid


@dataclass
class EngineFlags:
    """Options of the inference engine."""

    engine: str = "auto"
    """Inference engine: openvino or paddle-eager for checkpoints, onnx or paddle-inference for exported
    models, or auto."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """Inference precision: bf16 requires an A100 or later GPU, or a CPU with AVX512-BF16 or AMX; fp16
    requires a GPU."""


@dataclass(kw_only=True)
class EmbeddingOptions:
    """Options of embeddings."""

    pooling: Pooling | None = None
    """Pooling of token states into an embedding: the mean over all tokens (mean), the mean without [CLS] and
    [SEP] (mean_without_special), the state of [CLS] (cls), or the pooler output (pooler) (default: the
    model's settings, otherwise mean_without_special)."""

    layer: str | int | None = None
    """Encoder layer of the embeddings: a number, middle or last (default: the model's settings, otherwise
    last)."""


@dataclass(kw_only=True)
class CommonOptions(EmbeddingOptions):
    """Options common to all predictions."""

    max_seq_len: int | None = None
    """Maximum length of a text or window in tokens (default: as in training, otherwise the model's
    maximum)."""

    top_k: PositiveInt = 5
    """Number of results for question-answering, fill-mask and search."""

    min_score: Annotated[float, Range(at_least=-1, at_most=1)] = -1.0
    """Minimum cosine of a hit of search."""

    normalize: bool | None = None
    """Whether to normalize embeddings to unit length (default: the model's settings, otherwise false)."""

    prompt: str | None = None
    """Name of the model's prompt for embedding and search, or "" for none (default: the model's prompt for
    the kind of text, if any)."""

    center_by_language: bool | None = None
    """Whether to subtract language means from embeddings (default: true for search if the means are known,
    otherwise false)."""

    corpus: Names | None = None
    """Text files to search, one text per line, optionally with their languages, as in
    de<=de.txt,fr<=fr.txt."""

    index: str | None = None
    """Directory of the search index, built from --corpus by the first search; later searches do not need
    --corpus."""

    labels: Names | None = None
    """Candidate labels for zero-shot, unless a request has its own."""

    hypothesis_template: str = "This example is {}."
    """Hypothesis template for zero-shot, with {} for the label."""

    multi_label: bool = False
    """Whether multiple labels can be true in zero-shot."""


@dataclass(kw_only=True, unsafe_hash=True)
class PredictionOptions(CommonOptions):
    """Options of prediction. In the Python API, `corpus` and `labels` are lists.

    Args:
        kind: the kind of texts to embed, which determines their prompt (`EmbeddingConfig.get_prompt`).
        given_labels: whether a classifier returns labels as passed to `fit` in Python.

    Raises:
        UserError: a value is invalid.
    """

    kind: TextKind = NEITHER
    given_labels: bool = False

    def __post_init__(self) -> None:
        for field in fields(CommonOptions):
            value = getattr(self, field.name)
            if field.name not in ("corpus", "index", "labels") and not is_valid(field.type, value):
                raise UserError(f"invalid {field.name} {value!r} (expected {describe_type(field.type)})")


@dataclass(kw_only=True)
class PredictorFlags(CommonOptions, EngineFlags):
    """Options of a model and its predictions."""

    model: str
    """Checkpoint in any supported format, or the output directory of ernie-m export."""

    def get_prediction_options(self) -> PredictionOptions:
        """Return the prediction options among the flags."""
        return PredictionOptions(**{field.name: getattr(self, field.name) for field in fields(CommonOptions)})


_MISSING = ("NAType", "NaTType")  # types of pandas.NA and NaT, which cannot be compared


def to_list(texts: Any, name: str) -> list[Any]:
    """Convert texts to a list; a string is one text, and pandas.NA becomes None.

    Args:
        name: the name of the argument, for errors.

    Raises:
        UserError: the texts are not an ordered collection, or are a table (iteration yields column names).
    """
    if isinstance(texts, str):
        return [texts]
    is_table = len(getattr(texts, "shape", " ")) != 1  # or an array that is not one-dimensional
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set | bytes) or is_table:
        raise UserError(
            f"{name} must be a str or a list of str, got {type(texts).__name__}. Of a table, pass one column"
        )
    return [None if type(text).__name__ in _MISSING else text for text in texts]


def parse_requests(predictor: Any, requests: Sequence[dict], on_empty: str = "error") -> list[Any]:
    """Parse requests with a predictor.

    Args:
        on_empty: "skip": the result for an empty text is None; "error": an empty text is an error.

    Raises:
        UserError: a request is invalid; with several requests, the message has its index.
    """
    contents = []
    for number, request in enumerate(requests):
        try:
            is_skipped = on_empty == "skip" and _is_empty(request["text"])
            contents.append(None if is_skipped else predictor.parse(request))
        except UserError as error:
            if len(requests) == 1:
                raise
            location = f"text {number + 1:,} of {len(requests):,} (index {number})"
            raise UserError(f"{location}: {error}") from error
    return contents


def _is_empty(text: Any) -> bool:
    """Return whether a text is blank or a missing value of a table."""
    if isinstance(text, str):
        return is_blank(text)
    return text is None or (isinstance(text, float) and math.isnan(text))


def parse_text_languages(center_by_language: Any, count: int) -> list[str] | None:
    """Return the language of each text in the argument `center_by_language`; None if it is a boolean.

    Args:
        count: the number of texts.

    Raises:
        UserError: the argument is not a boolean, a language, or a list with a language per text.
    """
    if isinstance(center_by_language, bool):
        return None
    if isinstance(center_by_language, str):
        return [center_by_language] * count
    is_list = isinstance(center_by_language, list | tuple)
    if (
        not is_list
        or len(center_by_language) != count
        or not all(isinstance(one, str) for one in center_by_language)
    ):
        raise UserError(
            f"invalid center_by_language {center_by_language!r} (expected True, a language, or a list of "
            f"{count} languages, one per text)"
        )
    return list(center_by_language)


def to_row(text: Any, index: int) -> list[str]:
    """Convert a text or a pair to a list of texts for `fit`, without tabs and line breaks.

    Args:
        index: the index of the text, for errors.

    Raises:
        UserError: the value is neither a text nor a pair of texts.
    """
    from ernie_m.reader.files.official_tsv import to_single_line

    row = list(text) if isinstance(text, list | tuple) else [text]
    if not 1 <= len(row) <= 2 or not all(isinstance(part, str) and not is_blank(part) for part in row):
        raise UserError(
            f"text {index + 1:,} (index {index}): invalid value {text!r} (expected a non-empty "
            "string or a pair of them). Remove it"
        )
    return list(map(to_single_line, row))


def to_values_per_text(values: Any, name: str, texts: Sequence[Any]) -> list[Any]:
    """Convert an argument with a value per text to a list; None becomes "" for each text.

    Args:
        name: the name of the argument, for errors.

    Raises:
        UserError: the number of values differs from the number of texts.
    """
    found = [""] * len(texts) if values is None else to_list(values, name)
    if len(found) != len(texts):
        raise UserError(f"{name}: expected one per text ({len(texts)}), got {len(found)}")
    return found
