"""Readers of plain text with one sentence per line, and of bitexts.

A bitext is two such files: line i of one is the translation of line i of the other. A multilingual retrieval
data set is a directory of files with these names:

    de-en.de, de-en.en                              XTREME's names; its sorted files are rejected
    tatoeba.deu-eng.deu, tatoeba.deu-eng.eng        the public files of Tatoeba (LASER)
    de-en.tsv, de-en.csv.gz, de-en.tmx              both sides in one file, German first
    wiki.de-en.tsv                                  with an optional prefix
    fr-de.tsv, questions.tsv                        other languages, or any pairs, by file name
"""

import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.files.find_files import (
    WITH_BOTH_SIDES,
    check_languages,
    find_files,
    get_stem,
    split_file_list,
)
from ernie_m.reader.files.official_tsv import FileLines, decode_line, open_lines
from ernie_m.reader.files.pairs import PairRows, reject_sorted_lines
from ernie_m.reader.files.plain_text import detect_format, reject_other_formats, reject_tables
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.files.text_checks import check_text
from ernie_m.reader.text_featurizer import Example
from ernie_m.utils.errors import UserError, get_command_name, join_items
from ernie_m.utils.languages import language_tag
from ernie_m.utils.logging import logger

# XTREME's codes of the 36 languages of Tatoeba -> the codes in the public file names, in the order of the
# paper's Table 16.
TATOEBA = {
    "af": "afr", "ar": "ara", "bg": "bul", "bn": "ben", "de": "deu", "el": "ell", "es": "spa", "et": "est",
    "eu": "eus", "fa": "pes", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind",
    "it": "ita", "ja": "jpn", "jv": "jav", "ka": "kat", "kk": "kaz", "ko": "kor", "ml": "mal", "mr": "mar",
    "nl": "nld", "pt": "por", "ru": "rus", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl",
    "tr": "tur", "ur": "urd", "vi": "vie", "zh": "cmn",
}  # fmt: skip
# Name of one of two aligned files.
_BITEXT = re.compile(r"(tatoeba\.)?(?P<code>.+)-(?P<english>en|eng)\.(?P<side>(?P=code)|(?P=english))")
_BOTH_SIDES = re.compile(r"(.*\.)?(?P<code>[^.]+)-(en|eng)")
_REVERSED = re.compile(r"en-([^.]+)\.\1")


class Sentences(FileLines, Sequence[Example]):
    """The lines of a text file, read on access; each is an `Example` without a second text.

    Args:
        skip_text_checks: see `check_text`.

    Raises:
        UserError: the file is missing or empty, has the extension of a table, or is not text; when a line is
            read, that it is not UTF-8.
    """

    def __init__(self, path: str | os.PathLike, skip_text_checks: bool | None = None):
        starts = array("q", [0])  # byte offsets of lines
        # The version detects later changes of the file.
        with open_lines(Path(path)) as (file, version):
            head = file.peek()
            reject_other_formats(head, path)
            reject_tables(path, head)
            check_text(path, head.decode(errors="replace").split("\n")[:-1], "", skip_text_checks)
            for line in file:
                starts.append(starts[-1] + len(line))
        super().__init__(Path(path), version, np.asarray(starts, np.int64))

    def __getitem__(self, index: int) -> Example:
        # U+FEFF is the byte order mark.
        text = decode_line(self.read_line(index), self.path, index + 1).strip("\ufeff\r\n")
        return Example(text, text_b=None)

    def read_texts(self) -> list[str]:
        """Return all lines, without line endings."""
        return [example.text_a for example in self]


def read_sentences_by_language(files: str, languages: Sequence[str] = ()) -> dict[str, list[str]]:
    """Read the text files of several languages: language -> its non-blank lines.

    Args:
        files: the value of --center_on, "de<=de.txt,en<=en.txt".
        languages: the required languages.

    Raises:
        UserError: `files` is invalid, a required language is missing, a file cannot be read or has only blank
            lines; see also `check_languages`.
    """
    sentences = {}
    for language, path in split_file_list(files):
        if not language or not path or language in sentences:
            raise UserError(
                f"invalid --center_on {files} (expected language<=file,language<=file, each language once)"
            )
        sentences[language] = [text for text in Sentences(path).read_texts() if text.strip()]
        if not sentences[language]:
            raise UserError(f"{path}: all lines are blank (expected one sentence per line)")
    check_languages(sentences)
    missing = [language for language in languages if language not in sentences]
    if missing:
        raise UserError(f"--center_on: missing {', '.join(missing)}. Add language<=file for every language")
    return sentences


class Bitext(NamedTuple):
    """N aligned sentences of a language and English (or another language), or queries and relevant texts.

    Attributes:
        language: the language of the sentences, or without English the name of the file.
        translations: the translation, or the relevant text, of each sentence.
        are_translations: whether the pairs are translations; otherwise queries and relevant texts.
        with_english: whether the translations are English.
        keys: hashes of the sentences and translations, uint64 [2, N], after deduplication; see
            `ernie_m.reader.equal_texts`.
    """

    language: str
    sentences: list[str]
    translations: list[str]
    are_translations: bool = True
    with_english: bool = True
    keys: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The name of the bitext, such as "de-en", "fr-de" or "questions"."""
        return f"{self.language}-en" if self.with_english else self.language

    @property
    def line_keys(self) -> np.ndarray:
        """Unique keys, int64 [1, N], so that only the aligned line is a hit, as in XTREME."""
        return np.arange(len(self.sentences))[np.newaxis]

    def sort_alphabetically(self) -> list[int]:
        """Return the line indices of the sorted translations, as in XTREME (Hu et al., 2020)."""
        texts = [text.strip() for text in self.translations]
        return sorted(range(len(texts)), key=lambda number: texts[number])


def read_bitext(
    language: str,
    path: str | os.PathLike,
    translations_path: str | os.PathLike,
    *,
    skip_text_checks: bool = False,
) -> Bitext:
    """Read a bitext from two aligned files.

    Raises:
        UserError: a file is missing, empty or not UTF-8, the numbers of lines differ, or the second file is
            sorted.
    """
    sentences = Sentences(path)
    translations = Sentences(translations_path)
    if len(sentences) != len(translations):
        raise UserError(
            f"{path} has {len(sentences):,} lines, but {translations_path} has {len(translations):,} "
            "(expected aligned lines)"
        )
    texts = translations.read_texts()
    reject_sorted_lines(translations_path, texts, skip_text_checks)
    return Bitext(language, sentences.read_texts(), texts)


def read_bitexts(
    folder: str | os.PathLike, languages: Sequence[str] = (), options: TableOptions | None = None
) -> list[Bitext]:
    """Read the bitexts of a directory.

    Args:
        languages: the languages to read; (): all, in the order of the paper's Table 16.
        options: the options for reading tables.

    Raises:
        UserError: a bitext is missing; see also `read_bitext`.
    """
    folder = Path(folder)
    files = find_bitexts(folder)
    if not files:
        raise UserError(
            f"{folder}: no files <language>-en.<language> or tatoeba.<lan>-eng.<lan>. For Tatoeba, run "
            f"{get_command_name()} download data tatoeba and use data/tatoeba; copy other aligned files to "
            "names such as de-en.de and de-en.en"
        )
    absent = [language for language in languages if language not in files]
    if absent:
        raise UserError(f"{folder}: missing languages {', '.join(absent)} (found: {', '.join(files)})")
    bitexts = []
    for language in languages or files.keys():
        if len(files[language]) == 1:
            (path,) = files[language]
            rows = PairRows(path, options)
            sides = [[row[side] for row in rows] for side in (0, 1)]
            with_english = _BOTH_SIDES.fullmatch(get_stem(path)) is not None
            bitexts.append(Bitext(language, *sides, rows.are_translations, with_english))
        else:
            skip = bool(options and options.skip_text_checks)
            bitexts.append(read_bitext(language, *files[language], skip_text_checks=skip))
    return bitexts


def find_bitexts(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Find the bitexts of a directory: language -> two aligned files, or one file with both sides.

    The languages of the paper's Table 16 come first, in its order.

    Raises:
        UserError: two bitexts have the same language; or no bitext is found, and a file name has English
            first.
    """
    names = {language_tag(code): code for code in TATOEBA}  # XTREME's
    files: dict[str, tuple[Path, ...]] = {}
    unread: list[Path] = []
    paths = map(Path, find_files(folder) if folder.is_dir() else ())
    for path in (path for path in paths if "." in path.name and path.is_file()):
        has_both = detect_format(path) in WITH_BOTH_SIDES
        match = _BOTH_SIDES.fullmatch(get_stem(path)) if has_both else _BITEXT.fullmatch(path.name)
        english = path.with_suffix(f".{match['english']}") if match and not has_both else path
        if has_both or english != path:
            tag = language_tag(match["code"]) if match else ""
            code = match["code"] if match else get_stem(path)
            language = names.get(tag, tag if tag.isalpha() else code)
            if language in files:
                raise UserError(
                    f"{files[language][0]} and {path}: duplicate bitexts of {language}. Remove one of them"
                )
            files[language] = (path,) if has_both else (path, english)
        elif not match:
            unread.append(path)
    for path in () if files else unread:
        if wrong := _REVERSED.fullmatch(path.name):
            raise UserError(
                f"{path}: English must come second in the name. Rename the files to {wrong[1]}-en."
                f"{wrong[1]} and {wrong[1]}-en.en"
            )
    if unread:
        logger.warning("ignored files: %s", join_items(list(map(str, unread)), 10))
    in_order = [*TATOEBA, *sorted(files.keys() - TATOEBA.keys())]
    return {language: files[language] for language in in_order if language in files}
