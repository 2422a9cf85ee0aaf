"""Fetch the released ERNIE-M weights and their vocabulary; see scripts/data/get_weights.sh.

The files go where the official scripts expect them: configs/vocab.txt, configs/piece.model and
configs/{base,large}/params/. Files that are already there are checked and kept.
"""

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
from utils.command_line import Parser
from utils.errors import UserError, run
from utils.files import atomic_dir, unwritable_is_a_user_error

# From the official README, and the folder ernie-m/configs of the official repository (branch repro).
# No size or hash of them is published: the shapes of all tensors are checked instead.
WEIGHTS_URL = "https://bj.bcebos.com/wenxin-models/model-ernie-m-{size}.tar.gz"
VOCAB_URL = "https://raw.githubusercontent.com/PaddlePaddle/ERNIE/repro/ernie-m/configs/{name}"
VOCAB_FILES = ("vocab.txt", "piece.model")
VOCAB_SIZE = 250_002
HIDDEN_SIZE = {"base": 768, "large": 1024}
PARTS = ("vocab", *HIDDEN_SIZE)
LARGEST_ARCHIVE = 16 << 30  # bytes, unpacked; the weights of large have 2.2 GB
ENCODER_FILES = ("word_embedding", "pos_embedding", "pre_encoder", "encoder_layer", "pooled_fc")


def download(url: str, path: Path) -> str:
    """Fetch `url` to `path`; returns why it could not be fetched, else "". UserError: the disk is full.

    Until it is complete, its bytes are in `<path>.part`; another call continues it.
    """
    print(f"downloading {url}", flush=True)
    part = path.with_name(path.name + ".part")
    version = path.with_name(path.name + ".version")  # of the server's file, so that two are never mixed
    part.parent.mkdir(parents=True, exist_ok=True)
    known = version.read_text() if version.is_file() else ""
    have = part.stat().st_size if part.exists() and known else 0
    headers = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
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
        return f"the server answers {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    if total is not None and part.stat().st_size != total:
        return f"it broke off at {part.stat().st_size:,} of {total:,} bytes"
    os.replace(part, path)
    version.unlink(missing_ok=True)
    return ""


def main(arguments: list[str] | None = None) -> None:
    """Get the parts that the command line names. UserError: a file could not be fetched; all are listed."""
    summary = __doc__.split("\n\n")[0]
    parser = Parser(summary, prog="get_weights.sh")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; none: all of them")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder to write (configs)")
    options = parser.parse_args(arguments)
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"unknown part '{unknown.pop()}'; it is one of {', '.join(PARTS)}")
    configs, missing = options.configs, []
    for part in options.parts or PARTS:
        target, url = configs / part / "params", WEIGHTS_URL.format(size=part)
        files = {configs / Path(url).name: url}
        if part == "vocab":
            files = {configs / name: VOCAB_URL.format(name=name) for name in VOCAB_FILES}
        elif target.is_dir():
            check_parameters(target, part)
            print(f"{part}: {target} is there already")
            continue
        absent = [(url, path) for path, url in files.items() if not path.is_file()]
        faults = [f"{url} -> {path}: {fault}" for url, path in absent if (fault := download(url, path))]
        missing += faults
        if part == "vocab" and not faults:
            check_vocabulary(*files)
        elif not faults:
            unpack(*files, target, part)
    if missing:
        print("download by hand, and put where the arrow points:", *missing, sep="\n  ", flush=True)
        raise UserError(
            "not all files could be downloaded: fetch what is listed above by hand, and run the same command "
            "again, which checks and unpacks them"
        )


def check_vocabulary(vocab: Path, pieces: Path) -> None:
    """UserError: the files do not belong together, or do not have 250,002 ids."""
    size = Tokenizer(vocab, pieces).vocab_size
    if size != VOCAB_SIZE:
        what = f"{size:,} ids, but the released weights have {VOCAB_SIZE:,}"
        raise UserError(f"{vocab}: {what}; move it and {pieces.name} away and run this again")
    print(f"vocab: {vocab} and {pieces.name}, {VOCAB_SIZE:,} ids")


def unpack(archive: Path, target: Path, size: str) -> None:
    """Unpack the files beside `word_embedding`. UserError: it is not an archive, or it has something else."""
    print(f"{size}: unpacking {archive}", flush=True)
    try:
        with unwritable_is_a_user_error(target), atomic_dir(target) as folder, tarfile.open(archive) as tar:
            files = [(Path(member.name), member) for member in tar if member.isfile()]
            if sum(member.size for _, member in files) > LARGEST_ARCHIVE:
                raise UserError(f"{archive}: over {LARGEST_ARCHIVE >> 30} GiB when unpacked; not ERNIE-M")
            places = {path.parent for path, _ in files if path.name == "word_embedding"}
            for path, member in files:
                if path.parent in places:
                    with tar.extractfile(member) as data, open(folder / path.name, "wb") as file:
                        shutil.copyfileobj(data, file, 1 << 20)
            check_parameters(folder, size)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); delete it and run this again") from error
    archive.unlink()
    print(f"{size}: {target}, {sum(1 for _ in target.iterdir())} files")


def check_parameters(folder: Path, size: str) -> None:
    """UserError: a file is not whole, or the word embedding has another shape."""
    table = folder / "word_embedding"
    if not table.is_file():
        raise UserError(f"{folder}: no word_embedding in it, so these are not the weights of ERNIE-M")
    for file in folder.iterdir():
        if file.name.startswith(ENCODER_FILES):
            fluid.read_header(file)
    found, expected = fluid.read_header(table).shape, (VOCAB_SIZE, HIDDEN_SIZE[size])
    if found != expected:
        raise UserError(f"{table}: its shape is {found}, but that of {size} is {expected}")


if __name__ == "__main__":
    run(main)
