"""Download the released ERNIE-M weights and their vocabulary, or a model from the Hugging Face Hub.

ernie-m download weights vocab base
ernie-m download weights intfloat/multilingual-e5-base

ERNIE-M is saved where the official scripts expect it: configs/vocab.txt, configs/piece.model and
configs/{base,large}/params/. The weights come from the hub, or from the archive of the official README where
the hub cannot be reached. Existing files are verified and kept. Another model of the hub is saved in its
cache.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_m.data.download import fetch_missing, report_failed_downloads, unpack
from ernie_m.model.checkpoint.hub import is_intact, list_files
from ernie_m.model.checkpoint.native_names import WORDS
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, say

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# The PaddlePaddle organization's upload, of which the hub has sizes and hashes.
HUB_NAME = "PaddlePaddle/ernie-m-{size}"
# From the official README, and the folder ernie-m/configs of the official repository (branch repro). No size
# or hash is published, so the length of each file and the shape of the embeddings are checked.
WEIGHTS_URL = "https://bj.bcebos.com/wenxin-models/model-ernie-m-{size}.tar.gz"
VOCAB_URL = "https://raw.githubusercontent.com/PaddlePaddle/ERNIE/repro/ernie-m/configs/{name}"
VOCAB_SIZE = 250_002
HIDDEN_SIZE = {"base": 768, "large": 1024}
RELEASED = ("vocab", *HIDDEN_SIZE)


@dataclass
class WeightsFlags:
    """Command-line options of `ernie-m download weights`."""

    parts: list[str] = option(default_factory=list, positional=True)
    """What to download: vocab, base, large, or a model name on the Hugging Face Hub (default: vocab, base and
    large)."""

    configs: str = "configs"
    """Output directory."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in RELEASED and "/" not in part:
                raise UserError(
                    f"unknown part '{part}' (choose from {', '.join(RELEASED)}, or a model on the Hugging "
                    "Face Hub: ORGANIZATION/MODEL)"
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m download weights`.

    Raises:
        UserError: a file could not be downloaded; all such files are listed.
    """
    flags = parse_options(WeightsFlags, arguments, __name__)
    configs = Path(flags.configs)
    errors = []
    for part in flags.parts or RELEASED:
        if "/" in part:
            say(f"{part}: {open_checkpoint(part).folder}; commands accept this name instead of a folder")
        elif part == "vocab":
            errors += download_vocabulary(configs)
        else:
            errors += download_parameters(configs, part)
    report_failed_downloads(errors)


def download_vocabulary(configs: Path) -> list[str]:
    """Download the official vocab.txt and piece.model, and verify them.

    Args:
        configs: the output directory.

    Returns:
        The error of each failed download.

    Raises:
        UserError: the files do not match, or do not have 250,002 ids.
    """
    vocab = configs / "vocab.txt"
    model = configs / "piece.model"
    errors = fetch_missing({path: VOCAB_URL.format(name=path.name) for path in (vocab, model)})
    if errors:
        return errors
    size = Tokenizer(vocab, model).vocab_size
    if size != VOCAB_SIZE:
        error = f"{size:,} ids, but the released weights have {VOCAB_SIZE:,}"
        raise UserError(f"{vocab}: {error}. Move it and {model.name} away and run the same command again")
    say(f"vocab: {vocab} and {model.name}, {VOCAB_SIZE:,} ids")
    return []


def download_parameters(configs: Path, size: str) -> list[str]:
    """Download and verify the released weights: from the hub if it can be reached, or an archive.

    Args:
        configs: the output directory.
        size: "base" or "large".

    Returns:
        The error if the download failed, otherwise [].
    """
    target = configs / size / "params"
    if target.is_dir():
        check_parameters(target, size)
        say(f"{size}: {target} already exists")
        return []
    url = WEIGHTS_URL.format(size=size)
    archive = configs / Path(url).name
    if not archive.is_file():  # it may have been downloaded manually
        try:
            files = list_files(HUB_NAME.format(size=size), "*.pdparams", target)
        except UserError as error:
            say(f"{size}: {error}")
        else:
            return download_from_hub(files, target, size)
    errors = fetch_missing({archive: url})
    if not errors:
        unpack_parameters(archive, target, size)
    return errors


def download_from_hub(files: "Mapping[str, RepoSibling]", target: Path, size: str) -> list[str]:
    """Download and verify the released weights from the hub.

    Files are in `<target>.part` until all are there. Those that differ from the hub's are removed.

    Args:
        files: URL -> the hub's entry of the file, from `list_files`.
        size: "base" or "large".

    Returns:
        The error of each failed download.

    Raises:
        UserError: the disk is full, or the word embeddings have the wrong shape.
    """
    part = target.with_name(f"{target.name}.part")
    errors = fetch_missing({part / file.rfilename: url for url, file in files.items()})
    if errors:
        return errors
    for url, file in files.items():
        path = part / file.rfilename
        if not is_intact(path, file):
            path.unlink()
            errors.append(f"{url} -> {path}: removed, because its size or checksum differs from the hub's")
    if not errors:
        check_parameters(part, size)
        os.replace(part, target)
        say(f"{size}: {target}, from the Hugging Face Hub; sizes and checksums match")
    return errors


def unpack_parameters(archive: Path, target: Path, size: str) -> None:
    """Unpack and verify the released weights, move them to `target`, and delete the archive.

    Args:
        size: "base" or "large".

    Raises:
        UserError: the file is not an archive, or does not contain the weights.
    """
    folder = target.with_name("unpacked")  # next to the target, because the archive may be on another disk
    unpack(archive, folder)
    try:
        table = next(folder.rglob("word_embedding"), None)
        if table is None:
            raise UserError(f"{archive}: not ERNIE-M weights (missing word_embedding)")
        check_parameters(table.parent, size)
        os.replace(table.parent, target)
    finally:
        # If the archive has no folders, `folder` itself has become the target, and there is nothing to
        # remove.
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()
    say(f"{size}: {target}, from {archive.name}; {len(list(target.iterdir()))} files")


def check_parameters(folder: Path, size: str) -> None:
    """Check that the files of the released weights are complete.

    Args:
        folder: the directory of the files.
        size: "base" or "large".

    Raises:
        UserError: a file is incomplete, or the word embeddings have the wrong shape.
    """
    shape = open_checkpoint(folder).tensors.shape(WORDS)  # reads the headers of all tensors
    expected = (VOCAB_SIZE, HIDDEN_SIZE[size])
    if shape != expected:
        raise UserError(f"{folder}: word embeddings of shape {shape} (expected {expected} for {size})")
