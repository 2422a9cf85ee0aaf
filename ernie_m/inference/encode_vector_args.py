"""Flags of encode_vector.py."""

from dataclasses import dataclass
from typing import Literal

from ernie_m.finetune.finetune_args import ModelFileFlags
from ernie_m.inference.prediction_options import EngineFlags
from ernie_m.model.pipeline_config import Pooling
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.utils.args import OfficialFlags, option
from ernie_m.utils.errors import UserError
from ernie_m.utils.value_types import PositiveInt


@dataclass(kw_only=True)
class EncodeVectorFlags(LabelOptions, ModelFileFlags, EngineFlags, OfficialFlags):
    """The flags of encode_vector.py: the official ones, and from `vectors` on those of this project."""

    data_set: str = option()
    """Texts to encode: a table, such as a TSV file with the columns text_a and optionally text_b, or with
    --data_format text a text file."""

    output_dir: str = option("embeddings", needed=True)
    """New output directory for the .npy files."""

    init_pretraining_params: str = option()
    """Checkpoint in any supported format, or the output directory of ernie-m export."""

    max_seq_len: int = 512
    """Maximum sequence length in tokens, including special tokens; longer texts are truncated, and the
    default is lowered to the model's maximum."""

    batch_size: PositiveInt = 32
    """Number of texts of max_seq_len tokens per batch; a batch holds more texts if they are shorter."""

    use_cuda: bool = True
    """Whether to use a GPU if available."""

    vectors: Literal["official", "model", Pooling] = "official"
    """Embeddings to write: cls_emb.npy and top_layer_emb.npy (official), or vectors.npy with one embedding
    per text, pooled as the model's settings say (model), by the mean over all tokens (mean), the mean without
    [CLS] and [SEP] (mean_without_special), the state of [CLS] (cls), or the pooler output (pooler)."""

    prompt: str | None = None
    """Name of the model's prompt to prepend to each text, or "" for none (default: the model's default
    prompt)."""

    layer: str = "last"
    """Encoder layer of the embeddings: a number (0: the input embeddings), middle or last; the default
    follows the model's settings, if any."""

    dtype: Literal["float32", "float16"] = "float32"
    """Data type of the .npy files."""

    data_format: Literal["tsv", "text"] = "tsv"
    """Input format: a table with a header (tsv), or one sentence per line (text)."""

    center_on: str | None = None
    """Language means to subtract from the embeddings: those of the model (model), or text files to compute
    them from, as in de<=de.txt,en<=en.txt."""

    def __post_init__(self) -> None:
        if self.vectors in ("official", "pooler") and self.layer != "last":
            raise UserError(
                f"--layer {self.layer}: --vectors {self.vectors} requires the last layer. Set --vectors "
                "mean or cls"
            )
        if self.center_on and self.vectors == "official":
            raise UserError(
                "--center_on requires one embedding per text. Set --vectors mean, mean_without_special, "
                "cls or pooler"
            )
