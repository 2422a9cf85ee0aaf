"""The model of `ernie-m predict` and of `ernie-m serve`, and how it is asked."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from ernie_m.utils.options import Names, PositiveInt

if TYPE_CHECKING:
    from ernie_m.inference.tasks import PredictionOptions


@dataclass(kw_only=True)
class ModelFlags:
    """A model, and how it is asked."""

    model: str
    """A checkpoint of any supported format, or a folder that ernie-m export wrote."""

    engine: str = "auto"
    """openvino and dygraph, which is Paddle, are for checkpoints; onnx and paddle are for exported folders.
    auto: the first one that is there, openvino only on a CPU."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """bf16: multiply in bfloat16, on a CPU with avx512_bf16 or AMX or on a GPU from A100 on. fp16: in
    float16, on a GPU. For checkpoints; fp16 also for --engine paddle on a GPU."""

    max_seq_len: int | None = None
    """The longest input in tokens; of words and questions, the longest window. Default: as in training,
    otherwise what the model can read."""

    top_k: PositiveInt = 5
    """The number of candidates (question-answering, fill-mask) or of sentences (search)."""

    pooling: Literal["mean", "specials", "cls", "pooled"] | None = None
    """For embedding and search: the mean over the tokens, the mean with [CLS] and [SEP] (specials), the state
    of [CLS] (cls), or the pooled [CLS]. Default: as the model's files say, otherwise mean."""

    normalize: bool | None = None
    """For embedding: whether vectors have length 1. Default: as the model's files say, otherwise not."""

    prompt: str | None = None
    """For embedding and search: the name of the prompt of the model that is put before a text; "": none.
    Default: as the model's files say, otherwise none."""

    layer: str | None = None
    """For embedding and search: a number, middle or top. Default: as exported, or as in training for a
    search, otherwise top."""

    centre: bool | None = None
    """For embedding and search: whether vectors are without the mean of their language (docs/retrieval.md).
    Default: in search if the model has the means, otherwise not."""

    corpus: Names | None = None
    """For search: a text file with a sentence on each line; or several with their languages, as in
    "de<=de.txt,fr<=fr.txt"."""

    index: str | None = None
    """For search: a folder that keeps the vectors of --corpus. It is made if it is not there; afterwards
    nothing is encoded but the request, and --corpus may be left out."""

    labels: Names | None = None
    """For zero-shot: the labels, separated by commas. A request can have others."""

    template: str = "This example is {}."
    """For zero-shot: a sentence in any language, with {} where a label goes."""

    several: bool = False
    """For zero-shot: whether several labels can be true of a text."""

    def options(self) -> "PredictionOptions":
        """How the model is asked."""
        from ernie_m.inference.tasks import PredictionOptions  # here, so that --help is fast

        # Most are the name of a flag, too; the task knows the kind of the texts.
        names = {field.name for field in fields(PredictionOptions)} - {"kind", "given_labels"}
        return PredictionOptions(**{name: getattr(self, name) for name in names})
