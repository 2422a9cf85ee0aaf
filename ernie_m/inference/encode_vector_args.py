"""The flags of encode_vector.py."""

from dataclasses import dataclass
from typing import Literal

from ernie_m.model.preprocessing import Pooling
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.utils.args import PositiveInt, option
from ernie_m.utils.errors import UserError


@dataclass
class EncodeVectorFlags(LabelOptions):
    """The official flags; those from `vectors` on belong to this project."""

    data_set: str | None = option(None, needed=True)
    """A TSV file with a header, a column text_a and perhaps text_b, or a table in another form."""

    output_dir: str = option("embeddings", needed=True)
    """A new folder for the .npy files and their checksums."""

    init_pretraining_params: str | None = option(None, needed=True)
    """Weights in any format, or a folder that ernie-m export wrote."""

    ernie_config_path: str | None = None
    """The model's shape, ernie_config.json. Default: the one beside the weights."""

    vocab_path: str | None = None
    """vocab.txt. Default: made from --piece_model_path, or the one beside the weights."""

    piece_model_path: str | None = None
    """The sentencepiece model. Default: the one beside the weights."""

    max_seq_len: int = 512
    """The longest input in tokens, special tokens included. Longer inputs are cut. Default: 512, or less
    if the model has room for less."""

    batch_size: PositiveInt = 32
    """The number of texts of max_seq_len tokens in a batch. A batch holds more of shorter texts."""

    use_cuda: bool = True
    """Whether to use a GPU if there is one."""

    vectors: Literal["official", "model", Pooling] = "official"
    """official: cls_emb.npy and top_layer_emb.npy. Others: vectors.npy with one vector per text, which is the
    mean over all tokens, the mean without [CLS] and [SEP], the state of [CLS] (cls), or the pooled [CLS];
    model: what the model's files say."""

    prompt: str | None = None
    """The name of the prompt of the model that is put before each text; "": none. Default: as the model's
    files say, otherwise none."""

    layer: str = "top"
    """The layer of the means and cls: a number (0: the embeddings), middle, or top. Default with a model that
    says how its vectors are made: as it says."""

    dtype: Literal["float32", "float16"] = "float32"
    """The type of the files."""

    engine: str = "auto"
    """openvino and dygraph, which is Paddle, are for checkpoints; onnx and paddle are for exported folders.
    auto: the first one that is there, openvino only on a CPU."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """bf16: multiply in bfloat16, on a CPU with avx512_bf16 or AMX or on a GPU from A100 on. fp16: in
    float16, on a GPU. For checkpoints; fp16 also for --engine paddle on a GPU."""

    data_format: Literal["tsv", "text"] = "tsv"
    """text: a sentence on each line, without a header."""

    centre_on: str | None = None
    """Takes the mean of its language from each vector; the language is that of the nearest mean. model: the
    means that are beside the weights, with --vectors mean_without_special. de<=de.txt,en<=en.txt: the means
    of the sentences in these files."""

    on_command_line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        required = {"--data_set": self.data_set, "--init_pretraining_params": self.init_pretraining_params}
        missing = [flag for flag, value in required.items() if value is None]
        if missing:
            raise UserError(f"{' and '.join(missing)} must be given (--help lists the flags)")
        if self.vectors in ("official", "pooled") and self.layer != "top":
            raise UserError(
                f"--layer {self.layer}: --vectors {self.vectors} is of the top layer; give mean or cls"
            )
        if self.centre_on and self.vectors == "official":
            raise UserError(
                "--centre_on needs one vector per text; give --vectors mean, mean_without_special, cls or "
                "pooled"
            )
