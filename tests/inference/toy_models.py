"""Models of random weights with a tokenizer, one for each head, saved as a training would save them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from model.checkpoint.folder import save_model
from model.checkpoint.formats import safetensors
from model.checkpoint.read import LANGUAGE_MEANS
from model.ernie_m import ErnieMConfig, ErnieMModel
from model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from model.lm_head import PreTrainingModel
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import train_pieces

LABELS = ["entailment", "neutral", "contradiction"]
TAGS = ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
LANGUAGES = ["de", "en", "fr"]
LAYERS = 2
HIDDEN_SIZE = 32
LONGEST = 62  # tokens
PAD_ID = 1
# kind of model -> what its config.json also says
EXTRA = {
    "classify": {"task": "classification", "labels": LABELS},
    "tag": {"task": "tagging", "labels": TAGS},
    "answer": {"task": "question_answering", "labels": None},
    "encode": {},
    "full": {"languages": LANGUAGES},
}


def config(vocab_size: int, **changes) -> ErnieMConfig:
    """A tiny shape. Weights vary more than usual, so that different inputs have clearly different outputs."""
    sizes = {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    sizes |= {"max_position_embeddings": LONGEST + 2, "initializer_range": 0.2}
    return ErnieMConfig(vocab_size, **(sizes | changes))


def model(kind: str, shape: ErnieMConfig) -> paddle.nn.Layer:
    """A fresh model, its biases, norms and language table away from their initial values."""
    paddle.seed(7)
    makers = {
        "classify": lambda: SequenceClassifier(shape, len(LABELS)),
        "score": lambda: SequenceClassifier(shape, 1),
        "tag": lambda: TokenClassifier(shape, len(TAGS)),
        "answer": lambda: SpanClassifier(shape),
        "encode": lambda: ErnieMModel(shape),
        "full": lambda: PreTrainingModel(shape, LANGUAGES),
    }
    new_model = makers[kind]()
    with paddle.no_grad():
        for name, parameter in new_model.named_parameters():
            if parameter.ndim == 1 or "language_embeddings" in name:
                parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    return new_model.eval()


def save(folder: Path, kind: str, pieces: Path, settings: dict, **options) -> paddle.nn.Layer:
    """Write a model with a tokenizer to a folder, and return it.

    Args:
        kind: as of `model`.
        settings: what its config.json also says.
        options: further ones of `save_model`.
    """
    shape = config(Tokenizer(None, pieces).vocab_size)
    new_model = model(kind, shape)
    save_model(folder, new_model, shape, piece_model_path=pieces, settings=settings, **options)
    return new_model


def make(folder: Path) -> Path:
    """Write a model of each kind of `EXTRA` to a folder of its name, and piece.model beside them."""
    pieces = train_pieces(folder / "piece.model")
    for kind, settings in EXTRA.items():
        save(folder / kind, kind, pieces, settings)
    return folder


def write_means(folder: Path, languages: Sequence[str]) -> None:
    """Write made-up means of languages into a model's folder; they change which texts are near."""
    random = np.random.default_rng(5)
    means = random.normal(size=(len(languages), LAYERS + 1, HIDDEN_SIZE)).astype(np.float32)
    safetensors.write(folder / LANGUAGE_MEANS, dict(zip(languages, means)))
