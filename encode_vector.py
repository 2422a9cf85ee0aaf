"""Turn texts into vectors. Official name and flags; see docs/retrieval.md.

python encode_vector.py --data_set texts.tsv --output_dir vectors --init_pretraining_params ...
python encode_vector.py --data_set sentences.txt --data_format text --vectors mean --layer middle ...
python encode_vector.py --init_pretraining_params exported --engine onnx-int8 ...    # what export.py wrote
"""

from utils.environment import run

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from utils.command_line import parse_args
from utils.errors import UserError
from utils.options import PositiveInt, not_an_option

if TYPE_CHECKING:
    from evaluation.centring import LayerMeans
    from evaluation.encode import PaddleEncoder
    from inference.tasks.encode import ExportedEncoder
    from reader.tokenization import Tokenizer


@dataclass
class EncodeVectorFlags:
    """The official flags; those from `vectors` on belong to this project."""

    data_set: str | None = None
    """A TSV file with a header, a column text_a and perhaps text_b."""

    output_dir: str = "embeddings"
    """A new folder for the .npy files and their checksums."""

    init_pretraining_params: str | None = None
    """Weights in any format, or a folder that export.py wrote."""

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

    vectors: Literal["official", "mean", "specials", "pooled"] = "official"
    """official: cls_emb.npy and top_layer_emb.npy. Others: vectors.npy with one vector per text, which is the
    mean over its tokens, the mean with [CLS] and [SEP] (specials), or the pooled [CLS]."""

    layer: str = "top"
    """The layer of mean and specials: a number (0: the embeddings), middle, or top."""

    dtype: Literal["float32", "float16"] = "float32"
    """The type of the files."""

    engine: Literal["auto", "dygraph", "onnx", "paddle", "onnx-int8"] = "auto"
    """dygraph is for checkpoints, the others are for exported folders. auto: the first one that is there."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """bf16: multiply in bfloat16, on a CPU with avx512_bf16 or AMX or on a GPU from A100 on. fp16: in
    float16, on a GPU. For checkpoints; fp16 also for --engine paddle on a GPU."""

    data_format: Literal["tsv", "text"] = "tsv"
    """text: a sentence on each line, without a header."""

    centre_on: str | None = None
    """Takes the mean of its language from each vector; the language is that of the nearest mean. model: the
    means that are beside the weights, with --vectors mean. de<=de.txt,en<=en.txt: the means of the sentences
    in these files."""

    on_command_line: tuple[str, ...] = not_an_option(())

    init_checkpoint: ClassVar[None] = None  # `open_start` reads it; this command has no such flag

    def __post_init__(self) -> None:
        from evaluation.centring import MEANS_POOLING

        required = {"--data_set": self.data_set, "--init_pretraining_params": self.init_pretraining_params}
        missing = [flag for flag, value in required.items() if value is None]
        if missing:
            raise UserError(f"{' and '.join(missing)} must be given (--help lists the flags)")
        if Path(self.output_dir).exists():
            raise UserError(f"--output_dir {self.output_dir}: it exists already; name a new folder")
        if self.vectors in ("official", "pooled") and self.layer != "top":
            raise UserError(
                f"--layer {self.layer}: --vectors {self.vectors} is of the top layer; give mean or specials"
            )
        if self.centre_on and self.vectors == "official":
            raise UserError("--centre_on needs one vector per text; give --vectors mean, specials or pooled")
        if self.centre_on == "model" and self.vectors != MEANS_POOLING:
            raise UserError(
                f"--centre_on model needs --vectors {MEANS_POOLING}, the pooling of the means beside the "
                "weights"
            )


def main() -> None:
    """Write the vectors of the texts that the command line names."""
    from inference.loading import exported_settings
    from utils.runtime import prepare

    flags = parse_args(EncodeVectorFlags, sys.argv[1:], __doc__)
    is_exported = exported_settings(Path(flags.init_pretraining_params)) is not None
    if not is_exported:  # what export.py wrote runs without Paddle
        prepare()
    # These imports are not at the top: Paddle reads its CPU settings when it is imported, and the reader
    # process, which needs no Paddle, imports this file again.
    from evaluation.vectors import CentredEncoder, VectorWriter
    from reader.batching import EncodePairs
    from reader.bitext import Sentences
    from reader.classification import read_classification
    from utils.files import atomic_dir
    from utils.logging import logger, setup_console
    from utils.manifest import MANIFEST, write_manifest

    setup_console()
    with atomic_dir(flags.output_dir) as folder:
        path = Path(flags.data_set)
        if flags.data_format == "text":
            texts = Sentences(path)
        else:
            texts = read_classification(path, labels=False)
        opened = open_exported(flags) if is_exported else open_weights(flags)
        encoder = opened.encoder
        if flags.centre_on:
            encoder = CentredEncoder(encoder, means_to_subtract(flags, opened))
        encode = EncodePairs(opened.tokenizer, opened.max_seq_len)
        batch_tokens = flags.batch_size * opened.max_seq_len
        writer = VectorWriter(encoder, texts, encode, folder, flags.dtype, batch_tokens)
        if flags.vectors == "official":
            writer.official()
        else:
            writer.vectors(opened.layer, pooling=flags.vectors)
        write_manifest(folder / MANIFEST)
    logger.info("%s texts: %s", f"{len(texts):,}", flags.output_dir)


class OpenedEncoder(NamedTuple):
    """An encoder that is ready to encode.

    Attributes:
        layer: the number of the layer that the vectors are made of.
        num_layers: L, the number of the model's layers.
        max_seq_len: the longest input in tokens, for which the model has room.
    """

    encoder: "PaddleEncoder | ExportedEncoder"
    tokenizer: "Tokenizer"
    layer: int
    num_layers: int
    max_seq_len: int


def means_to_subtract(flags: EncodeVectorFlags, opened: OpenedEncoder) -> "LayerMeans":
    """The mean vector of each language that --centre_on names, at `opened.layer`.

    Raises:
        UserError: there are no means beside the model, or a file cannot be read.
    """
    from evaluation.centring import LanguageMeans, LayerMeans
    from evaluation.vectors import vectors_of
    from model.checkpoint.read import LANGUAGE_MEANS
    from reader.bitext import sentences_by_language

    if flags.centre_on == "model":
        path = Path(flags.init_pretraining_params, LANGUAGE_MEANS)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; run_pretrain.py leaves it beside a finished model. For another model "
                "give --centre_on language<=file,language<=file"
            )
        shape = (opened.num_layers + 1, opened.encoder.hidden_size)  # the embeddings, then each layer
        return LanguageMeans.read(path, shape).at(opened.layer)
    vectors = {}
    for language, sentences in sentences_by_language(flags.centre_on, "--centre_on").items():
        ids = opened.tokenizer.sentences(opened.tokenizer.encode_batch(sentences), opened.max_seq_len)
        vectors[language] = vectors_of(opened.encoder, ids, opened.layer, pooling=flags.vectors)
    return LayerMeans.of(vectors)


def open_weights(flags: EncodeVectorFlags) -> OpenedEncoder:
    """Open the encoder of a checkpoint.

    Raises:
        UserError: --engine is for an exported folder, or the files cannot be used.
    """
    from evaluation.encode import PaddleEncoder
    from evaluation.pooling import layer_number
    from finetune.setup import fit_length, open_encoder, open_start
    from training import distributed
    from training.precision import prepare_for_prediction

    if flags.engine not in ("auto", "dygraph"):
        raise UserError(
            f"--engine {flags.engine} needs an exported folder: python export.py --task encoding "
            f"--model {flags.init_pretraining_params} --output exported"
        )
    distributed.init(flags.use_cuda)
    # The weights may lack a pooler only if none is needed: a random one would give meaningless vectors.
    needs_pooler = flags.vectors in ("official", "pooled")
    optional = () if needs_pooler else ("pooler.",)
    start = open_start(flags)
    flags = fit_length(flags, start)  # lowers the default of --max_seq_len to the model's room
    model, tokenizer = open_encoder(flags, start, optional=optional)
    encoder = PaddleEncoder(model, prepare_for_prediction(model, flags.amp))
    num_layers = model.config.num_hidden_layers
    layer = layer_number(flags.layer, num_layers)
    return OpenedEncoder(encoder, tokenizer, layer, num_layers, flags.max_seq_len)


def open_exported(flags: EncodeVectorFlags) -> OpenedEncoder:
    """Open the encoder of a folder that export.py wrote.

    Raises:
        UserError: the model has no such layer, takes shorter inputs, or is not for encoding.
    """
    from evaluation.pooling import layer_number
    from inference.loading import load
    from inference.tasks.encode import ExportedEncoder
    from model.tasks import ENCODING

    if not flags.use_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read by Paddle and by ONNX Runtime
    loaded = load(flags.init_pretraining_params, engine=flags.engine, amp=flags.amp)
    layer = layer_number(flags.layer, loaded.num_layers)
    max_seq_len = flags.max_seq_len
    if "max_seq_len" not in flags.on_command_line:  # only the default is lowered
        max_seq_len = min(max_seq_len, loaded.longest)
    if max_seq_len > loaded.longest:
        raise UserError(f"--max_seq_len {max_seq_len}: the model takes at most {loaded.longest} tokens")
    engine = loaded.engine(ENCODING, layer)
    encoder = ExportedEncoder(engine, loaded.config.hidden_size, loaded.config.pad_token_id)
    return OpenedEncoder(encoder, loaded.tokenizer, layer, loaded.num_layers, max_seq_len)


if __name__ == "__main__":
    run(main)
