"""Preparation of custom sentence pairs: files are found by name, and split into training and held-out pairs.

        en-de.tsv, wiki.en-de.csv.gz, en-de.tmx    pairs of two languages; other names: unknown languages
        train.jsonl                                {"translation": {"en": ..., "de": ...}} names its languages
        train.en and train.de                      two aligned files, plain or compressed
        test.en-de.tsv, dev.en and dev.de          held-out pairs
        en.txt, news.en.txt.gz                     text of one language, only for pre-training
        "en-de<=en.txt,de.txt"                     any other names; see `ernie_m.reader.files.pairs`

The output directory has these files; tables have a header:

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
from ernie_m.finetune.retrieval.split_pairs import (
    DedupedPairs,
    hold_out_rows,
    make_text_keys,
    select_training_rows,
)
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import open_model
from ernie_m.reader.equal_texts import hash_texts
from ernie_m.reader.files.find_files import (
    WITH_BOTH_SIDES,
    check_languages,
    find_files,
    find_languages_in_name,
    find_pair_languages,
    get_stem,
    is_evaluation_path,
    parse_languages,
    split_language_prefix,
)
from ernie_m.reader.files.pairs import PairRows, make_header
from ernie_m.reader.files.plain_text import LINES, detect_format
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import UNK
from ernie_m.utils.errors import UserError, join_items, say
from ernie_m.utils.files import atomic_dir, write_json
from ernie_m.utils.languages import base_language
from ernie_m.utils.logging import format_columns

FOUND = "pairs.json"
_HELD_OUT = 500  # held-out rows per file, but at most a tenth
_SAMPLE = 200  # rows sampled per file
_MOST_UNKNOWN = 0.1  # maximum fraction of unknown tokens of a covered language


@dataclass(frozen=True)
class PairFile:
    """A file of pairs, or two aligned files.

    Args:
        files: the paths in the notation of `PairRows`.
        languages: the languages in the order of the columns; () if unknown.
        name: the name of the output file: "de-en", with English last; with unknown languages the name of the
            file; for evaluation data with the split, "test-de-en".
        is_evaluation: whether the path indicates validation or test data.
    """

    files: str
    languages: tuple[str, ...]
    name: str
    is_evaluation: bool

    @classmethod
    def from_paths(
        cls, files: str, languages: tuple[str, ...], stem: str, folder: str | os.PathLike
    ) -> "PairFile":
        """Build a `PairFile` from paths.

        Args:
            files: one path, or two separated by a comma.
            languages: the languages in the order of the columns; () if unknown.
            stem: the file name without extensions.
            folder: the directory in the user's command, to which the path is relative.
        """
        notation = f"{'-'.join(languages)}<={files}" if languages else files
        in_order = sorted(languages, key=_is_english)
        inside = os.path.relpath(files.split(",")[0], folder or os.curdir)
        is_evaluation = is_evaluation_path(inside)
        if is_evaluation or not languages:
            before_languages = stem.removesuffix("-".join(languages))
            if is_evaluation:
                before_languages = os.path.join(os.path.dirname(inside), before_languages)
            in_order.insert(0, re.sub(r"\W+", "_", before_languages.strip("._-/")))
        return cls(notation, languages, "-".join(in_order), is_evaluation)

    @property
    def paths(self) -> str:
        """The paths without the languages of the notation."""
        return split_language_prefix(self.files)[1]

    def select_sides(self, row: Sequence[str]) -> Sequence[str]:
        """Return the query and the positive of a row, in the order of the languages in `name`."""
        return row[1::-1] if any(map(_is_english, self.languages[:1])) else row[:2]  # English last


@dataclass(frozen=True)
class FoundFiles:
    """The files that `find_source_files` found.

    Args:
        pairs: the files of pairs, sorted by name.
        text: language -> paths of monolingual text.
        skipped: paths whose names match neither pairs nor text.
    """

    pairs: list[PairFile]
    text: dict[str, list[str]]
    skipped: list[str]


def find_source_files(sources: Iterable[str], output: Path) -> FoundFiles:
    """Find files of pairs and of monolingual text by their names.

    Args:
        sources: files, directories, or notations such as "de-en<=a.tsv".
        output: a directory whose files are excluded.

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
        label, files = split_language_prefix(source)
        if label is not None or ("," in source and not Path(source).exists()):
            languages = () if label is None else parse_languages(label, 2)
            pairs.append(PairFile.from_paths(files, languages, files, os.path.dirname(files.split(",")[0])))
            continue
        folder = source if os.path.isdir(source) else os.path.dirname(source)
        for path in map(Path, find_files(Path(source), recursive=True, excluded=output)):
            form, stem, languages = detect_format(path), get_stem(path), find_languages_in_name(path)
            if form in WITH_BOTH_SIDES:
                pairs.append(PairFile.from_paths(str(path), find_pair_languages(path), stem, folder))
            elif len(languages) == 1 and form == LINES:
                text.setdefault(languages[0], []).append(str(path))
            elif len(languages) == 1 and not form:  # one of two aligned files
                aligned.setdefault((path.with_name(stem), folder), {})[languages[0]] = path
            else:
                unread.append(str(path))
    for (stem_path, folder), file_of_language in aligned.items():
        first, *others = sorted(file_of_language, key=lambda language: (not _is_english(language), language))
        for other in others:
            files = f"{file_of_language[first]},{file_of_language[other]}"
            pairs.append(PairFile.from_paths(files, (first, other), stem_path.name, folder))
        if not others:
            unread.append(str(file_of_language[first]))
    _check_files(sources, pairs, text)
    return FoundFiles(sorted(pairs, key=lambda file: file.name), text, unread)


def _check_files(
    sources: Iterable[str], pairs: Sequence[PairFile], text: Mapping[str, Sequence[str]]
) -> None:
    """Check that there is a training file, and that files have different languages and names.

    Args:
        text: language -> paths of monolingual text.

    Raises:
        UserError: there is no training file, or two files have the same languages or name.
    """
    if all(file.is_evaluation for file in pairs):
        by_name = f"; held out by name: {join_items([file.paths for file in pairs], 10)}" if pairs else ""
        only_text = f"; monolingual text: {', '.join(chain.from_iterable(text.values()))}" if text else ""
        raise UserError(
            f"{', '.join(sources)}: no file of pairs to train on (expected en-de.tsv, en-de.tmx, or train.en "
            f'next to train.de{by_name}{only_text}). Pass others as "en-de<=en.txt,de.txt". To train '
            "on a held-out file, give it a name without dev or test"
        )
    check_languages(chain(text, *(file.languages for file in pairs)))
    first_of: dict[tuple[str, ...] | str, PairFile] = {}
    for file in pairs:
        languages = tuple(sorted(file.languages))  # de-fr is the same as fr-de
        languages_or_name = file.name if file.is_evaluation else languages or file.name
        first = first_of.setdefault(languages_or_name, file)
        if first is not file:
            advice = "" if file.is_evaluation else "; or name a held-out file as in test.en-de.tsv"
            raise UserError(
                f"{first.paths} and {file.paths}: two files for {first.name}. Pass one of them, or merge "
                f"their rows into one file{advice}"
            )


def prepare_pairs(
    sources: Sequence[str], output: Path, model: str | None = None, options: TableOptions | None = None
) -> None:
    """Split the pairs in the sources into training and held-out pairs, write them, and print a summary.

    Args:
        sources: see `find_source_files`.
        output: the new output directory.
        model: the model to train, whose vocabulary must cover the languages; None: unknown.
        options: the options for reading tables.

    Raises:
        UserError: the output exists, a file cannot be read, there are too few pairs to hold any out, or the
            vocabulary of the model does not cover a language.
    """
    if output.exists():
        raise UserError(f"--output {output}: already exists. Choose another folder")
    found = find_source_files(sources, output)
    rows_of = {file: PairRows(file.files, options, all_splits=file.is_evaluation) for file in found.pairs}
    tokens = None
    keys_of = hash_texts
    if model:
        opened = open_model(open_checkpoint(model))
        tokens = estimate_pair_tokens(rows_of, opened.tokenizer, model)
        keys_of = make_text_keys(opened, min(RetrievalFlags.max_seq_len, opened.max_length))
    deduplicate_pairs = [DedupedPairs.from_rows(rows, keys_of) for rows in rows_of.values()]
    files_with = Counter(chain.from_iterable(file.languages for file in found.pairs))  # language -> number
    held_out: list[Sequence[int]] = []
    for file, of_file in zip(rows_of, deduplicate_pairs):
        # Files that translate the same texts into several languages hold out the same texts.
        first, second = (files_with[language] for language in file.languages or ("", ""))
        if file.is_evaluation:
            held_out.append(range(len(of_file.keys)))
        else:
            held_out.append(hold_out_rows(of_file, _HELD_OUT, side=int(second > first)))
    if not any(held_out):
        raise UserError(
            f"{', '.join(sources)}: too few pairs for a test set. Provide at least ten, or train "
            "with run_retrieval.py --validation_pairs 0"
        )
    # A row that shares a text with a held-out pair is in neither part.
    held_out_keys, trained = select_training_rows(deduplicate_pairs, held_out)
    lines = [["pairs", "rows", "trained", "held out", "shares a text with these", ""]]  # the printed table
    facts = {}
    with atomic_dir(output) as folder, open(folder / "train.tsv", "w", encoding="utf-8") as joint:
        most_texts = max(rows.most_texts for rows in rows_of.values())  # in a row
        # All files of a training are read in the same way; see docs/retrieval.md.
        are_translations = any(rows.are_translations for rows in rows_of.values())
        joint.write(_format_line(make_header(are_translations, num_negatives=most_texts - 2)))
        for (file, rows), of_file, learned, scored in zip(
            rows_of.items(), deduplicate_pairs, trained, held_out
        ):
            for part, numbers in (("train", learned), ("held-out", scored)):
                if len(numbers):
                    pairs = (file.select_sides(rows[number]) for number in numbers)
                    _write_pairs(folder / part / f"{file.name}.tsv", pairs, rows.are_translations)
            joint.writelines(_format_line(of_file.read_row(number, held_out_keys)[1]) for number in learned)
            counts = {"rows": len(rows), "trained": len(learned), "held_out": len(scored)}
            facts[file.name] = {"files": file.files, **counts}
            neither = len(rows) - len(learned) - len(scored)
            cells = [f"{count:,}" for count in (*counts.values(), neither)]
            lines.append([file.name, *cells, file.paths])
        write_json(folder / FOUND, {"pairs": facts, "text": found.text, "tokens_of_a_pair": tokens})
    say("", format_columns(lines), "")
    for language, files in found.text.items():
        say(f"text of {language}, used only by pre-training: {join_items(files, 10)}")
    if found.skipped:
        say(f"skipped: {join_items(found.skipped, 10)}")


def estimate_pair_tokens(
    rows_by_file: Mapping[PairFile, PairRows], tokenizer: Tokenizer, model: str
) -> float:
    """Return the mean number of tokens per pair, estimated from the first rows of each file.

    Args:
        model: the name of the model, for errors.

    Raises:
        UserError: the vocabulary does not cover the language of a column.
    """
    means = []
    for file, rows in rows_by_file.items():
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
    """Return whether a language code, such as en or en_GB, is English."""
    return base_language(language) == "en"


def _write_pairs(path: Path, pairs: Iterable[Sequence[str]], are_translations: bool) -> None:
    """Write a tab-separated file of pairs with a header."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(_format_line(make_header(are_translations)))
        file.writelines(map(_format_line, pairs))


def _format_line(texts: Sequence[str]) -> str:
    """Join texts to a line of a tab-separated file; tabs in texts become spaces."""
    return "\t".join(text.replace("\t", " ") for text in texts) + "\n"
