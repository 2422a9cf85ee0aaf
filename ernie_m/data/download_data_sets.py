"""Download and prepare the public data of the fine-tuning recipes.

ernie-m download data xnli mlqa

Downloads are kept in data/downloads/<part>, and prepared as by ernie-m prepare in data/<task>. Existing
downloads are reused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ernie_m.data import prepare
from ernie_m.data.download import fetch_missing, report_failed_downloads, unpack
from ernie_m.reader.files.aligned_lines import TATOEBA, read_bitexts
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import remove

FACEBOOK = "https://dl.fbaipublicfiles.com"
GOOGLE = "https://storage.googleapis.com"
GITHUB = "https://raw.githubusercontent.com"
XQUAD_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")


class DataSetFiles(NamedTuple):
    """The files of a public data set.

    Attributes:
        task: the task of `ernie-m prepare`; "" for Tatoeba, which is used unchanged.
        folder: the prefix of all URLs.
        files: the file names.
    """

    task: str
    folder: str
    files: Sequence[str]


TATOEBA_CODES = tuple(TATOEBA.values())  # "deu" for German
TATOEBA_FILES = [f"tatoeba.{code}-eng.{side}" for code in TATOEBA_CODES for side in (code, "eng")]
PARTS = {
    "xnli": DataSetFiles("xnli", f"{FACEBOOK}/XNLI", ["XNLI-1.0.zip", "XNLI-MT-1.0.zip"]),
    "pawsx": DataSetFiles("pawsx", f"{GOOGLE}/paws/pawsx", ["x-final.tar.gz"]),
    "mlqa": DataSetFiles("mlqa", f"{FACEBOOK}/MLQA", ["MLQA_V1.zip"]),
    "squad": DataSetFiles("mlqa", f"{GITHUB}/rajpurkar/SQuAD-explorer/master/dataset", ["train-v1.1.json"]),
    "xquad": DataSetFiles(
        "mlqa", f"{GITHUB}/deepmind/xquad/master", [f"xquad.{language}.json" for language in XQUAD_LANGUAGES]
    ),
    "tatoeba": DataSetFiles("", f"{GITHUB}/facebookresearch/LASER/main/data/tatoeba/v1", TATOEBA_FILES),
}
BY_HAND = {
    "panx": "not downloadable automatically. XTREME's README links it (AmazonPhotos.zip); unpack it and its "
    "archives, then run ernie-m prepare panx FOLDER",
    "conll": "not downloadable because of its licenses. Request it as described on "
    "www.clips.uantwerpen.be/conll2002/ner and conll2003/ner, then run ernie-m prepare conll FOLDER",
}


@dataclass
class DataFlags:
    """Command-line options of `ernie-m download data`."""

    parts: list[str] = option(default_factory=list, positional=True)
    """Data sets to download: xnli, pawsx, mlqa, squad, xquad or tatoeba (default: all)."""

    data: str = option("data", needed=True)
    """Output directory."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if part in BY_HAND:
                raise UserError(f"{part}: {BY_HAND[part]}")
            if part not in PARTS:
                raise UserError(f"unknown part '{part}' (choose from {', '.join(PARTS)})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ernie-m download data`.

    Raises:
        UserError: a file could not be downloaded or prepared; the other data sets are prepared first.
    """
    flags = parse_options(DataFlags, arguments, __name__)
    data = Path(flags.data)
    errors = {part: fetch_missing(list_urls(data, part)) for part in flags.parts or PARTS}
    fetched = [part for part in errors if not errors[part]]  # parts whose files are complete
    if "tatoeba" in fetched:
        try:  # its files are used as they are, so check them by reading
            bitexts = read_bitexts(data / "tatoeba")
        except UserError as error:
            raise UserError(
                f"{error}. If a download is corrupt, delete it and run the same command again"
            ) from error
        say(f"tatoeba: {len(bitexts)} languages in {data / 'tatoeba'}")
    tasks = dict.fromkeys(PARTS[part].task for part in fetched)  # several parts may have the same task
    for task in tasks:
        if task:
            prepare_task(data, task)
    report_failed_downloads([*chain.from_iterable(errors.values())])


def list_urls(data: Path, part: str) -> dict[Path, str]:
    """Return the path of each file of a data set -> its URL."""
    # Files without a task are used as they are.
    target = data / "downloads" / part if PARTS[part].task else data / part
    return {target / name: f"{PARTS[part].folder}/{name}" for name in PARTS[part].files}


def prepare_task(data: Path, task: str) -> None:
    """Unpack and prepare all completely downloaded data sets of a task, including earlier downloads.

    Raises:
        UserError: an archive or a file in it is corrupt.
    """
    sources = []  # files and unpacked folders
    unpacked = []
    for name, part in PARTS.items():
        paths = list(list_urls(data, name))
        if part.task != task or not all(path.is_file() for path in paths):
            continue
        for path in paths:
            if path.suffix == ".json":
                sources.append(path)
            else:
                folder = path.with_name(f"{path.name}.unpacked")
                unpack(path, folder)
                sources.append(folder)
                unpacked.append(folder)
    try:
        prepare.main([task, *map(str, sources), "--output", str(data / task)])
    except UserError as error:
        raise UserError(
            f"{error}. If a download is corrupt, delete it in {data / 'downloads'} and run this again"
        ) from error
    finally:
        for folder in unpacked:
            remove(folder)
