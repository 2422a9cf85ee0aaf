"""The files of a checkpoint: their names, and which of a folder has the weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.tokenizer.vocabulary import DICT
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_json
from ernie_m.utils.folder import Folder

CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCAB = "vocab.txt"
PIECES = "piece.model"
TOKENIZER_JSON = "tokenizer.json"  # XLM-R has it; `ernie_m.tokenizer.tokenizer` makes a piece model of it
LANGUAGE_MEANS = "language_means.safetensors"  # language -> its mean sentence vector by layer, [L + 1, H]
VOCABS = (VOCAB, "ernie_m.vocab.txt", DICT)
PIECE_MODELS = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model", TOKENIZER_JSON)
# The first of these that a folder has is read. `X.index.json` says which of several files holds which name.
WEIGHTS_FILES = (WEIGHTS, "pytorch_model.bin", "model_state.pdparams", "model.pt")
_INDEX = ".index.json"
_ENDINGS = (".safetensors", ".bin", ".pdparams", ".pt")
# What to do about a part that is not understood; the end of a message.
WITHOUT_UNKNOWN = "ernie-m convert FOLDER NEW --drop_unknown writes the model without it"


def weights_name(folder: Folder) -> str | None:
    """The name of a folder's file of weights, but not of those of an official directory; None: it has none.

    If the weights are in several files, which `X.index.json` names, the result is `X`, which need not exist.
    """
    if folder.named:
        return folder.named if folder.named.endswith(_ENDINGS) else None
    others = sorted(name for name in folder.names if name.endswith(".pdparams"))  # as ernie_m_base.pdparams
    names = (name for name in (*WEIGHTS_FILES, *others) if name in folder or name + _INDEX in folder)
    return next(names, None)


def weights_of(folder: Folder, readers: Mapping[str, Callable[[Path], Weights]]) -> Weights | None:
    """The weights of a folder under their names in the file; None: it has none that these readers read.

    Args:
        readers: the ending of a file -> what reads it.

    Raises:
        UserError: a file is damaged.
    """
    name = weights_name(folder)
    read = readers.get(Path(name).suffix) if name else None
    if read is None:
        return None
    if name in folder:
        return folder.read(name, read)
    return folder.read(name + _INDEX, lambda index: _read_parts(index, read))


def _read_parts(index: Path, read: Callable[[Path], Weights]) -> Weights:
    """The tensors of all files that an index names.

    Args:
        read: the reader of one of these files.

    Raises:
        UserError: the index is damaged, or does not belong to the files beside it.
    """
    try:
        file_of = read_json(index)["weight_map"]  # name of a tensor -> name of its file
        files = sorted(set(file_of.values()))
        absent = set(files) - Folder(index.parent).names  # or in another folder, or a pipe
        if absent:
            raise ValueError(f"no file {min(absent)}")
        parts = {file: read(index.parent / file) for file in files}
        shapes = {name: parts[file].shape(name) for name, file in file_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged, or not of the files beside it ({error!r})") from error
    return Weights(index, shapes, lambda name: parts[file_of[name]][name])
