"""Custom sentence pairs: found by file names, and split into training and held-out pairs.

        en-de.tsv, wiki.en-de.csv.gz, en-de.tmx    pairs of two languages; other names: unknown languages
        train.en and train.de                      two aligned files, plain or compressed
        test.en-de.tsv, dev.en and dev.de          held-out pairs
        en.txt, news.en.txt.gz                     text of one language, only for pretraining
        "en-de<=en.txt,de.txt"                     others; see `ernie_m.reader.files.pairs`

It writes these files, each with a header:

    train.tsv                                  the training rows of all files
    train/de-en.tsv, held-out/de-en.tsv        query and positive of each file; English is last
        held-out/test-de-en.tsv                    the rows of a held-out file
        pairs.json                                 the files found, and the numbers of rows
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.retrieval.split_pairs import DedupedPairs, divide, hold_out, make_text_keys
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import open_model
from ernie_m.reader.equal_texts import text_ids
from ernie_m.reader.files.find_files import (
    WITH_BOTH_SIDES,
    check_languages,
    find_files,
    get_stem,
    is_held_out_path,
    languages_in_name,
    parse_languages,
    split_label,
)
from ernie_m.reader.files.pairs import PairRows, make_header
from ernie_m.reader.files.plain_text import LINES, named_form, split_name
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import UNK
from ernie_m.utils.errors import UserError, listed, say
from ernie_m.utils.files import atomic_dir, write_json
from ernie_m.utils.languages import common_language
from ernie_m.utils.logging import in_columns

FOUND = "pairs.json"
_HELD_OUT = 500  # held-out rows per file, but at most a tenth
_SAMPLE = 200  # rows sampled per file
_MOST_UNKNOWN = 0.1  # maximum fraction of unknown tokens of a covered language


@dataclass(frozen=True)
class PairFile:
    """One file of pairs, or two aligned ones.

    Args:
        files: in the notation of `PairRows`.
        languages: in the order of its columns; () if unknown.
        name: "de-en", with English last, or the name of a file with unknown languages. A held-out file keeps
            its split: "test-de-en".
        is_held_out: whether its name identifies development or test data.
    """

    files: str
    languages: tuple[str, ...]
    name: str
    is_held_out: bool

    @classmethod
    def of(cls, files: str, languages: tuple[str, ...], stem: str, folder: str | os.PathLike) -> "PairFile":
        """Make it from a file. `stem`: the name without extension; `folder`: the folder given by the user."""
        notation = f"{'-'.join(languages)}<={files}" if languages else files
        in_order = sorted(languages, key=_is_english)
        inside = os.path.relpath(files.split(",")[0], folder or os.curdir)
        is_held_out = is_held_out_path(inside)
        if is_held_out or not languages:
            before_languages = stem.removesuffix("-".join(languages))
            if is_held_out:
                before_languages = os.path.join(os.path.dirname(inside), before_languages)
            in_order.insert(0, re.sub(r"\W+", "_", before_languages.strip("._-/")))
        return cls(notation, languages, "-".join(in_order), is_held_out)

    @property
    def paths(self) -> str:
        """Return the paths without languages."""
        return split_label(self.files)[1]

    def sides(self, row: Sequence[str]) -> Sequence[str]:
        """Return query and positive of a row, in the order of `name`."""
        return row[1::-1] if any(map(_is_english, self.languages[:1])) else row[:2]  # English last


@dataclass(frozen=True)
class FoundFiles:
    """The files found in some sources.

    Args:
        pairs: in alphabetical order of their names.
        text: language -> files of text.
        unread: files whose names match neither.
    """

    pairs: list[PairFile]
    text: dict[str, list[str]]
    unread: list[str]


def find(sources: Iterable[str], output: Path) -> FoundFiles:
    """Find files of pairs and text by name. Files below `output` are skipped.

    Raises:
        UserError: a source does not exist, there are no pairs, or two files have the same languages.
    """
    pairs = []
    text: dict[str, list[str]] = {}
    # Files of one language each: (path without its language, the given folder) -> language -> file.
    aligned: dict[tuple[Path, str], dict[str, Path]] = {}
    unread = []
    for source in sources:
        # A source may list its files, as in de-en<=a.tsv or a.de,a.en; otherwise it is a file or a folder.
        label, files = split_label(source)
        if label is not None or ("," in source and not Path(source).exists()):
            languages = () if label is None else parse_languages(label, 2)
            pairs.append(PairFile.of(files, languages, files, os.path.dirname(files.split(",")[0])))
            continue
        folder = source if os.path.isdir(source) else os.path.dirname(source)
        for path in map(Path, find_files(Path(source), below=True, output=output)):
            ending, stem = split_name(path)[0], get_stem(path)
            last_word = stem.rpartition(".")[2]
            side = ending.removeprefix(".")  # "de" of news.de-en.de, one of two aligned files
            if named_form(path) in WITH_BOTH_SIDES:
                pairs.append(PairFile.of(str(path), languages_in_name(path), stem, folder))
            elif named_form(path) == LINES and common_language(last_word):
                text.setdefault(last_word, []).append(str(path))
            elif (side != "bak" and common_language(side)) or side in last_word.split("-"):  # not a backup
                aligned.setdefault((path.with_name(stem), folder), {})[side] = path
            else:
                unread.append(str(path))
    for (stem_path, folder), file_of_language in aligned.items():
        first, *others = sorted(file_of_language, key=lambda language: (not _is_english(language), language))
        for other in others:
            files = f"{file_of_language[first]},{file_of_language[other]}"
            pairs.append(PairFile.of(files, (first, other), stem_path.name, folder))
        if not others:
            unread.append(str(file_of_language[first]))
    _reject(sources, pairs, text)
    return FoundFiles(sorted(pairs, key=lambda file: file.name), text, unread)


def _reject(sources: Iterable[str], pairs: Sequence[PairFile], text: Mapping[str, Sequence[str]]) -> None:
    """Raise a UserError without training files, or if two have the same languages or name.

    Args:
        text: language -> files of text, for the message.
    """
    if all(file.is_held_out for file in pairs):
        held_out = f"; held out by name: {listed([file.paths for file in pairs], 10)}" if pairs else ""
        only_text = f"; monolingual text: {', '.join(chain.from_iterable(text.values()))}" if text else ""
        raise UserError(
            f"{', '.join(sources)}: no file of pairs to train on (expected en-de.tsv, en-de.tmx, or train.en "
            f'next to train.de{held_out}{only_text}). Pass others as "en-de<=en.txt,de.txt"'
        )
    check_languages(chain(text, *(file.languages for file in pairs)))
    first_of: dict[tuple[str, ...] | str, PairFile] = {}
    for file in pairs:
        languages = tuple(sorted(file.languages))  # de-fr is the same as fr-de
        languages_or_name = file.name if file.is_held_out else languages or file.name
        first = first_of.setdefault(languages_or_name, file)
        if first is not file:
            advice = "" if file.is_held_out else "; or name a held-out file as in test.en-de.tsv"
            raise UserError(
                f"{first.paths} and {file.paths}: two files for {first.name}. Pass one of them, or merge "
                f"their rows into one file{advice}"
            )


def prepare_pairs(
    sources: Sequence[str], output: Path, model: str | None = None, options: TableOptions | None = None
) -> None:
    """Find the pairs, hold some out, write the folder, and print a summary.

    Args:
        model: the model to train, if any; its vocabulary must cover the languages.
        options: options of reading tables.

    Raises:
        UserError: the folder exists, a file cannot be read, there are too few pairs to hold any out, or the
            model lacks a language.
    """
    if output.exists():
        raise UserError(f"--output {output}: already exists. Choose another folder")
    found = find(sources, output)
    rows_of = {file: PairRows(file.files, options, all_splits=file.is_held_out) for file in found.pairs}
    tokens = None
    keys_of = text_ids
    if model:
        opened = open_model(open_checkpoint(model))
        tokens = mean_pair_tokens(rows_of, opened.tokenizer, model)
        keys_of = make_text_keys(opened, min(RetrievalFlags.max_seq_len, opened.longest))
    deduplicate_pairs = [DedupedPairs.of(rows, keys_of) for rows in rows_of.values()]
    files_with = Counter(chain.from_iterable(file.languages for file in found.pairs))  # language -> number
    held_out: list[Sequence[int]] = []
    for file, of_file in zip(rows_of, deduplicate_pairs):
        # Files that translate the same texts into several languages hold out the same texts.
        first, second = (files_with[language] for language in file.languages or ("", ""))
        if file.is_held_out:
            held_out.append(range(len(of_file.keys)))
        else:
            held_out.append(hold_out(of_file, _HELD_OUT, side=int(second > first)))
    if not any(held_out):
        raise UserError(
            f"{', '.join(sources)}: too few pairs for a test set. Provide at least ten, or train "
            "with run_retrieval.py --validation_pairs 0"
        )
    # A row that shares a text with a held-out pair is in neither part.
    held_out_keys, trained = divide(deduplicate_pairs, held_out)
    lines = [["pairs", "rows", "trained", "held out", "shares a text with these", ""]]  # the printed table
    facts = {}
    with atomic_dir(output) as folder, open(folder / "train.tsv", "w", encoding="utf-8") as joint:
        most_texts = max(rows.most_texts for rows in rows_of.values())  # in a row
        # All files of a training are read in the same way; see docs/retrieval.md.
        are_translations = any(rows.are_translations for rows in rows_of.values())
        joint.write(_line(make_header(are_translations, negatives=most_texts - 2)))
        for (file, rows), of_file, learned, scored in zip(
            rows_of.items(), deduplicate_pairs, trained, held_out
        ):
            for part, numbers in (("train", learned), ("held-out", scored)):
                if len(numbers):
                    pairs = (file.sides(rows[number]) for number in numbers)
                    _write(folder / part / f"{file.name}.tsv", pairs, rows.are_translations)
            joint.writelines(_line(of_file.read(number, held_out_keys)[1]) for number in learned)
            counts = {"rows": len(rows), "trained": len(learned), "held_out": len(scored)}
            facts[file.name] = {"files": file.files, **counts}
            neither = len(rows) - len(learned) - len(scored)
            cells = [f"{count:,}" for count in (*counts.values(), neither)]
            lines.append([file.name, *cells, file.paths])
        write_json(folder / FOUND, {"pairs": facts, "text": found.text, "tokens_of_a_pair": tokens})
    say("", in_columns(lines), "")
    for language, files in found.text.items():
        say(f"text of {language}, used only by pretraining: {listed(files, 10)}")
    if found.unread:
        say(f"skipped: {listed(found.unread, 10)}")


def mean_pair_tokens(rows_of: Mapping[PairFile, PairRows], tokenizer: Tokenizer, model: str) -> float:
    """Return the mean number of tokens per pair, from the first rows of each file.

    Raises:
        UserError: the vocabulary does not cover the language of a column.
    """
    means = []
    for file, rows in rows_of.items():
        for side in (0, 1):
            texts = [row[side] for row in islice(rows, _SAMPLE)]
            tokens = tokenizer.convert_ids_to_tokens([*chain.from_iterable(tokenizer.encode_batch(texts))])
            unknown = tokens.count(UNK) / len(tokens)
            if unknown > _MOST_UNKNOWN:
                language = file.languages[side] if file.languages else f"column-{side + 1}"
                raise UserError(
                    f"{file.paths}: {100 * unknown:.0f} % of its {language} tokens are unknown to {model}; "
                    "choose a model for this language, or train a static model without --model"
                )
            means.append(2 * len(tokens) / len(texts))
    return sum(means) / len(means)


def _is_english(language: str) -> bool:
    return common_language(language) == "en"


def _write(path: Path, pairs: Iterable[Sequence[str]], are_translations: bool) -> None:
    """Write pairs with a header."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(_line(make_header(are_translations)))
        file.writelines(map(_line, pairs))


def _line(texts: Sequence[str]) -> str:
    return "\t".join(text.replace("\t", " ") for text in texts) + "\n"
