"""Benchmark embeddings against sentence-transformers, in interleaved runs.

    .venv/bin/python scripts/benchmarks/encode.py WEIGHTS TEXT

WEIGHTS is a model that sentence-transformers can load, and TEXT has a text per line. This project computes
the mean over all tokens of the last layer, including special tokens; sentence-transformers uses the pooling
in the model's files. Both tokenize the texts, and sort the texts of a call by length.
"""

from ernie_m.utils.first_import import run

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ernie_m.model.threads import get_thread_count
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_text
from ernie_m.utils.value_types import PositiveInt
from scripts.benchmarks.turns import LATEST, OPTIMUM, OURS, Contender, compare

LARGEST = 1 << 30  # bytes of TEXT
_ROWS = 8  # batch size of the baselines; with the default, 32, padding doubles the tokens if lengths differ


@dataclass
class EncodeBenchmark:
    """Options of the embedding benchmark."""

    weights: str = option(positional=True)
    """Model directory, including the tokenizer."""

    text: str = option(positional=True)
    """Text file, one text per line."""

    batch_size: PositiveInt = 200
    """Number of texts per call, which each library batches in its own way."""

    calls: PositiveInt = 10
    """Number of timed calls."""

    threads: PositiveInt | None = None
    """Number of threads (default: chosen for this machine)."""


def main() -> None:
    flags = parse_options(EncodeBenchmark, None, __name__)
    texts = [line for line in read_text(flags.text, LARGEST).splitlines() if line.strip()]
    needed = flags.batch_size * flags.calls
    if len(texts) < needed:
        raise UserError(f"{flags.text}: {len(texts)} texts (expected at least {needed})")
    batches = [texts[start : start + flags.batch_size] for start in range(0, needed, flags.batch_size)]
    shared_input = {"weights": flags.weights, "batches": batches}
    compare("encode", CONTENDERS, shared_input, needed, "texts/s", flags.threads)


def load_ernie_m(
    shared_input: dict[str, Any], engine: str = "auto", amp: str = "none"
) -> Callable[[list[str]], Any]:
    """Load the model with this project, and return the function that computes embeddings of texts."""
    from ernie_m.inference.load import load
    from ernie_m.inference.prediction_options import PredictionOptions
    from ernie_m.inference.tasks.predictors import make_predictor

    model = load(shared_input["weights"], engine=engine, amp=amp)
    return make_predictor("embedding", model, PredictionOptions(pooling="mean")).encode_texts


def load_torch_baseline(shared_input: dict[str, Any], bfloat16: bool = False) -> Callable[[list[str]], Any]:
    """Load the model with sentence-transformers on torch, and return its function for embeddings."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(shared_input["weights"], device="cpu")

    def encode(texts: list[str]) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model.encode(texts, batch_size=_ROWS, show_progress_bar=False)

    return encode


def load_openvino_baseline(shared_input: dict[str, Any], precision: str) -> Callable[[list[str]], Any]:
    """Load the model with sentence-transformers on OpenVINO, and return its function for embeddings."""
    from sentence_transformers import SentenceTransformer

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": get_thread_count()}
    model = SentenceTransformer(
        shared_input["weights"], backend="openvino", model_kwargs={"ov_config": settings}
    )
    return partial(model.encode, batch_size=_ROWS, show_progress_bar=False)


CONTENDERS = {
    OURS: Contender(load_ernie_m),
    "ours, bfloat16": Contender(load_ernie_m, bfloat16=True, options={"amp": "bf16"}),
    "ours, Paddle": Contender(load_ernie_m, options={"engine": "paddle-eager"}),
    "sentence-transformers": Contender(load_torch_baseline, LATEST),
    "sentence-transformers, bfloat16": Contender(
        load_torch_baseline, LATEST, bfloat16=True, options={"bfloat16": True}
    ),
    "sentence-transformers, OpenVINO": Contender(
        load_openvino_baseline, OPTIMUM, options={"precision": "f32"}
    ),
    "sentence-transformers, OpenVINO, bfloat16": Contender(
        load_openvino_baseline, OPTIMUM, bfloat16=True, options={"precision": "bf16"}
    ),
}


if __name__ == "__main__":
    run(main)
