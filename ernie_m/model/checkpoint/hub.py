"""Downloads models from the Hugging Face Hub by name, such as intfloat/multilingual-e5-small, to its cache.

An existing folder has precedence over a model name. A path within an existing folder is not a model name, nor
is configs/e5-small, which ernie-m download e5-small creates.
"""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from ernie_m.utils.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")  # organization and model
_OWN = ("configs", "checkpoints", "output")  # folders of this project's commands, not organizations
# Config, tokenizer, the modules of sentence-transformers, the card. Here * also matches folders, as in
# 1_Pooling/config.json.
_FILES = ["*.json", "*.model", "vocab.txt", "README.md"]
# Two formats of the same weights: the second is downloaded only without the first.
_WEIGHTS = (["model*.safetensors"], ["pytorch_model*.bin", "*.pdparams"])


def resolve_model_path(path: str | os.PathLike) -> Path:
    """Return the local path of a model; download a model given by its name on the Hugging Face Hub.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE work as in huggingface_hub.

    Args:
        path: a folder, a file, or a model name on the Hub.

    Raises:
        UserError: the Hub has no such model, the model is gated, the
            download failed and nothing is cached, or HF_ENDPOINT is neither local nor https.
    """
    name = str(path)
    organization = Path(path).parent
    if not _NAME.fullmatch(name) or organization.exists() or str(organization) in _OWN:
        return Path(path)
    no_folder = f"{name}: no such folder"
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ValueError as error:  # the library parses the URL at import
        raise UserError(
            f"invalid HF_ENDPOINT {os.environ.get('HF_ENDPOINT')} (expected a URL): {error}"
        ) from error
    hub = constants.ENDPOINT
    if not (constants.HF_HUB_OFFLINE or _is_trusted(hub)):
        raise UserError(
            f"insecure HF_ENDPOINT {hub}: its responses could be tampered with. A hub on "
            "another machine must use https://"
        )
    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *weights]))
            if any(list(folder.glob(pattern)) for pattern in weights):
                break
    except errors.GatedRepoError as error:  # a subclass of RepositoryNotFoundError
        raise UserError(
            f"{no_folder}, and the model of this name is gated. Accept its terms at {hub}/{name}, run "
            "hf auth login or set HF_TOKEN, and run the same command again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{no_folder}, and the Hugging Face Hub has no model of this name, or it is private and requires "
            "your HF_TOKEN"
        ) from error
    # A server may send any response, and a connection may break at any time. The resulting exceptions depend
    # on the version of the library and its dependencies, without a common base class.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise UserError(
            f"{no_folder}, and it cannot be downloaded from the Hugging Face Hub ({reason}). "
            "Run the same command again when the hub is reachable, or give a folder"
        ) from error
    return folder


def _is_trusted(hub: str) -> bool:
    """Return whether a Hub's URL is https or local, so that responses cannot be tampered with."""
    try:
        host = urlsplit(hub).hostname or ""
        is_here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another host name, or not an address
        is_here = False
    return is_here or hub.startswith("https://")
