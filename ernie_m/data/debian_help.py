"""Sentence pairs from the translated help of programs in Debian's packages: public_text --with_apt.

What is there, and in which version, the release of Debian decides. Paragraphs are translations of each other:

- LibreOffice's help (MPL-2.0), a package for each language: pages of one name, paragraphs with one id;
- GNOME's help (CC-BY-SA-3.0), the Debian handbook (GPL-2.0 or CC-BY-SA-3.0): pages of one name with as many
  paragraphs, in their order.
"""

import html
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ernie_m.data.download import DAMAGED
from ernie_m.data.translated_messages import Message
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import atomic_dir

LIBREOFFICE = "libreoffice-help-"
ENGLISH_HELP = f"{LIBREOFFICE}en-us"
OF_LIBREOFFICE = "cs da de el es fi fr hi hu it ja ko nl pl pt ru sv tr vi zh"
LICENCES = {"gnome-user-docs": "CC-BY-SA-3.0", "debian-handbook": "GPL-2.0"}  # of the others MPL-2.0
# Package -> the folder of its languages, and its paragraphs.
PAGES = {
    "gnome-user-docs": ("usr/share/help/", r"<(p|title)(?:\s[^>]*)?>(?P<text>.*?)</\1>"),
    "debian-handbook": ("usr/share/doc/debian-handbook/html/", r'<div class="para">(?P<text>.*?)</div>'),
}
OTHER_SCRIPTS = ("zh-TW", "zh_TW", "zh_HK")  # traditional Chinese
_WITH_ID = re.compile(r'<(p|h\d)\b[^>]* id="(?P<id>(?:par|hd)_id\w+)"[^>]*>(?P<text>.*?)</\1>', re.DOTALL)
_ANY_TAG = re.compile(r"<[^>]*>")


def fetch_help(downloads: Path, languages: Sequence[str]) -> dict[str, Path]:
    """Download the packages of this Debian that are not there.

    Returns:
        package -> its file.

    Raises:
        UserError: there is no apt-get, or it cannot fetch them.
    """
    packages = [ENGLISH_HELP, *PAGES]
    for language in languages:
        if language in OF_LIBREOFFICE.split():
            packages.append(LIBREOFFICE + {"zh": "zh-cn", "pt": "pt-br"}.get(language, language))
    missing = [package for package in packages if not (downloads / package).is_dir()]
    if missing:
        # Each line: the address in quotes, the name of the file, its size, its hash.
        lines = _apt_get(["--print-uris", *missing], Path()).splitlines()
        megabytes = sum(int(line.split()[2]) for line in lines) / 1e6
        say(f"downloading {len(missing)} packages of Debian, {megabytes:.0f} MB, to {downloads}")
    for package in missing:
        with atomic_dir(downloads / package) as folder:
            _apt_get([package], folder)
    return {package: next((downloads / package).glob("*.deb")) for package in packages}


def _apt_get(words: Sequence[str], folder: Path) -> str:
    """What `apt-get download` prints in a folder."""
    command = ["apt-get", "download", "--quiet", *words]
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(
            "--with_apt: there is no apt-get here, which only Debian has; leave it out"
        ) from error
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"apt-get cannot download {words[-1]} ({reason}); run apt-get update, and the same command again"
        )
    return process.stdout


def read_help(path: Path, languages: Sequence[str]) -> Iterator[Message]:
    """The paragraphs of a package, in the order of its pages.

    Args:
        path: a file of `fetch_help`. That of LibreOffice's English help lies beside it.

    Raises:
        UserError: a package is damaged.
    """
    package = path.name.partition("_")[0]
    if package == ENGLISH_HELP:
        return
    if package in PAGES:
        top, paragraph = PAGES[package]
        pages = _pages_of(path, top)
        paragraphs = re.compile(paragraph, re.DOTALL)
        for language in languages:
            for (code, name), page in pages.items():
                english = pages.get(("C", name)) or pages.get(("en-US", name))
                if english and code.replace("_", "-").split("-")[0] == language and code not in OTHER_SCRIPTS:
                    originals = [_text(found) for found in paragraphs.finditer(english)]
                    translations = [_text(found) for found in paragraphs.finditer(page)]
                    if len(originals) == len(translations):
                        for original, translation in zip(originals, translations):
                            yield Message(language, original, translation)
        return
    language = package.removeprefix(LIBREOFFICE).split("-")[0]
    english_path = next((path.parents[1] / ENGLISH_HELP).glob("*.deb"))
    top = "usr/share/libreoffice/help/"
    english_pages = {name: page for (_, name), page in _pages_of(english_path, top).items()}
    for (_, name), page in _pages_of(path, top).items():
        in_english = _WITH_ID.finditer(english_pages.get(name, ""))
        original_of = {found["id"]: _text(found) for found in in_english}  # id -> paragraph
        for found in _WITH_ID.finditer(page):
            if found["id"] in original_of:
                yield Message(language, original_of[found["id"]], _text(found))


def _text(found: re.Match[str]) -> str:
    """The text of a paragraph without its tags."""
    return html.unescape(_ANY_TAG.sub("", found["text"]))


def _pages_of(path: Path, top: str) -> dict[tuple[str, str], str]:
    """(language as the package writes it, name of the page) -> the page, in alphabetical order."""
    process = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=False)
    pages = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(process.stdout)) as archive:
            for member in archive:
                _, is_below, place = member.name.partition(top)
                if is_below and member.isfile() and place.endswith((".html", ".page")):
                    language, _, name = place.partition("/")
                    pages[language, name] = archive.extractfile(member).read().decode(errors="replace")
    except DAMAGED as error:
        raise UserError(f"{path}: damaged ({error}); delete its folder and run this again") from error
    return dict(sorted(pages.items()))
