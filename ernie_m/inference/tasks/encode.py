"""Vectors of texts: {"text"} -> {"embedding"}, "truncated" if the text was too long, and "unknown_words"."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from ernie_m.inference.engines import GraphRunner
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import in_parts
from ernie_m.inference.tasks import Fields, PredictionOptions, remarks, text_of
from ernie_m.model.checkpoint.key_mapping import WORDS
from ernie_m.model.checkpoint.weights import finite
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL
from ernie_m.model.tasks import EMBEDDING
from ernie_m.model.threads import Workers
from ernie_m.reader.batching import BATCH_TOKENS, EncodePairs, Example, Feature
from ernie_m.utils.errors import UserError
from ernie_m.vectors.language_centering import MEANS_POOLING, LanguageCentering
from ernie_m.vectors.pooling import SentenceEncoder, layer_number, takes_piece_means, unit, weighted_sums
from ernie_m.vectors.static_embeddings import StaticEncoder


class EncodeTexts:
    """Makes one vector of each text.

    Args:
        options: `max_seq_len`, `pooling`, `layer`, `center_by_language`, `normalize`, `kind` and `prompt` are
            used.

    Attributes:
        normalize: whether vectors have length 1.
        prompt: what is put before every text.
        encode: makes the model inputs.
        means: the mean vectors of the languages, which are subtracted from the vectors; None: no subtraction.

    Raises:
        UserError: the model has no such layer or prompt, the pooling is that of another layer or needs a
            pooler that is not there, there are no means although `center_by_language` is true, or the
            files ask for vectors that cannot be made here, and no pooling is given.
    """

    fields: ClassVar[Fields | None] = None

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        self.model = model
        self.options = options
        if model.preprocessing_errors and options.pooling is None:
            errors = "; ".join(model.preprocessing_errors)
            raise UserError(f"{errors}: this is not done here; name a pooling to make other vectors")
        self.max_seq_len = model.limit(options.max_seq_len, model.embedding_max_length)
        preprocessing = model.preprocessing
        self.normalize = preprocessing.normalize if options.normalize is None else options.normalize
        try:
            self.prompt = preprocessing.prompt(options.kind, options.prompt)
        except UserError as error:
            raise UserError(f"{model.folder}: {error}") from error
        self.encode = EncodePairs(model.tokenizer, self.max_seq_len, prompt=self.prompt)
        self.pooling = options.pooling or preprocessing.pooling or MEAN_WITHOUT_SPECIAL
        layer = model.embedding_layer if options.layer is None else options.layer
        self.layer = layer_number(layer, model.num_layers)
        if self.pooling == "pooler" and not model.has_pooler:
            raise UserError(
                f"{model.folder}: the weights have no pooler, which the pooling pooler (--vectors official) "
                "needs; take mean, mean_without_special or cls"
            )
        if self.pooling == "pooler" and self.layer != model.num_layers:
            raise UserError(
                f"pooling pooler is that of the last layer, {model.num_layers}; layer {self.layer} has none"
            )
        self.means = self.get_language_means() if options.center_by_language else None
        self.encoder = self._make_encoder()

    def _make_encoder(self) -> SentenceEncoder:
        model = self.model
        if model.engine_name == "paddle-eager":
            from ernie_m.vectors.encode import PaddleEncoder  # here, because Paddle takes a second to start

            return PaddleEncoder(model.part(EMBEDDING), self.pooling, self.layer, model.autocast)
        if model.weights is not None and takes_piece_means(model.config, self.pooling):
            return StaticEncoder(model.config, finite(WORDS, model.weights[WORDS], model.folder))
        engine = model.engine(EMBEDDING, self.layer)
        return GraphEncoder(engine, model.config, self.pooling, self.layer, model.workers)

    def get_language_means(self) -> LanguageCentering:
        """The means of the languages at this layer.

        Raises:
            UserError: the model has none, or they are of another pooling.
        """
        if self.pooling != MEANS_POOLING:
            raise UserError(
                f"pooling {self.pooling}: centered vectors need pooling {MEANS_POOLING}, with which the "
                "means of the languages were made"
            )
        return self.model.language_means.at(self.layer)

    def parse(self, request: dict) -> str:
        return text_of(request, "text")

    def answer(self, texts: list[str]) -> list[dict]:
        features = self.features(texts)
        answers: list[dict] = []
        for text, feature, vector in zip(texts, features, self.vectors_of(features)):
            said = remarks(self.model.tokenizer, text, cut=feature.cut)
            answers.append({"embedding": [round(float(x), 6) for x in vector], **said})
        return answers

    def features(self, texts: Sequence[str], prompt: str | None = None) -> list[Feature]:
        """The model inputs of texts.

        Args:
            prompt: what is put before each of them; None: what is put before all texts.
        """
        encode = self.encode
        if prompt is not None:
            encode = EncodePairs(encode.tokenizer, encode.max_seq_len, prompt=prompt)
        return encode([Example(text, text_b=None) for text in texts])

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of texts, float32 [N, H]."""
        return self.vectors_of(self.features(texts))

    def vectors_of(
        self,
        features: Sequence[Feature],
        languages: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> np.ndarray:
        """The vectors of `features`, float32 [N, H].

        Args:
            languages: the language of each text, if vectors are centered; None: a text has the language whose
                mean is nearest.
            batch_tokens: padded tokens in one forward pass.
        """
        vectors = self.encoder.vectors([feature.ids for feature in features], batch_tokens)
        if self.means is not None:
            vectors = self.means.centered(vectors, languages)
        return unit(vectors) if self.normalize else vectors


def encode_in_parts(
    encode: Callable[[Sequence[str]], np.ndarray],
    texts: Sequence[str],
    description: str,
    size: int | None = None,
) -> np.ndarray:
    """The vectors of texts, float32 [N, H], which are in memory once.

    Args:
        encode: makes the vectors of some texts.
        description, size: as `in_parts` takes them.
    """
    vectors = np.empty((0, 0), np.float32)
    for rows in in_parts(range(len(texts)), description, size):
        new = encode(texts[rows.start : rows.stop])
        if not rows.start:
            vectors = np.empty((len(texts), new.shape[1]), np.float32)
        vectors[rows.start : rows.stop] = new
    return vectors


class GraphEncoder(SentenceEncoder):
    """Runs an engine for encoding, and pools its outputs.

    Args:
        pooling: see `SentenceEncoder`.
        layer: the layer at which the engine ends.
        workers: gives the threads that run it.
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
        self.workers = workers

    def batch(self, ids: np.ndarray) -> np.ndarray:
        outputs = self.outputs(ids)
        if self.pooling == "pooler":
            return outputs["pooled"]
        return weighted_sums(ids, self.config.pad_token_id, self.pooling, outputs["sequence"])

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self.outputs(ids)
        return outputs["pooled"], outputs["sequence"]

    def outputs(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """What the engine gives for ids [B, T]: "sequence", [B, T, H], and "pooled", [B, H], if it has it.

        Raises:
            UserError: the config is that of a model of another width.
        """
        outputs = self.engine(ids)
        width = outputs["sequence"].shape[-1]
        if width != self.config.hidden_size:
            raise UserError(
                f"config.json: hidden_size is {self.config.hidden_size}, but the exported model's is "
                f"{width}; export the model again"
            )
        return outputs
