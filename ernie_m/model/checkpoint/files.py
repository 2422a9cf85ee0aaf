"""The files of a checkpoint before anything is translated: their names, and what a source of weights is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint import configs, fluid, tensor_names
from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.model.checkpoint.tensor_names import PADDLENLP
from ernie_m.tokenizer.vocabulary import DICT

CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCAB = "vocab.txt"
PIECES = "piece.model"
TOKENIZER_JSON = "tokenizer.json"  # XLM-R has it; `ernie_m.tokenizer.tokenizer` makes a piece model of it
LANGUAGE_MEANS = "language_means.safetensors"  # language -> its mean sentence vector by layer, [L + 1, H]
CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
VOCABS = (VOCAB, "ernie_m.vocab.txt", DICT)
PIECE_MODELS = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model", TOKENIZER_JSON)
# What to do about a part that is not understood; the end of a message.
WITHOUT_UNKNOWN = "ernie-m convert FOLDER NEW --drop_unknown writes the model without it"


@dataclass(frozen=True)
class Source:
    """The files of a checkpoint, before anything is translated.

    Attributes:
        path: the file of the weights, or the official parameter directory; messages name it.
        folder: as for `Checkpoint`.
        tensors: the weights under their names in the file.
        config_path: None if there is no config file.
        tokenizer_folders: where its tokenizer may be, the most likely folder first.
        format: one of `ernie_m.model.checkpoint.tensor_names`.
        raw_config: the contents of its config; empty if there is none.
    """

    path: Path
    folder: Path
    tensors: Weights
    config_path: Path | None
    tokenizer_folders: tuple[Path, ...]
    format: str
    raw_config: dict[str, Any]


def has_our_form(tensors: Iterable[str], weights_path: Path, raw_config: Mapping[str, Any]) -> bool:
    """Whether a file of weights is one that this project wrote.

    Our names are PaddleNLP's without a prefix, which PaddleNLP's encoder lacks, too. But a safetensors file
    of PaddleNLP has a config with the version of PaddleNLP.

    Args:
        tensors: the names in the file.
    """
    if weights_path.suffix != ".safetensors" or "paddlenlp_version" in raw_config:
        return False
    if raw_config.get("model_type") not in (None, "", configs.MODEL_TYPES[PADDLENLP]):
        return False
    names = list(tensors)
    has_our_names = tensor_names.WORDS in names and not any(name.startswith("ernie_m.") for name in names)
    return has_our_names and tensor_names.format_of_names(names) in (PADDLENLP, None)


def official_directory(path: Path) -> Path | None:
    """The official parameter directory that a folder is or has; None: neither."""
    for params in (path, path / "params"):
        if (params / fluid.MARK).is_file():
            return params
    return None


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first file of one of these names in the first folder that has one; None if no folder does."""
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None
