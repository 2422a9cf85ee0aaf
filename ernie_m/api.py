"""The Python API: `load` and `Model`. See docs/predict.md.

import ernie_m

model = ernie_m.load("checkpoints/best")
model.classify([("A man eats.", "Somebody eats.")])
"""

import math
import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from ernie_m.inference.prediction_options import (
    PredictionOptions,
    parse_requests,
    parse_text_languages,
    to_list,
    to_row,
    to_values_per_text,
)
from ernie_m.inference.tasks import (
    AnswerPrediction,
    ClassificationPrediction,
    RankedText,
    SearchHit,
    TaggingPrediction,
    TokenPrediction,
    ZeroShotPrediction,
)
from ernie_m.model.pipeline_config import DOCUMENT, Pooling
from ernie_m.model.tasks import (
    CLASSIFICATION,
    EMBEDDING,
    FILL_MASK,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SUPERVISED_TASKS,
    TOKEN_CLASSIFICATION,
    ZERO_SHOT,
)
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import FileVersion
from ernie_m.utils.paddle_settings import configure_as_library, prepare
from ernie_m.utils.value_types import PositiveInt, describe_type, is_valid

if TYPE_CHECKING:
    import numpy as np

    from ernie_m.inference.load import LoadedModel
    from ernie_m.inference.tasks.search import SearchPredictor
    from ernie_m.reader.tokenization import Tokenizer


Engine = Literal["auto", "openvino", "paddle-eager", "paddle-inference", "onnx"]
Amp = Literal["none", "bf16", "fp16"]
SupervisedTask = Literal["classification", "token-classification", "question-answering"]
FitTask = Literal["classification", "multi-label", "regression"]
Layer = int | Literal["middle", "last"]


class SearchOptions(TypedDict, total=False):
    """Options of `Model.search`."""

    pooling: Pooling | None
    layer: Layer | None
    prompt: str | None


class IndexOptions(SearchOptions, total=False):
    """Options of `Model.index`."""

    center_by_language: bool | None


class EncodeOptions(SearchOptions, total=False):
    """Options of `Model.encode` and `Model.similarity`."""

    center_by_language: bool | str | Sequence[str]
    on_empty: Literal["error", "skip"]
    batch_size: int | None
    normalize: bool | None


def load(
    folder: str | os.PathLike[str],
    engine: Engine = "auto",
    task: SupervisedTask | None = None,
    amp: Amp = "none",
) -> "Model":
    """Load a checkpoint of any supported format, or an exported model, for prediction.

    The first call that uses Paddle applies Paddle's settings (docs/hardware.md). The environment variables
    and malloc are not changed.

    Args:
        folder: the directory of the checkpoint, or of an export by ernie-m export.
        engine: the inference engine: "auto"; for a checkpoint "openvino" or "paddle-eager"; for an export
            "paddle-inference" or "onnx".
        task: the task of the classification head, if no file specifies it: "classification",
            "token-classification" or "question-answering".
        amp: for checkpoints "bf16" (a CPU with avx512_bf16 or AMX, or an A100 or newer GPU) or "fp16" (GPU);
            "fp16" also for engine "paddle-inference" on a GPU.

    Raises:
        UserError: a file is missing, corrupt or inconsistent; the message states the fix.
    """
    from ernie_m.inference.load import load as load_model

    if not isinstance(folder, str | os.PathLike):
        raise UserError(f"load: folder must be a path, got {folder!r}")
    if task is not None and task not in SUPERVISED_TASKS:
        raise UserError(f"invalid task {task!r} (expected {describe_type(Literal[SUPERVISED_TASKS])})")
    configure_as_library()
    loaded = load_model(Path(folder), engine=engine, task=task, amp=amp)
    if task is not None and loaded.task != task:
        raise UserError(f"{folder}: task {task!r}: {loaded.describe_head()}")
    return Model(loaded)


def _reload(
    scores: dict[str, Any] | None, versions: dict[Path, FileVersion], *load_arguments: Any
) -> "Model":
    """Unpickle a saved model: load it again, and set its scores.

    Args:
        versions: the versions of the model's files when it was first loaded.
        load_arguments: the arguments of `load`.

    Raises:
        UserError: see `load`; or the files have changed.
    """
    loaded = load(*load_arguments).loaded
    loaded.check_unchanged(versions)
    return Model(loaded, scores)


def _unpickle(scores: dict[str, Any] | None, engine: str, pickled: bytes) -> "Model":
    """Unpickle a model from `fit` that was not saved.

    Args:
        engine: the inference engine.
        pickled: the pickled `LoadedModel`, and the attributes of its tokenizer.
    """
    configure_as_library()
    if engine == "paddle-eager":
        prepare()
    from ernie_m.reader.tokenization import Tokenizer

    loaded, state = pickle.loads(pickled)
    tokenizer = object.__new__(Tokenizer)
    vars(tokenizer).update(state)
    return Model(replace(loaded, tokenizer=tokenizer), scores)


class Model:
    """A model with its tokenizer for prediction and training, which can be copied and pickled.

    A string argument is a single text. A method raises `UserError` if the model does not support the task,
    or if an argument is invalid.

    Attributes:
        tokenizer: the `ernie_m.reader.tokenization.Tokenizer`.
        labels: the labels of the head, in the order of their ids; for a model from `fit`, as passed to `fit`.
        engine: "openvino" or "paddle-eager", or for an exported model "onnx" or "paddle-inference".
        scores: the cross-validation scores of a model from `fit`, in percent: "accuracy" and "macro_f1", or
            for regression "pearson" and "spearman"; the "standard_error" of the first one; the number of
            evaluated "rows"; the scores of the majority baseline ("most_frequent"); "by_language" and
            "by_label". None: not evaluated.
    """

    def __init__(self, loaded: "LoadedModel", scores: dict[str, Any] | None = None):
        self.scores = scores
        self.loaded = loaded
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.labels: list[Any] = loaded.given_labels
        self.engine: str = loaded.engine_name
        # Absolute, because the working directory may change. A model name of the hub is not a path.
        self._folder = loaded.folder.absolute() if loaded.folder.exists() else loaded.folder
        self._predictors: dict[tuple, Any] = {}  # (task, PredictionOptions) -> predictor

    def __repr__(self) -> str:
        loaded = self.loaded
        purpose = f"for {loaded.default_task}" if loaded.task else "an encoder"
        size = f"{loaded.num_layers} layers of {loaded.config.hidden_size}"
        return f"<ernie_m.Model {str(loaded.folder)!r}, {purpose}, {size}, engine {self.engine}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of the model, or, for a model from `fit` that was not saved, the model itself."""
        loaded = self.loaded
        if loaded.is_saved:
            task = None if loaded.task == FILL_MASK else loaded.task  # not a task of a classifier
            how = (self._folder, self.engine, task, loaded.amp)
            return _reload, (self.scores, loaded.versions, *how)
        from ernie_m.model.checkpoint.weights import Weights

        weights = loaded.weights and Weights.from_arrays(dict(loaded.weights))  # read from the folder now
        # `_unpickle` puts the tokenizer back.
        without: dict[str, Any] = {"tokenizer": None, "_engines": {}, "weights": weights}
        parts = replace(loaded, **without), vars(loaded.tokenizer)
        return _unpickle, (self.scores, self.engine, pickle.dumps(parts))

    def classify(self, texts: str | Iterable[str | Sequence[str]]) -> list[ClassificationPrediction]:
        """Classify texts or pairs of texts: {"label", "probabilities": {label: float}} for each.

        A multi-label model returns {"labels", "probabilities"}. A tuple of two strings is one pair, and a
        list of strings contains one text each.
        """
        is_pair = isinstance(texts, tuple) and all(isinstance(text, str) for text in texts)
        requests = []
        for text in to_list([texts] if is_pair else texts, "texts"):
            pair = text if isinstance(text, list | tuple) else [text]
            if not 1 <= len(pair) <= 2 or (len(pair) == 2 and pair[1] is None):
                raise UserError(f"{text!r} is neither a text nor a pair of texts")
            requests.append(dict(zip(("text_a", "text_b"), pair)))  # "text_b" of a pair only
        return self._predict(CLASSIFICATION, requests, PredictionOptions(given_labels=True))

    def zero_shot(
        self,
        texts: str | Iterable[str],
        labels: str | Sequence[str],
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
    ) -> list[ZeroShotPrediction]:
        """Classify texts by given labels (zero-shot): {"label", "probabilities": {label: float}} for each.

        Requires a model for natural language inference, with a label named entailment.

        Args:
            labels: the candidate labels, a list or a comma-separated string.
            hypothesis_template: a sentence in any language, with {} for the label.
            multi_label: whether several labels can apply to one text.
        """
        shared = {"labels": labels, "hypothesis_template": hypothesis_template, "multi_label": multi_label}
        return self._predict(ZERO_SHOT, [{"text": text, **shared} for text in to_list(texts, "texts")])

    def tag(self, texts: str | Iterable[str | Sequence[str]]) -> list[TaggingPrediction]:
        """Tag the words of texts, or lists of words: {"words", "tags", "entities"} for each."""
        requests = [
            {"words": [*text]} if isinstance(text, list | tuple) else {"text": text}
            for text in to_list(texts, "texts")
        ]
        return self._predict(TOKEN_CLASSIFICATION, requests)

    def answer(self, question: str, context: str) -> AnswerPrediction:
        """Extract the answer to a question in a context: {"answer", "start", "probability", "candidates"}."""
        (prediction,) = self._predict(QUESTION_ANSWERING, [{"question": question, "context": context}])
        return prediction

    def encode(
        self,
        texts: str | Iterable[str | float | None],
        pooling: Pooling | None = None,
        layer: Layer | None = None,
        center_by_language: bool | str | Sequence[str] = False,
        on_empty: Literal["error", "skip"] = "error",
        batch_size: int | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
    ) -> "np.ndarray":
        """Compute the embedding of each text: float32 [N, H].

        Log a warning with the number of truncated texts, and of texts with out-of-vocabulary words.

        Args:
            pooling: an `ernie_m.model.pipeline_config.Pooling`; None: the setting in the model's files, else
                "mean_without_special".
            layer: the encoder layer, a number, "middle" or "last"; None: the setting in the model's files,
                else "last".
            center_by_language: whether to subtract the mean embedding of the language, which requires the
                model's language means. True: detect the language by the nearest mean. A string is the
                language of all texts, and a list has the language of each text.
            on_empty: the handling of a text that is blank, None or NaN: "error", or "skip" to return a row of
                NaN, so that row i is always the embedding of text i.
            batch_size: the number of texts of the maximum length per batch; a batch has more texts if they
                are shorter. None: 4,096 tokens per batch.
            normalize: whether to scale embeddings to unit length; None: the setting in the model's files,
                else False.
            prompt: the name of the model's prompt to prepend to each text; "": no prompt; None: the default
                prompt of the model.
        """
        import numpy as np

        from ernie_m.reader.batching import BATCH_TOKENS
        from ernie_m.reader.text_featurizer import log_truncation
        from ernie_m.reader.vocabulary_coverage import count_unknown_words_per_text
        from ernie_m.utils.logging import iter_parts, logger

        if on_empty not in ("error", "skip"):
            raise UserError(f"invalid on_empty {on_empty!r} (choose from error, skip)")
        if not is_valid(PositiveInt | None, batch_size):
            raise UserError(f"invalid batch_size {batch_size!r} (expected an integer, at least 1)")
        sentences = to_list(texts, "texts")
        languages = parse_text_languages(center_by_language, len(sentences))
        centered = center_by_language is not False  # also if languages are given
        options = PredictionOptions(
            pooling=pooling, layer=layer, center_by_language=centered, normalize=normalize, prompt=prompt
        )
        predictor = self._get_predictor(EMBEDDING, options)
        inputs = parse_requests(predictor, [{"text": text} for text in sentences], on_empty)
        batch_tokens = BATCH_TOKENS if batch_size is None else batch_size * predictor.max_seq_len
        embeddings = np.full((len(inputs), self.loaded.config.hidden_size), np.nan, np.float32)
        numbers_of_texts = [number for number, text in enumerate(inputs) if text is not None]
        cut_count = 0
        unknown = []  # indices of texts
        for numbers in iter_parts(numbers_of_texts, "encoding"):
            features = predictor.tokenize_texts([inputs[number] for number in numbers])
            part_languages = None if languages is None else [languages[number] for number in numbers]
            embeddings[numbers] = predictor.encode_features(features, part_languages, batch_tokens)
            cut_count += sum(feature.cut for feature in features)
            unknown_words = count_unknown_words_per_text(
                self.tokenizer, [feature.ids for feature in features]
            )
            unknown += [numbers[index] for index in unknown_words.nonzero()[0]]
        log_truncation("encode", cut_count, len(inputs), "texts", predictor.max_seq_len)
        if unknown:
            logger.warning(
                "%d of %d texts have out-of-vocabulary words (first: index %d); their "
                "embeddings may be unreliable",
                len(unknown),
                len(inputs),
                unknown[0],
            )
        return embeddings

    def similarity(
        self, texts: str | Iterable[str], others: str | Iterable[str], **options: Unpack[EncodeOptions]
    ) -> "np.ndarray":
        """Compute the cosine similarity of each of N texts and each of M other texts: float32 [N, M].

        Args:
            options: see `encode`.
        """
        from ernie_m.vectors.pooling import normalize_vectors

        embeddings = normalize_vectors(self.encode(texts, **options))
        other_vectors = normalize_vectors(self.encode(others, **options))
        return embeddings @ other_vectors.T

    def search(
        self,
        text: str,
        corpus: str | Iterable[str],
        top_k: int = 5,
        center_by_language: bool | None = None,
        min_score: float = -1.0,
        **options: Unpack[SearchOptions],
    ) -> list[SearchHit]:
        """Return the `top_k` texts of a corpus that are most similar to a text, best first.

        Each hit is {"line", "index", "text", "score"}. Lines are numbered from 1, indices from 0. The score
        is the cosine similarity.

        Args:
            min_score: the minimum score of a hit.
            center_by_language: whether to subtract the mean embedding of the language; None: if the model has
                language means.
            options: `pooling` and `layer`, see `encode`, and `prompt`, the name of the prompt of the query.
        """
        if not isinstance(text, str):
            raise UserError(
                f"text must be a str, got {type(text).__name__}. For several texts use index(corpus).search"
            )
        sentences = to_list(corpus, "corpus")
        if not sentences:
            return []
        return self.index(sentences, center_by_language=center_by_language, **options).search(
            text, top_k, min_score
        )

    def index(
        self,
        corpus: str | Iterable[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        **options: Unpack[IndexOptions],
    ) -> "SearchPredictor":
        """Encode a corpus once for many searches: `index.search(text, top_k, min_score)` is like `search`.

        For a list of texts, `index.search` returns a list of hits for each text.

        Args:
            corpus: the texts; None: the texts in `folder`.
            folder: the directory of the index, which stores the texts and their embeddings; it is created if
                it does not exist, otherwise read. None: do not store them.
            options: `pooling`, `layer`, `center_by_language` and `prompt`, see `search`.

        Raises:
            UserError: the index is corrupt, or was built from other texts or with another model or layer.
        """
        from ernie_m.inference.tasks.search import SearchPredictor

        task_options = PredictionOptions(
            index=None if folder is None else os.path.expanduser(folder), **options
        )
        if corpus is None and folder is None:
            raise UserError("index: missing corpus (expected texts, or the directory of an index)")
        if corpus is not None:
            texts = to_list(corpus, "corpus")
            if not texts:
                raise UserError("the corpus is empty")
            of_vectors = PredictionOptions(
                pooling=task_options.pooling, layer=task_options.layer, kind=DOCUMENT
            )
            inputs = parse_requests(
                self._get_predictor(EMBEDDING, of_vectors), [{"text": text} for text in texts]
            )
            task_options = replace(task_options, corpus=tuple(inputs))  # type: ignore[arg-type]  # of a flag
        return SearchPredictor(self.loaded, task_options)

    def fit(
        self,
        texts: str | Iterable[str | Sequence[str]],
        labels: Iterable[Any],
        folder: str | os.PathLike[str] | None = None,
        layer: Layer | None = None,
        languages: Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        finetune: bool = False,
        task: FitTask | None = None,
    ) -> "Model":
        """Train a classifier or regression model on labeled texts, and return it with its `scores`.

        By default, a logistic regression is fitted on mean-pooled embeddings, which takes seconds, and
        evaluated by cross-validation. The encoder is frozen and truncated after the layer. The classifier
        computes in float32, even if this model was loaded with `amp`.

        With `finetune`, for pairs of texts and for regression, all weights are fine-tuned, which takes
        minutes, and evaluated on a fifth of the texts. After an interruption, the same call resumes from
        <folder>.training, which is removed at the end.

        Args:
            texts: texts, or pairs of texts.
            labels: the label of each text, compared after normalization (`ernie_m.reader.labels`); or a list
                of all its label names, which may be empty, or None if they are unknown; or a number.
            folder: the new directory of the model; None: do not save it. Fine-tuning requires a directory.
            layer: the encoder layer, a number from 1, "middle" or "last"; None: the setting in the model's
                files, else "last".
            languages: the language of each text; if given, translations are kept in one fold.
            groups: the group of each text, as in scikit-learn's GroupKFold; "" or None: no group. A group is
                kept in one fold.
            finetune: whether to fine-tune all weights.
            task: "classification", "multi-label" or "regression"; None: multi-label if the labels are lists,
                regression if they are floats with decimals, otherwise classification. Required if labels may
                be several labels in one string, or scores.

        Raises:
            UserError: there are fewer than two labels; the number of labels, languages or groups differs from
                the number of texts; a text or a label is invalid; the folder exists, or <folder>.training
                belongs to another run; scikit-learn is not installed; or the model was exported.
        """
        from ernie_m.fit.fit_model import fit_model
        from ernie_m.fit.labeled_rows import KINDS, build_dataset, reject_ambiguous_labels
        from ernie_m.reader.labels import is_missing
        from ernie_m.utils.logging import logger

        path = None if folder is None else Path(os.path.expanduser(folder))
        if path is not None and path.exists():
            raise UserError(f"{folder} already exists. Choose another folder")
        if task not in (None, *KINDS):
            raise UserError(f"invalid task {task!r} (expected {describe_type(Literal[KINDS])})")
        rows = [to_row(text, number) for number, text in enumerate(to_list(texts, "texts"))]
        # A row of a NumPy array is also a list.
        given = [label.tolist() if hasattr(label, "tolist") else label for label in to_list(labels, "labels")]
        if not rows:
            raise UserError("texts is empty")
        # Of pandas only: a list has a method `index`.
        indexes = [list(one.index) for one in (texts, labels) if hasattr(one, "iloc")]  # type: ignore[union-attr]
        if len(indexes) == 2 and indexes[0] != indexes[1] and {*indexes[0]} == {*indexes[1]}:
            logger.warning(
                "fit: the indexes of texts and labels are in another order; they are paired by position. To "
                "pair them by index, pass labels.loc[texts.index]"
            )
        are_lists = all(isinstance(label, list | tuple | set) or is_missing(label) for label in given)
        are_floats = all(isinstance(label, Real) and not isinstance(label, Integral) for label in given)
        # Whole floats are classes: pandas makes them of the integers of a column with gaps.
        are_scores = are_floats and any(label % 1 for label in given if math.isfinite(label))
        kind = task or (MULTI_LABEL if are_lists else REGRESSION if are_scores else CLASSIFICATION)
        if kind == MULTI_LABEL and not are_lists:
            raise UserError(f"task {kind} requires a list of labels for each text (it may be empty)")
        dataset = build_dataset(
            kind,
            rows,
            to_values_per_text(given, "labels", rows),
            [f"label {number:,} (index {number - 1})" for number in range(1, len(rows) + 1)],
            list(map(str, to_values_per_text(languages, "languages", rows))),
            to_values_per_text(groups, "groups", rows),
        )
        if (kind, task) == (CLASSIFICATION, None):
            reject_ambiguous_labels(dataset)
        for issue in dataset.find_issues():
            logger.warning("%s", issue)
        fitted = fit_model(self.loaded, dataset, path, finetune, layer)
        assert fitted is not None  # None only after a stop request
        loaded, scored = fitted
        return Model(loaded, None if scored is None else scored.to_dict())

    def rank(self, query: str, texts: Iterable[str], min_score: float | None = None) -> list[RankedText]:
        """Rank texts by relevance to a query: {"index", "text", "score"} for each, best first.

        The score has the scale of the training: that of the labels for a regression model from `fit`, and for
        a reranker such as BAAI/bge-reranker-v2-m3 a number from 0 to 1 (a sigmoid), unless its activation in
        sentence-transformers is Identity. A result also has "truncated" if the pair was truncated, and the
        number of "unknown_words" if any. Requires such a cross-encoder.

        Args:
            min_score: the minimum score of a result; None: no minimum.
        """
        sentences = to_list(texts, "texts")
        if not self.loaded.is_cross_encoder:
            raise UserError(f"{self.loaded.folder}: rank requires a cross-encoder")
        # None would be a single text.
        requests = [{"text_a": query, "text_b": text or ""} for text in sentences]
        predictions = self._predict(CLASSIFICATION, requests)
        best = sorted(range(len(predictions)), key=lambda number: -predictions[number]["score"])
        ranked: list[Any] = [{"index": i, "text": sentences[i], **predictions[i]} for i in best]
        return ranked if min_score is None else [row for row in ranked if row["score"] >= min_score]

    def fill(self, text: str, language: str | None = None, top_k: int = 5) -> list[list[TokenPrediction]]:
        """Return the `top_k` most probable tokens for each [MASK] in a text, with their probabilities.

        Args:
            language: the language of the tokens, for models with language embeddings; None: any language.
        """
        requests = [{"text": text, "language": language}]
        (prediction,) = self._predict(FILL_MASK, requests, PredictionOptions(top_k=top_k))
        return prediction["masks"]

    def _predict(
        self, task: str, requests: list[dict[str, Any]], options: PredictionOptions = PredictionOptions()
    ) -> list[Any]:
        """Return the predictions for requests, as `ernie-m predict` writes them.

        Args:
            task: one of `ernie_m.model.tasks.TASKS`.
        """
        from ernie_m.utils.logging import iter_parts

        predictor = self._get_predictor(task, options)
        inputs = parse_requests(predictor, requests)
        return [answer for part in iter_parts(inputs, "predicting") for answer in predictor.predict(part)]

    def _get_predictor(self, task: str, options: PredictionOptions) -> Any:
        """Return the predictor of a task with these options, which is created on the first call."""
        from ernie_m.inference.tasks.predictors import make_predictor

        key = (task, options)
        if key not in self._predictors:
            self._predictors[key] = make_predictor(task, self.loaded, options)
        return self._predictors[key]
