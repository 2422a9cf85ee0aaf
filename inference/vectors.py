"""The work of encode_vector.py: open a model or an export, and write the vectors of texts to a new folder."""

import os
from pathlib import Path
from typing import NamedTuple

from evaluation.centring import LanguageMeans
from evaluation.pooling import layer_number
from evaluation.vectors import SentenceEncoder, VectorWriter
from inference.flags import EncodeVectorFlags
from inference.loading import exported_settings, load
from inference.tasks.encode import GraphEncoder
from model.checkpoint.read import LANGUAGE_MEANS
from model.tasks import ENCODING
from reader.batching import EncodePairs
from reader.bitext import Sentences, sentences_by_language
from reader.classification import read_classification
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.files import atomic_dir
from utils.logging import logger, setup_console
from utils.manifest import MANIFEST, write_manifest
from utils.runtime import prepare


class OpenedEncoder(NamedTuple):
    """An encoder that is ready to encode.

    Attributes:
        max_seq_len: the longest input in tokens, for which the model has room.
    """

    encoder: SentenceEncoder
    tokenizer: Tokenizer
    max_seq_len: int


def write_vectors(flags: EncodeVectorFlags) -> None:
    """Run the command.

    Raises:
        UserError: a file is missing or damaged, or a flag does not fit the model.
    """
    is_exported = exported_settings(Path(flags.init_pretraining_params)) is not None
    if not is_exported:  # what export.py wrote runs without Paddle
        prepare()
    setup_console()
    with atomic_dir(flags.output_dir) as folder:
        if flags.data_format == "text":
            texts = Sentences(flags.data_set)
        else:
            texts = read_classification(Path(flags.data_set), labels=False)
        opened = open_exported(flags) if is_exported else open_weights(flags)
        writer = VectorWriter(
            opened.encoder,
            texts,
            EncodePairs(opened.tokenizer, opened.max_seq_len),
            folder,
            dtype=flags.dtype,
            batch_tokens=flags.batch_size * opened.max_seq_len,
            means=means_to_subtract(flags, opened) if flags.centre_on else None,
        )
        if flags.vectors == "official":
            writer.official()
        else:
            writer.vectors()
        write_manifest(folder / MANIFEST)
    logger.info("%s texts: %s", f"{len(texts):,}", flags.output_dir)


def open_weights(flags: EncodeVectorFlags) -> OpenedEncoder:
    """Open the encoder of a checkpoint.

    Raises:
        UserError: --engine is for an exported folder, or the files cannot be used.
    """
    # Imported here, because these import Paddle, which an exported folder may not need.
    from evaluation.encode import PaddleEncoder
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
    layer = layer_number(flags.layer, model.config.num_hidden_layers)
    encoder = PaddleEncoder(model, flags.vectors, layer, prepare_for_prediction(model, flags.amp))
    return OpenedEncoder(encoder, tokenizer, flags.max_seq_len)


def open_exported(flags: EncodeVectorFlags) -> OpenedEncoder:
    """Open the encoder of a folder that export.py wrote.

    Raises:
        UserError: the model has no such layer, takes shorter inputs, or is not for encoding.
    """
    if not flags.use_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read by Paddle and by ONNX Runtime
    loaded = load(flags.init_pretraining_params, engine=flags.engine, amp=flags.amp)
    layer = layer_number(flags.layer, loaded.num_layers)
    max_seq_len = flags.max_seq_len
    if "max_seq_len" not in flags.on_command_line:  # only the default is lowered
        max_seq_len = min(max_seq_len, loaded.longest)
    if max_seq_len > loaded.longest:
        raise UserError(f"--max_seq_len {max_seq_len}: the model takes at most {loaded.longest} tokens")
    encoder = GraphEncoder(loaded.engine(ENCODING, layer), loaded.config, flags.vectors, layer)
    return OpenedEncoder(encoder, loaded.tokenizer, max_seq_len)


def means_to_subtract(flags: EncodeVectorFlags, opened: OpenedEncoder) -> LanguageMeans:
    """The mean vector of each language that --centre_on names, at the layer of the encoder.

    Raises:
        UserError: there are no means beside the model, or a file cannot be read.
    """
    encoder = opened.encoder
    if flags.centre_on == "model":
        path = Path(flags.init_pretraining_params, LANGUAGE_MEANS)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; run_pretrain.py leaves it beside a finished model. For another model "
                "give --centre_on language<=file,language<=file"
            )
        shape = (encoder.config.num_hidden_layers + 1, encoder.config.hidden_size)
        return LanguageMeans.read(path, shape).at(encoder.layer)
    vectors = {}
    for language, sentences in sentences_by_language(flags.centre_on, "--centre_on").items():
        ids = opened.tokenizer.encode_batch(sentences)
        vectors[language] = encoder.vectors(opened.tokenizer.sentences(ids, opened.max_seq_len))
    return LanguageMeans.of(vectors)
