"""Implementation of encode_vector.py: computing the embeddings of texts, and writing them to .npy files."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ernie_m.inference.encode_vector_args import EncodeVectorFlags
from ernie_m.inference.engines import FILES
from ernie_m.inference.load import choose_engine, load, load_opened_model, read_export_settings
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import apply_embedding_defaults, open_model
from ernie_m.reader.batching import BATCH_TOKENS, WINDOW_TEXTS, Featurizer
from ernie_m.reader.files.aligned_lines import Sentences, read_sentences_by_language
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.labeled_tables import read_texts
from ernie_m.reader.files.official_tsv import is_official_tsv
from ernie_m.reader.text_featurizer import Example, encode_in_chunks, warn_if_truncated
from ernie_m.training.prefetch import PrefetchIterator
from ernie_m.utils.checksums import MANIFEST, write_manifest
from ernie_m.utils.files import atomic_dir, lock_for_writing
from ernie_m.utils.logging import Progress, logger, setup_console
from ernie_m.utils.paddle_settings import prepare
from ernie_m.vectors.language_centering import LanguageCentering
from ernie_m.vectors.pooling import R, SentenceEncoder, normalize_vectors

_HEADER_BYTES = 128  # size of the .npy header of a 2-D array


def write_vectors(flags: EncodeVectorFlags) -> None:
    """Run encode_vector.py: compute the embeddings of --data_set, and write them to --output_dir.

    Raises:
        UserError: a file is missing or corrupt, or a flag is invalid for the model.
    """
    if not flags.use_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read by Paddle and by ONNX Runtime
    is_exported = read_export_settings(Path(flags.init_pretraining_params)) is not None
    if not is_exported and choose_engine(flags.engine) == "paddle-eager":
        prepare()
    setup_console()
    with lock_for_writing(flags.output_dir, "--output_dir"), atomic_dir(flags.output_dir) as folder:
        if flags.data_format == "text":
            flags.reject_unused(flags.data_set, "lines of text")
            texts = Sentences(flags.data_set)
        elif is_official_tsv(Path(flags.data_set)):  # read lazily from disk
            flags.reject_unused(flags.data_set, "tables in the official format")
            texts = read_classification(flags.data_set, labels=False)
        else:
            texts = [Example(*row) for row in read_texts(Path(flags.data_set), flags)]
        encode, encoder = open_encoder(flags)
        warn_if_truncated(flags.data_set, texts, encode.encode)
        given = (folder, encoder, texts, encode.encode, flags.dtype, flags.batch_size * encode.max_seq_len)
        if flags.vectors == "official":
            write_official_embeddings(*given)
        else:
            means = get_language_means(flags, encode, encoder) if flags.center_on else None
            write_embeddings(*given, means=means, normalize=encode.normalize)
        write_manifest(folder / MANIFEST)
    logger.info("wrote embeddings of %s texts to %s", f"{len(texts):,}", flags.output_dir)


def open_encoder(flags: EncodeVectorFlags) -> tuple[EmbeddingPredictor, SentenceEncoder]:
    """Load the model of --init_pretraining_params as an encoder.

    Returns:
        The predictor of text embeddings, and its encoder of token ids.

    Raises:
        UserError: a file is invalid, or the model does not support the layer, length or pooling.
    """
    path = Path(flags.init_pretraining_params)
    # cls_emb.npy contains the pooler output; None: the pooling in the model's files.
    pooling = {"official": "pooler", "model": None}.get(flags.vectors, flags.vectors)
    if read_export_settings(path) is None and flags.engine not in FILES:
        engine = choose_engine(flags.engine)
        if engine == "paddle-eager":
            from ernie_m.training import distributed  # imported here, because it imports Paddle

            distributed.init(flags.use_cuda)
        opened = open_model(open_checkpoint(path), *flags.model_file_paths)
        # The official pooler output is of the last layer, not of the model's embedding layer.
        flags = apply_embedding_defaults(
            flags, opened, setting_names=() if pooling == "pooler" else ("layer",)
        )
        layer: str | None = flags.layer
        loaded = load_opened_model(opened, path, amp=flags.amp, engine=engine, encoder_only=True)
    else:
        loaded = load(path, engine=flags.engine, amp=flags.amp)
        if "max_seq_len" not in flags.on_command_line:  # lower only the default
            flags = replace(flags, max_seq_len=min(flags.max_seq_len, loaded.embedding_max_length))
        # None: the layer of the export, unless the last layer is required.
        layer = flags.layer if pooling == "pooler" or "layer" in flags.on_command_line else None
    options = PredictionOptions(
        max_seq_len=flags.max_seq_len, pooling=pooling, layer=layer, prompt=flags.prompt
    )
    encode = EmbeddingPredictor(loaded, options)
    return encode, encode.encoder


def get_language_means(
    flags: EncodeVectorFlags, encode: EmbeddingPredictor, encoder: SentenceEncoder
) -> LanguageCentering:
    """Return the language means to subtract by --center_on, at the layer of the encoder.

    Raises:
        UserError: the model has no means, or a file cannot be read.
    """
    if flags.center_on == "model":
        return encode.get_language_means()
    tokenizer = encode.model.tokenizer
    embeddings = {}
    for language, sentences in read_sentences_by_language(flags.center_on).items():
        ids = tokenizer.encode_batch(sentences)
        embeddings[language] = encoder.encode(tokenizer.build_sentence_inputs(ids, encode.max_seq_len))
    return LanguageCentering.from_embeddings(embeddings)


# Files of any number of embeddings, in bounded memory


@contextmanager
def open_growing_array(
    path: str | os.PathLike, width: int, dtype: str
) -> Iterator[Callable[[int], np.ndarray]]:
    """Create a .npy file of an array [rows, width] that grows until the context ends.

    Yields:
        A function that appends rows and returns them as an array [rows, width] for the caller to fill.
    """
    row_type = np.dtype(dtype)
    end = _HEADER_BYTES
    with open(path, "xb+") as file:

        def grow(rows: int) -> np.ndarray:
            nonlocal end
            if rows == 0:  # a memory map cannot be empty
                return np.empty([0, width], row_type)
            start = end
            end += rows * width * row_type.itemsize
            # Reserve the space, so that a full disk is an error here, not a signal while writing to the
            # memory map.
            if hasattr(os, "posix_fallocate"):  # missing on macOS
                os.posix_fallocate(file.fileno(), start, end - start)
            return np.memmap(file, row_type, "r+", start, (rows, width)).view(np.ndarray)

        yield grow
        shape = ((end - _HEADER_BYTES) // (width * row_type.itemsize), width)
        file.seek(0)
        # NumPy pads the header to _HEADER_BYTES for any number of rows.
        np.lib.format.write_array_header_1_0(
            file, {"descr": row_type.str, "fortran_order": False, "shape": shape}
        )


def write_official_embeddings(
    folder: Path,
    encoder: SentenceEncoder,
    texts: Sequence,
    encode: Featurizer,
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
    window: int = WINDOW_TEXTS,
) -> None:
    """Compute the embeddings of texts, and write cls_emb.npy and top_layer_emb.npy, like the official script.

    cls_emb.npy contains the pooler output, [N, H]. top_layer_emb.npy contains the last layer's states of all
    tokens without padding, concatenated over the texts, [sum of lengths, H].

    Args:
        folder: the output directory, without these files.
        encoder: computes embeddings from token ids.
        texts: the inputs of `encode`.
        encode: tokenizes texts, in another process.
        dtype: the data type of the files, "float32" or "float16".
        batch_tokens: maximum number of tokens in a forward pass, including padding.
        window: the number of texts in memory at a time.
    """
    width = encoder.config.hidden_size
    with (
        open_growing_array(folder / "cls_emb.npy", width, dtype) as grow_texts,
        open_growing_array(folder / "top_layer_emb.npy", width, dtype) as grow_tokens,
    ):
        for ids, batches in _iter_windows(
            encoder, encoder.compute_states, texts, encode, batch_tokens, window
        ):
            lengths = list(map(len, ids))
            ends = np.cumsum(lengths)  # the end of each text in `token_vectors`
            cls_vectors = grow_texts(len(ids))  # [texts, H]
            token_vectors = grow_tokens(int(ends[-1]))  # [tokens, H]
            for rows, (pooled, sequences) in batches:  # [B, H], [B, T, H]
                cls_vectors[rows] = pooled
                for row, states in zip(rows, sequences):
                    length = lengths[row]
                    token_vectors[ends[row] - length : ends[row]] = states[:length]  # without padding


def write_embeddings(
    folder: Path,
    encoder: SentenceEncoder,
    texts: Sequence,
    encode: Featurizer,
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
    window: int = WINDOW_TEXTS,
    means: LanguageCentering | None = None,
    normalize: bool = False,
) -> None:
    """Compute an embedding per text, and write them to vectors.npy, [N, H].

    Args:
        encoder: computes the embeddings of one layer from token ids.
        means: language means, of which the nearest is subtracted from each embedding; None: no centering.
        normalize: whether to scale embeddings to unit length.
        folder, texts, encode, dtype, batch_tokens, window: see `write_official_embeddings`.
    """
    with open_growing_array(folder / "vectors.npy", encoder.config.hidden_size, dtype) as grow:
        for ids, batches in _iter_windows(encoder, encoder.encode_batch, texts, encode, batch_tokens, window):
            embeddings = grow(len(ids))
            for rows, batch in batches:
                if means is not None:
                    batch = means.center(batch)
                embeddings[rows] = normalize_vectors(batch) if normalize else batch


def _iter_windows(
    encoder: SentenceEncoder,
    compute: Callable[[np.ndarray], R],
    texts: Sequence,
    encode: Featurizer,
    batch_tokens: int,
    window: int,
) -> Iterator[tuple[list[np.ndarray], Iterator[tuple[list[int], R]]]]:
    """Yield the token ids of `window` texts at a time, and an iterator of their batches.

    A batch consists of the indices of texts of similar length in the window, and the result of `compute`. The
    texts are tokenized in another process.

    Args:
        compute: computes the output of the encoder from ids, int64 [B, T].
        texts, encode, batch_tokens, window: see `write_official_embeddings`.
    """
    progress = Progress(len(texts), "encoding", unit="texts")

    def iter_batches(ids: list[np.ndarray]) -> Iterator[tuple[list[int], R]]:
        for rows, batch in encoder.map_batches(compute, ids, batch_tokens):
            yield rows, batch
            progress.update(len(rows))

    with PrefetchIterator(partial(encode_in_chunks, texts, encode, window), ahead=2) as windows:
        for features in windows:
            ids = [feature.ids for feature in features]
            yield ids, iter_batches(ids)
    progress.close()
