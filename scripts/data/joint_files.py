"""The files that a prepared folder has once, beside those per split and language."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from utils.files import atomic_file


def place_in(languages: Sequence[str], language: str) -> tuple[int, str]:
    """A sort key: `languages` in their order, then all others by their codes."""
    return languages.index(language) if language in languages else len(languages), language


def write_language_map(
    output: Path, languages: Mapping[str, list[str]], order: Callable[[str], tuple], ending: str = "tsv"
) -> list[str]:
    """Write lang_map.json: the languages that are in dev and test both, or in the one there is.

    Args:
        output: holds <split>/<split>.<language>.<ending>.
        languages: of "train", "dev" and "test".
        order: a key that sorts languages.

    Returns:
        what there is to say of it, and of splits that are not there.
    """
    notes = []
    for split, known in languages.items():
        if not known:
            pattern = f" (pass --dev_set {output}/dev/dev.%s.{ending} to the scripts)"
            notes.append(
                f"no {split} data among the sources{pattern if split == 'test' and languages['dev'] else ''}"
            )
    evaluated = [set(languages[split]) for split in ("dev", "test") if languages[split]]
    if not evaluated:
        return [*notes, "lang_map.json is not written: no dev or test data among the sources"]
    common = sorted(set.intersection(*evaluated), key=order)
    write_numbers(output / "lang_map.json", common)
    if left := sorted(set.union(*evaluated) - set(common), key=order):
        notes.append(f"lang_map.json leaves out {' '.join(left)}: not in both dev and test")
    return notes


def write_joint_files(
    output: Path,
    languages: Mapping[str, list[str]],
    labels: Iterable[str],
    order: Callable[[str], tuple],
    header: str,
    row: Callable[[str], str] = lambda line: line,
) -> list[str]:
    """Write label_map.json, lang_map.json and train.all.tsv.

    Args:
        output: holds <split>/<split>.<language>.tsv, each with a header line.
        languages: of "train", "dev" and "test".
        labels: in the order of their ids.
        order: a key that sorts languages.
        header: the first line of train.all.tsv, with its line end.
        row: what of a line of train.<language>.tsv goes into train.all.tsv.

    Returns:
        what there is to say of them.
    """
    write_numbers(output / "label_map.json", labels)
    notes = write_language_map(output, languages, order)
    if len(languages["train"]) > 1:
        with atomic_file(output / "train" / "train.all.tsv", "w", newline="\n") as joint:
            joint.write(header)
            for language in languages["train"]:
                with open(output / "train" / f"train.{language}.tsv", encoding="utf-8", newline="\n") as file:
                    next(file)
                    joint.writelines(row(line) for line in file)
    elif languages["train"]:
        notes.append(f"train.all.tsv is not written: {languages['train'][0]} is the only training language")
    return notes


def write_numbers(path: Path, names: Iterable[str]) -> None:
    """A JSON object that gives each name its place, from 0."""
    with atomic_file(path, "w") as file:
        json.dump({name: number for number, name in enumerate(names)}, file, indent=2)
        file.write("\n")
