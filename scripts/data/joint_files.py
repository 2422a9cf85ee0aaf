"""The files that a prepared folder has once, beside those per split and language."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from utils.files import atomic_file


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
    notes = []
    _write_json(output / "label_map.json", {label: id_ for id_, label in enumerate(labels)})
    evaluated = [set(languages[split]) for split in ("dev", "test") if languages[split]]
    if evaluated:
        common = sorted(set.intersection(*evaluated), key=order)
        _write_json(output / "lang_map.json", {language: id_ for id_, language in enumerate(common)})
        if left := sorted(set.union(*evaluated) - set(common), key=order):
            notes.append(f"lang_map.json leaves out {' '.join(left)}: not in both dev and test")
    else:
        notes.append("lang_map.json is not written: no dev or test data among the sources")
    if len(languages["train"]) > 1:
        with atomic_file(output / "train" / "train.all.tsv", "w", newline="\n") as joint:
            joint.write(header)
            for language in languages["train"]:
                with open(output / "train" / f"train.{language}.tsv", encoding="utf-8", newline="\n") as file:
                    next(file)
                    joint.writelines(row(line) for line in file)
    elif languages["train"]:
        notes.append(f"train.all.tsv is not written: {languages['train'][0]} is the only training language")
    for split, known in languages.items():
        if not known:
            pattern = f" (pass --dev_set {output}/dev/dev.%s.tsv to the scripts)" if split == "test" else ""
            notes.append(f"no {split} data among the sources{pattern}")
    return notes


def _write_json(path: Path, value: dict) -> None:
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
