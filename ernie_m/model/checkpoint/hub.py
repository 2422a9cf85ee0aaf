"""Downloads models from the Hugging Face Hub by name, such as PaddlePaddle/ernie-m-base, to its cache.

An existing folder has precedence over a model name. A path within an existing folder is not a model name, nor
is configs/e5-small, which ernie-m download e5-small creates.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import compute_sha256, translate_write_errors

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

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
        UserError: the Hub has no such model, the model is gated, the download failed and nothing is cached,
            the disk is full, or HF_ENDPOINT is neither local nor https.
    """
    name = str(path)
    organization = Path(path).parent
    if not _NAME.fullmatch(name) or organization.exists() or str(organization) in _OWN:
        return Path(path)
    with _connect_to_hub(name) as library:
        for weights in _WEIGHTS:
            folder = Path(library.snapshot_download(name, allow_patterns=[*_FILES, *weights]))
            if any(list(folder.glob(pattern)) for pattern in weights):
                return folder
    # Without a connection, the library may return what it has after an interruption.
    raise UserError(
        f"{name}: {folder} has no weights that this project reads. If the download was interrupted, "
        "run the same command again when the Hugging Face Hub is reachable"
    )


def list_files(name: str, weights: str, target: Path) -> "dict[str, RepoSibling]":
    """Ask the Hub for the files of a model.

    Args:
        weights: pattern of the files of weights.
        target: the folder that the model will be downloaded to, for messages.

    Returns:
        URL -> name, size and hash of the file.

    Raises:
        UserError: the Hub cannot be reached, or has no such model.
    """
    with _connect_to_hub(name, target) as library:
        listing = library.HfApi().model_info(name, files_metadata=True)
        return {
            library.hf_hub_url(name, file.rfilename, revision=listing.sha): file
            for file in listing.siblings
            if any(fnmatch(file.rfilename, pattern) for pattern in [*_FILES, weights])
        }


def is_intact(path: Path, listed: "RepoSibling") -> bool:
    """Return whether a downloaded file has the size and the hash that the Hub lists."""
    if listed.lfs:
        digest = compute_sha256(path)
    else:  # in git, whose hashes are of a header and the content
        content = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
    return (path.stat().st_size, digest) == (listed.size, listed.lfs.sha256 if listed.lfs else listed.blob_id)


@contextmanager
def _connect_to_hub(name: str, target: Path | None = None) -> Iterator[ModuleType]:
    """Check HF_ENDPOINT, yield huggingface_hub, and translate its errors within a `with` block.

    Args:
        name: the model's name on the Hub.
        target: the folder to download to; None: the cache.

    Raises:
        UserError: as in `resolve_model_path`.
    """
    no_folder = f"{target or name}: no such folder"
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
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
        with translate_write_errors(target or constants.HF_HUB_CACHE):
            yield huggingface_hub
    except errors.GatedRepoError as error:  # a subclass of RepositoryNotFoundError
        raise UserError(
            f"{no_folder}, and {name} is gated on the Hugging Face Hub. Accept its terms "
            f"at {hub}/{name}, run hf auth login or set HF_TOKEN, and run the same command again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{no_folder}, and the Hugging Face Hub has no model {name}, or it is private and "
            "requires your HF_TOKEN"
        ) from error
    except UserError:
        raise
    # A server may send any response, and a connection may break at any time. The resulting exceptions depend
    # on the version of the library and its dependencies, without a common base class.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise UserError(
            f"{no_folder}, and {name} cannot be downloaded from the Hugging Face Hub ({reason}). Run "
            "the same command again when the hub is reachable, or give a folder"
        ) from error


def _is_trusted(hub: str) -> bool:
    """Return whether a Hub's URL is https or local, so that responses cannot be tampered with."""
    try:
        host = urlsplit(hub).hostname or ""
        is_here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another host name, or not an address
        is_here = False
    return is_here or hub.startswith("https://")
