"""A model by its name on Hugging Face's hub, as in intfloat/multilingual-e5-small; cached.

A folder that exists counts more than a name, and a folder in one that exists is no name.
"""

import os
import re
from pathlib import Path

from utils.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")  # an organisation and its model
# Config, tokenizer, the modules of sentence-transformers, the card. Weights of other frameworks lie deeper.
_FILES = ["*.json", "*.model", "vocab.txt", "README.md", "*_*/config.json"]
# Two forms of the same weights: the second is fetched only if there is no first.
_WEIGHTS = (["model*.safetensors"], ["pytorch_model*.bin", "*.pdparams"])


def local_folder(path: str | os.PathLike) -> Path:
    """The folder or file at a path, or the folder of the model that has this name on the hub.

    HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE have the meaning that huggingface_hub gives them.

    Raises:
        UserError: it is a name, and the hub has no such model, or cannot be reached and nothing is cached.
    """
    name = str(path)
    if Path(path).parent.exists() or not _NAME.fullmatch(name):  # the parent of a name is the organisation
        return Path(path)
    no_folder = f"{name}: there is no such folder"
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise UserError(
            f"{no_folder}; as the name of a model on Hugging Face's hub it needs huggingface_hub: sh "
            "scripts/setup.sh hub (or pip install huggingface_hub)"
        ) from error
    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *weights]))
            if any(file for pattern in weights for file in folder.glob(pattern)):
                break
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{no_folder}, and Hugging Face's hub has no model of this name") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{no_folder}, and as the name of a model on Hugging Face's hub it cannot be fetched ({reason}); "
            "run the same command again when the hub can be reached, or name a folder"
        ) from error
    return folder
