"""A model by its name on Hugging Face's hub, as in intfloat/multilingual-e5-small; cached.

A folder that exists counts more than a name, and a folder in one that exists is no name. Nor is
configs/e5-small, which ernie-m download e5-small fetches.
"""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from ernie_m.utils.errors import UserError, install_command

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9]")  # an organization and its model
_OWN = ("configs", "checkpoints", "output")  # folders of the project's commands, no organizations
# Config, tokenizer, the modules of sentence-transformers, the card. A * also stands for folders here, as in
# 1_Pooling/config.json.
_FILES = ["*.json", "*.model", "vocab.txt", "README.md"]
# Two forms of the same weights: the second is fetched only if there is no first.
_WEIGHTS = (["model*.safetensors"], ["pytorch_model*.bin", "*.pdparams"])


def local_folder(path: str | os.PathLike) -> Path:
    """Return the folder or file at a path, or the folder of the model that has this name on the hub.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have the meaning that huggingface_hub gives them.

    Raises:
        UserError: it is a name, and the hub has no such model or gives it to nobody who has not accepted its
            terms; the download broke off, or the hub cannot be reached and nothing is cached; or the hub is
            on another machine and not https.
    """
    name = str(path)
    organization = Path(path).parent
    if not _NAME.fullmatch(name) or organization.exists() or str(organization) in _OWN:
        return Path(path)
    no_folder = f"{name}: no such folder"
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError as error:
        raise UserError(
            f"{no_folder}. To download it from the Hugging Face Hub, install huggingface_hub: "
            f"{install_command('hub')}"
        ) from error
    except ValueError as error:  # the library looks at the address when it is imported
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
    except errors.GatedRepoError as error:  # it is a RepositoryNotFoundError as well
        raise UserError(
            f"{no_folder}, and the model of this name is gated. Accept its terms at {hub}/{name}, run "
            "hf auth login or set HF_TOKEN, and run the same command again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{no_folder}, and the Hugging Face Hub has no model of this name, or it is private and requires "
            "your HF_TOKEN"
        ) from error
    # A server may answer anything, and a connection break anywhere. What the library then raises depends on
    # its version and on the libraries below it, and has no common base.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise UserError(
            f"{no_folder}, and it cannot be downloaded from the Hugging Face Hub ({reason}). "
            "Run the same command again when the hub is reachable, or give a folder"
        ) from error
    return folder


def _is_trusted(hub: str) -> bool:
    """Return whether nobody can tamper with a hub's responses, from which the library makes file names."""
    try:
        host = urlsplit(hub).hostname or ""
        is_here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # the host is another name, or it is no address at all
        is_here = False
    return is_here or hub.startswith("https://")
