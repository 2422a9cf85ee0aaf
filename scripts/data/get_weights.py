"""Fetch the released ERNIE-M weights and their vocabulary; see scripts/data/get_weights.sh.

The files go where the official scripts expect them: configs/vocab.txt, configs/piece.model and
configs/{base,large}/params/. Files that are already there are checked and kept.
"""

import argparse
import os
import shutil
import sys
import tarfile
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
    version = path.with_name(path.name + ".version")  # of the file on the server that `part` is a part of
    path.parent.mkdir(parents=True, exist_ok=True)
    known = version.read_text() if version.is_file() else ""
    have = part.stat().st_size if part.exists() and known else 0
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={have}-", "If-Range": known} if have else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            have = have if reply.status == 206 else 0  # else the server sends the file from its start
            tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            version.write_text("" if tag.startswith("W/") else tag)
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length else None
            shown = {"total": total, "initial": have, "desc": path.name, "mininterval": 10}
            with (
                unwritable_is_a_user_error(part),
                open(part, "ab" if have else "wb") as file,
                tqdm.wrapattr(file, "write", **shown) as counted,
            ):
                shutil.copyfileobj(reply, counted, 1 << 20)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is not a part of this file
            part.unlink(missing_ok=True)
        raise DownloadError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise DownloadError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    if total is not None and part.stat().st_size != total:
        raise DownloadError(f"it broke off at {part.stat().st_size:,} of {total:,} bytes")
    os.replace(part, path)
    version.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Get the parts that the command line names. One message at the end lists what could not be fetched."""
    parser = argparse.ArgumentParser(
        prog="get_weights.sh", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all of them when none is named")
    add("--from_xlmr", type=Path, metavar="FILE", help="derive the vocabulary from XLM-R's model")
    add("--configs", type=Path, default=Path("configs"), help="folder to put everything in (configs)")
    options = parser.parse_args(arguments)
    configs, missing = options.configs, []
    for part in options.parts or PARTS:
        if part not in PARTS:
            raise UserError(f"unknown part '{part}'; it is one of {', '.join(PARTS)}")
        try:
            if part == "vocab":
                get_vocabulary(configs, options.from_xlmr)
            else:
                get_weights(part, configs)
        except DownloadError as error:
            print(f"{part}: not fetched: {error}", flush=True)
            if part == "vocab":
                missing += [f"{VOCAB_URL.format(name=name)} -> {configs / name}" for name in VOCAB_FILES]
                missing.append(
                    "  or, instead of these two, XLM-R's sentencepiece.bpe.model: --from_xlmr FILE"
                )
            else:
                missing.append(f"{WEIGHTS_URL.format(size=part)} -> {_archive(part, configs)}")
    if missing:
        print("to be downloaded by hand, and put where the arrow points:", *missing, sep="\n  ", flush=True)
        raise UserError(
            "not all files could be downloaded: fetch what is listed above by hand, and run the same command "
            "again, which checks and unpacks them"
        )


def get_vocabulary(configs: Path, model: Path | None = None) -> None:
    """Fetch vocab.txt and piece.model, or derive them from XLM-R's piece model; those that exist stay.

    Raises:
        DownloadError: a file cannot be fetched.
        UserError: the files do not belong together or do not have 250,002 ids, the model does not exist, or
            another vocabulary is already there.
    """
    files = [configs / name for name in VOCAB_FILES]
    if model is None:
        for file in files:
            if not file.is_file():
                print(f"vocab: downloading {VOCAB_URL.format(name=file.name)}", flush=True)
                download(VOCAB_URL.format(name=file.name), file)
    tokenizer = Tokenizer(*files) if model is None else Tokenizer(piece_model_path=model)
    if tokenizer.vocab_size != VOCAB_SIZE:
        raise UserError(
            f"{model or files[0]}: {tokenizer.vocab_size:,} ids, but the released weights have "
            f"{VOCAB_SIZE:,}; move it and its piece model away and run this again"
        )
    if model is not None:
        if any(file.exists() for file in files) and Tokenizer.from_folder(configs).digest != tokenizer.digest:
            raise UserError(f"{configs}: another vocabulary is there; move it away and run this again")
        with atomic_file(files[1]) as file:
            file.write(model.read_bytes())
        tokenizer.write_vocab(files[0])
    print(f"vocab: {files[0]} and {files[1].name}, {VOCAB_SIZE:,} ids")


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
    archive, url = _archive(size, configs), WEIGHTS_URL.format(size=size)
    if not archive.is_file():
        print(f"{size}: downloading {url}", flush=True)
        try:
            download(url, archive)
        except DownloadError as error:
            if not url.startswith("https:"):
                raise
            print(f"{size}: https: {error}; now over http, which the official README names", flush=True)
            download(url.replace("https:", "http:", 1), archive)
    print(f"{size}: unpacking {archive}", flush=True)
    with atomic_dir(target) as folder:
        unpack(archive, folder)
        check_parameters(folder, size)
        config = folder / "ernie_config.json"
        if config.exists() and not (target.parent / config.name).exists():
            shutil.copyfile(config, target.parent / config.name)
        config.unlink(missing_ok=True)
    archive.unlink()
    print(f"{size}: {target}, {sum(1 for _ in target.iterdir())} files")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files beside `word_embedding`, and ernie_config.json, into a folder.

    Raises:
        UserError: it is not an archive, it is cut short, it has no such file, or it is too large.
    """
    try:
        with unwritable_is_a_user_error(folder), tarfile.open(archive) as tar:
            files = [(Path(member.name), member) for member in tar if member.isfile()]
            places = {path.parent for path, _ in files if path.name == "word_embedding"}
            if not places:
                raise UserError(f"{archive}: no file word_embedding in it; not ERNIE-M, delete it")
            chosen = [one for one in files if one[0].parent in places or one[0].name == "ernie_config.json"]
            if sum(member.size for _, member in chosen) > LARGEST_ARCHIVE:
                raise UserError(
                    f"{archive}: more than {LARGEST_ARCHIVE >> 30} GiB when unpacked; not ERNIE-M"
                )
            for path, member in chosen:
                with tar.extractfile(member) as data, open(folder / path.name, "wb") as file:
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
    headers = {
        file.name: fluid.read_header(file)
        for file in sorted(folder.iterdir())
        if file.name.startswith(ENCODER_FILES)
    }
    found, expected = headers["word_embedding"].shape, (VOCAB_SIZE, HIDDEN_SIZE[size])
    if found != expected:
        raise UserError(f"{folder}/word_embedding: its shape is {found}, but that of {size} is {expected}")


def _archive(size: str, configs: Path) -> Path:
    return configs / Path(WEIGHTS_URL.format(size=size)).name


if __name__ == "__main__":
    run(main)
