"""Fetch the released ERNIE-M weights and their vocabulary; see scripts/data/get_weights.sh.

The files go where the official scripts expect them: configs/vocab.txt, configs/piece.model and
configs/{base,large}/params/. Files that are already there are checked and kept.
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from model.checkpoint.formats import fluid
from reader.tokenization import Tokenizer
from utils.errors import UserError, run
from utils.files import atomic_dir, atomic_file, unwritable_is_a_user_error

# From the official README, and the folder ernie-m/configs of the official repository (branch repro).
# No size or hash of them is published: the shapes of all tensors are checked instead.
WEIGHTS_URL = "https://bj.bcebos.com/wenxin-models/model-ernie-m-{size}.tar.gz"
VOCAB_URL = "https://raw.githubusercontent.com/PaddlePaddle/ERNIE/repro/ernie-m/configs/{name}"
VOCAB_FILES = ("vocab.txt", "piece.model")
VOCAB_SIZE = 250_002
HIDDEN_SIZE = {"base": 768, "large": 1024}
PARTS = ("vocab", *HIDDEN_SIZE)
ENCODER_FILES = ("word_embedding", "pos_embedding", "pre_encoder", "encoder_layer", "pooled_fc")

TIMEOUT_SECONDS = 20
LARGEST_ARCHIVE = 16 << 30  # bytes; the weights of large have 2.2 GB
REPORT_SECONDS = 10


class DownloadError(Exception):
    """The file could not be fetched as a whole. The message is the reason in a few words."""


def download(url: str, path: Path) -> None:
    """Fetch `url` to `path`. Until the file is complete, its bytes are in `<path>.part`.

    Raises:
        DownloadError: there is no connection, the server has an error, or the transfer ended early. Another
            call continues it.
        UserError: the disk is full.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    version = path.with_name(path.name + ".version")  # of the file on the server that `part` is a part of
    known = version.read_text() if version.is_file() else ""
    have = part.stat().st_size if part.exists() and known else 0
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={have}-", "If-Range": known} if have else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            if have and reply.status != 206:  # the server sends it from the start
                have = 0
            if have and not (reply.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                part.unlink()
                raise DownloadError("the server sends another part than was asked for; run the command again")
            found = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            version.write_text("" if found.startswith("W/") else found)
            length = reply.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            shown = {"desc": path.name, "initial": have, "unit_scale": True, "mininterval": REPORT_SECONDS}
            with (
                unwritable_is_a_user_error(part),
                open(part, "ab" if have else "wb") as file,
                tqdm.wrapattr(file, "write", total=total, unit="B", **shown) as counted,
            ):
                shutil.copyfileobj(reply, counted, 1 << 20)
    except urllib.error.HTTPError as error:
        # 416: nothing is left to send, if the file is as long as the part.
        whole = (error.headers.get("Content-Range") or f"*/{have}").rpartition("/")[2]
        if error.code != 416 or not have or whole != str(have):
            part.unlink(missing_ok=True) if error.code == 416 else None
            raise DownloadError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    else:
        if total is not None and part.stat().st_size != total:
            raise DownloadError(f"it broke off at {part.stat().st_size:,} of {total:,} bytes")
    os.replace(part, path)
    version.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Get the parts that the command line names. One message at the end lists what could not be fetched."""
    parser = argparse.ArgumentParser(
        prog="get_weights.sh", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all of them when none is named"
    )
    parser.add_argument(
        "--from_xlmr", type=Path, metavar="FILE", help="derive the vocabulary from XLM-R's model"
    )
    parser.add_argument(
        "--configs", type=Path, default=Path("configs"), help="folder to put everything in (configs)"
    )
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            raise UserError(f"unknown part '{part}'; it is one of {', '.join(PARTS)}")

    missing: list[str] = []
    for part in options.parts or PARTS:
        try:
            if part != "vocab":
                get_weights(part, options.configs)
            elif options.from_xlmr:
                derive_vocabulary(options.from_xlmr, options.configs)
            else:
                get_vocabulary(options.configs)
        except DownloadError as error:
            print(f"{part}: not fetched: {error}", flush=True)
            missing += by_hand(part, options.configs)
    if missing:
        print("to be downloaded by hand, and put where the arrow points:", *missing, sep="\n  ", flush=True)
        raise UserError(
            f"{len(missing)} files could not be downloaded: fetch what is listed above by hand, and run the "
            "same command again, which checks and unpacks them"
        )


def by_hand(part: str, configs: Path) -> list[str]:
    """Lines that say what to download for a part, and where to put it."""
    if part == "vocab":
        lines = [f"{VOCAB_URL.format(name=name)} -> {configs / name}" for name in VOCAB_FILES]
        return [*lines, "  or, instead of these two, XLM-R's sentencepiece.bpe.model: --from_xlmr FILE"]
    return [f"{WEIGHTS_URL.format(size=part)} -> {_archive(part, configs)}"]


def get_vocabulary(configs: Path) -> None:
    """Fetch vocab.txt and piece.model, unless they exist.

    Raises:
        DownloadError: a file cannot be fetched.
        UserError: the two do not belong together, or do not have 250,002 ids.
    """
    for name in VOCAB_FILES:
        if not (configs / name).is_file():
            print(f"vocab: downloading {VOCAB_URL.format(name=name)}", flush=True)
            download(VOCAB_URL.format(name=name), configs / name)
    try:
        _check_size(Tokenizer(*(configs / name for name in VOCAB_FILES)), configs / "vocab.txt")
    except UserError as error:
        raise UserError(
            f"{error}. Move {configs / 'vocab.txt'} and piece.model away and run this again"
        ) from error
    print(f"vocab: {configs / 'vocab.txt'} and piece.model, {VOCAB_SIZE:,} ids")


def derive_vocabulary(model: Path, configs: Path) -> None:
    """Derive vocab.txt and piece.model from XLM-R's piece model: the same ids with our names for special
    tokens.

    Raises:
        UserError: the model does not exist or has another size, or another vocabulary is already there.
    """
    tokenizer = Tokenizer(piece_model_path=model)
    _check_size(tokenizer, model)
    for name in VOCAB_FILES:
        if (configs / name).exists() and Tokenizer.from_folder(configs).digest != tokenizer.digest:
            raise UserError(
                f"{configs / name}: another vocabulary stands there; move it away and run this again"
            )
    with atomic_file(configs / "piece.model") as file:
        file.write(model.read_bytes())
    tokenizer.write_vocab(configs / "vocab.txt")
    print(f"vocab: {configs / 'vocab.txt'} and piece.model, {VOCAB_SIZE:,} ids, derived from {model}")


def get_weights(size: str, configs: Path) -> None:
    """Fetch and unpack the parameters of one size, unless they exist.

    Raises:
        DownloadError: the archive cannot be fetched.
        UserError: it is not an archive, or it has other weights.
    """
    target = configs / size / "params"
    if target.is_dir():
        check_parameters(target, size)
        print(f"{size}: {target} is there already")
        return
    archive = _archive(size, configs)
    if not archive.is_file():
        url = WEIGHTS_URL.format(size=size)
        print(f"{size}: downloading {url}", flush=True)
        try:
            download(url, archive)
        except DownloadError as error:
            if not url.startswith("https:"):
                raise
            print(f"{size}: https: {error}; now over http, which the official README names", flush=True)
            download(url.replace("https:", "http:", 1), archive)
    print(f"{size}: unpacking {archive}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent) as folder:
        unpack(archive, Path(folder))
        found = next(Path(folder).rglob("word_embedding"), None)
        if found is None:
            raise UserError(
                f"{archive}: no file word_embedding in it, so no ERNIE-M weights; delete it and try again"
            )
        check_parameters(found.parent, size)
        config = next(Path(folder).rglob("ernie_config.json"), None)
        if config and not (target.parent / config.name).exists():
            shutil.move(config, target.parent / config.name)
        with atomic_dir(target) as complete:
            for file in found.parent.iterdir():
                shutil.move(file, complete / file.name)
    archive.unlink()
    print(f"{size}: {target}, {sum(1 for _ in target.iterdir())} files")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the regular files of an archive. All of them end up below `folder`, whatever their names.

    Raises:
        UserError: it is not an archive, or it is cut short.
    """
    try:
        with unwritable_is_a_user_error(folder.parent), tarfile.open(archive) as tar:
            room = LARGEST_ARCHIVE
            for member in tar:
                room -= member.size
                if room < 0:
                    raise UserError(
                        f"{archive}: more than {LARGEST_ARCHIVE >> 30} GiB when unpacked; not ERNIE-M"
                    )
                parts = [part for part in Path(member.name).parts if part not in ("/", "..")]
                if member.isfile() and parts:
                    path = folder.joinpath(*parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as data, open(path, "wb") as file:
                        shutil.copyfileobj(data, file, 1 << 20)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); delete it and run this again") from error


def check_parameters(folder: Path, size: str) -> None:
    """Check that every file is whole and that the word embedding has the right shape.

    Raises:
        UserError: a file is not; the message names it.
    """
    if not (folder / "word_embedding").is_file():
        raise UserError(f"{folder}: no word_embedding in it; move the folder away and run this again")
    for file in sorted(folder.iterdir()):
        if file.name.startswith(ENCODER_FILES):
            fluid.read_header(file)
    found, expected = fluid.read_header(folder / "word_embedding").shape, (VOCAB_SIZE, HIDDEN_SIZE[size])
    if found != expected:
        raise UserError(f"{folder}/word_embedding: its shape is {found}, but that of {size} is {expected}")


def _check_size(tokenizer: Tokenizer, source: Path) -> None:
    if tokenizer.vocab_size != VOCAB_SIZE:
        raise UserError(
            f"{source}: {tokenizer.vocab_size:,} ids, but the released weights have {VOCAB_SIZE:,}"
        )


def _archive(size: str, configs: Path) -> Path:
    return configs / Path(WEIGHTS_URL.format(size=size)).name


if __name__ == "__main__":
    run(main)
