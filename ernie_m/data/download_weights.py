"""Download the released ERNIE-M weights and their vocabulary, or a model from the Hugging Face Hub.

ernie-m download weights vocab base
ernie-m download weights intfloat/multilingual-e5-base

ERNIE-M is saved where the official scripts expect it: configs/vocab.txt, configs/piece.model and
configs/{base,large}/params/. Existing files are verified and kept. A model from the hub is saved in the hub's
cache.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_m.data.download import fetch_missing, raise_errors, unpack
from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, say

# From the official README, and the folder ernie-m/configs of the official repository (branch repro). No size
# or hash is published, so the length of each file and the shape of the embeddings are checked.
WEIGHTS_URL = "https://bj.bcebos.com/wenxin-models/model-ernie-m-{size}.tar.gz"
VOCAB_URL = "https://raw.githubusercontent.com/PaddlePaddle/ERNIE/repro/ernie-m/configs/{name}"
VOCAB_SIZE = 250_002
HIDDEN_SIZE = {"base": 768, "large": 1024}
RELEASED = ("vocab", *HIDDEN_SIZE)
ENCODER_FILES = ("word_embedding", "pos_embedding", "pre_encoder", "encoder_layer", "pooled_fc")  # prefixes


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
    raise_errors(errors)


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
    """Download, unpack and verify the released weights.

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
    errors = fetch_missing({archive: url})
    if not errors:
        unpack_parameters(archive, target, size)
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
        weights = folder if table is None else table.parent
        check_parameters(weights, size)  # also rejects a folder without a word_embedding
        os.replace(weights, target)
    finally:
        # If the archive has no folders, `folder` itself has become the target, and there is nothing to
        # remove.
        shutil.rmtree(folder, ignore_errors=True)
    archive.unlink()
    say(f"{size}: {target}, {len(list(target.iterdir()))} files")


def check_parameters(folder: Path, size: str) -> None:
    """Check that the files of the released weights are complete.

    Args:
        folder: the directory of the files.
        size: "base" or "large".

    Raises:
        UserError: a file is incomplete, or the word embeddings have the wrong shape.
    """
    table = folder / "word_embedding"
    if not table.is_file():
        raise UserError(f"{folder}: not ERNIE-M weights (missing word_embedding)")
    for file in folder.iterdir():
        if file.name.startswith(ENCODER_FILES):
            lod_tensors.read_header(file)  # only for its errors
    shape = lod_tensors.read_header(table).shape
    expected = (VOCAB_SIZE, HIDDEN_SIZE[size])
    if shape != expected:
        raise UserError(f"{table}: wrong shape {shape} (expected {expected} for {size})")
