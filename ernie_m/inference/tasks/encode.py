"""Text embeddings: {"text"} -> {"embedding"}, with the caveats "truncated" and "unknown_words"."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from ernie_m.inference.engines import GraphRunner
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import Fields, get_caveats, read_text_key
from ernie_m.model.checkpoint.native_names import WORDS
from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL, NEITHER
from ernie_m.model.tasks import EMBEDDING
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS
from ernie_m.reader.text_featurizer import Example, Feature, TextFeaturizer
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.logging import logger
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.pooling import (
    SentenceEncoder,
    is_mean_of_tokens,
    normalize_vectors,
    parse_layer,
    pool_hidden_states,
)
from ernie_m.vectors.static_embeddings import StaticEncoder


class EmbeddingPredictor:
    """Predictor that computes an embedding per text.

    Args:
        options: uses `max_seq_len`, `pooling`, `layer`, `center_by_language`, `normalize`, `kind` and
            `prompt`.

    Attributes:
        normalize: whether embeddings have unit length.
        prompt: the prompt prepended to each text.
        encode: tokenizes texts into model inputs.
        means: the language means, which are subtracted from the embeddings; None: no centering.

    Raises:
        UserError: the layer, pooling or prompt is invalid for the model, the model lacks the means that
            `center_by_language` requires, or `pooling` is None and the model requires pooling steps that are
            not supported.
    """

    fields: ClassVar[Fields | None] = None

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        self.model = model
        self.options = options
        if model.pipeline_errors and options.pooling is None:
            errors = "; ".join(model.pipeline_errors)
            raise UserError(f"{errors}: not supported. To compute other embeddings, set pooling")
        self.max_seq_len = model.resolve_max_seq_len(options.max_seq_len, model.embedding_max_length)
        pipeline_config = model.pipeline_config
        self.normalize = pipeline_config.normalize if options.normalize is None else options.normalize
        try:
            self.prompt = pipeline_config.get_prompt(options.kind, options.prompt)
        except UserError as error:
            raise UserError(f"{model.folder}: {error}") from error
        if options.kind == NEITHER and options.prompt is None and pipeline_config.prompts and not self.prompt:
            logger.warning(
                "%s: no prompt is added to texts (the model has %s). For search, set prompt, or in requests "
                "to the server prompt_name or input_type",
                model.folder,
                join_items([*pipeline_config.prompts]),
            )
        self.encode = TextFeaturizer(model.tokenizer, self.max_seq_len, prompt=self.prompt)
        self.pooling = options.pooling or pipeline_config.pooling or MEAN_WITHOUT_SPECIAL
        layer = model.embedding_layer if options.layer is None else options.layer
        self.layer = parse_layer(layer, model.num_layers)
        if self.pooling == "pooler" and not model.has_pooler:
            raise UserError(
                f"{model.folder}: missing pooler weights, required by pooling pooler (--vectors official). "
                "Set mean, mean_without_special or cls"
            )
        if self.pooling == "pooler" and self.layer != model.num_layers:
            raise UserError(
                f"invalid layer {self.layer} for pooling pooler (expected the last layer, {model.num_layers})"
            )
        self.means = self.get_language_means() if options.center_by_language else None
        self.encoder = self._make_encoder()

    def _make_encoder(self) -> SentenceEncoder:
        """Build the encoder of token ids for the engine of the model."""
        model = self.model
        if model.engine_name == "paddle-eager":
            # Imported here, because importing Paddle takes a second.
            from ernie_m.vectors.encode import PaddleEncoder

            return PaddleEncoder(model.get_module(EMBEDDING), self.pooling, self.layer, model.autocast)
        if model.weights is not None and is_mean_of_tokens(model.config, self.pooling):
            return StaticEncoder(model.config, check_finite(WORDS, model.weights[WORDS], model.folder))
        engine = model.get_engine(EMBEDDING, self.layer)
        return GraphEncoder(engine, model.config, self.pooling, self.layer, model.get_workers)

    def get_language_means(self) -> LanguageCentering:
        """Return the language means of the model at the layer of the embeddings.

        Raises:
            UserError: the model has no means, or they were computed with a different pooling.
        """
        if self.pooling != MEANS_POOLING:
            raise UserError(
                f"pooling {self.pooling}: centering requires pooling {MEANS_POOLING}, the "
                "pooling of the language means"
            )
        return self.model.language_means.select_layer(self.layer)

    def parse(self, request: dict) -> str:
        return read_text_key(request, "text")

    def predict(self, texts: list[str]) -> list[dict]:
        features = self.tokenize_texts(texts)
        return [
            {"embedding": [round(float(x), 6) for x in embedding]}
            | get_caveats(self.model.tokenizer, text, is_truncated=feature.cut)
            for text, feature, embedding in zip(texts, features, self.encode_features(features))
        ]

    def tokenize_texts(self, texts: Sequence[str], prompt: str | None = None) -> list[Feature]:
        """Tokenize texts into model inputs.

        Args:
            prompt: the prompt to prepend to each text; None: the prompt of this predictor.
        """
        encode = self.encode
        if prompt is not None:
            encode = TextFeaturizer(encode.tokenizer, encode.max_seq_len, prompt=prompt)
        return encode([Example(text, text_b=None) for text in texts])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the embeddings of texts, float32 [N, H]."""
        return self.encode_features(self.tokenize_texts(texts))

    def encode_features(
        self,
        features: Sequence[Feature],
        languages: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> np.ndarray:
        """Compute the embeddings of tokenized texts, float32 [N, H].

        Args:
            features: the model inputs, from the method `tokenize_texts`.
            languages: the language of each text for centering; None: the language of the nearest mean.
            batch_tokens: maximum number of tokens in a forward pass, including padding.
        """
        embeddings = self.encoder.encode([feature.ids for feature in features], batch_tokens)
        if self.means is not None:
            embeddings = self.means.center(embeddings, languages)
        return normalize_vectors(embeddings) if self.normalize else embeddings


class GraphEncoder(SentenceEncoder):
    """Sentence encoder that runs an inference engine, and pools its outputs.

    Args:
        engine: the engine of the encoder.
        pooling: see `SentenceEncoder`.
        layer: the last layer of the engine.
        workers: returns the worker threads that run the engine.
    """

    def __init__(
        self,
        engine: GraphRunner,
        config: ErnieMConfig,
        pooling: str,
        layer: int,
        workers: Callable[[], Workers] = Workers,
    ):
        super().__init__(config, pooling, layer)
        self.engine = engine
        self.get_workers = workers

    def encode_batch(self, ids: np.ndarray) -> np.ndarray:
        outputs = self.run_engine(ids)
        if self.pooling == "pooler":
            return outputs["pooled"]
        return pool_hidden_states(ids, self.config.pad_token_id, self.pooling, outputs["sequence"])

    def compute_states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self.run_engine(ids)
        return outputs["pooled"], outputs["sequence"]

    def run_engine(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Run the engine on ids [B, T], int64; return "sequence" [B, T, H] and, if there, "pooled" [B, H].

        Raises:
            UserError: hidden_size in config.json does not match the graph.
        """
        outputs = self.engine(ids)
        width = outputs["sequence"].shape[-1]
        if width != self.config.hidden_size:
            raise UserError(
                f"config.json: hidden_size {self.config.hidden_size} does not match the exported model's "
                f"{width}. Export the model again"
            )
        return outputs
