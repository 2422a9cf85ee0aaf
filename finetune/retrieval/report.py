"""What a search gave: the tables of `finetune.report`, and predictions as XTREME wants them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.retrieval import SplitResult
from evaluation.search import Found
from finetune.report import AVERAGE, Table, average, figures, in_columns, in_markdown, submission_file
from reader.bitext import Bitext
from utils.files import atomic_file
from utils.logging import logger

ENGLISH_QUERIES, ENGLISH_TARGETS = "en -> xx", "xx -> en"

Scores = dict[str, dict[str, float]]  # direction -> language -> per cent
Sweep = Mapping[str, tuple[np.ndarray, SplitResult]]  # as `Searcher.by_layer` returns it


def scores_of(found: Mapping[str, Found]) -> Scores:
    """Both directions."""
    by_language = {language: one.accuracies() for language, one in found.items()}
    return {
        name: {language: pair[side] for language, pair in by_language.items()}
        for side, name in enumerate((ENGLISH_QUERIES, ENGLISH_TARGETS))
    }


def tables_of(by_seed: Mapping[int, Scores], how: str, recipe: str | None) -> list[Table]:
    """A table per direction, a row per seed; the paper's figures of `recipe`."""
    tables = []
    for direction in (ENGLISH_QUERIES, ENGLISH_TARGETS):
        rows = {seed: scores[direction] for seed, scores in by_seed.items()}
        languages = list(next(iter(rows.values())))
        tables.append(Table(f"{direction}, {how}", rows, figures(recipe, direction, languages)))
    return tables


def write_sweep(folder: Path, title: str, by_layer: Sweep) -> None:
    """sweep.{txt,md,json}: a row per layer, mean of both directions; then what a layer chosen fairly gives.

    That is the layer chosen on the even pairs, scored on the odd ones.
    """
    rows = {
        f"layer {layer}": {name: float(table[layer].mean()) for name, (table, _) in by_layer.items()}
        for layer in range(len(next(iter(by_layer.values()))[0]))
    }
    rows["chosen, odd pairs"] = {name: 100.0 * split.mean for name, (_, split) in by_layer.items()}
    chosen = {name: split.layer for name, (_, split) in by_layer.items()}
    logger.info("layers chosen on the even pairs: %s", chosen)
    cells = [["", *by_layer, AVERAGE]]
    for name, row in rows.items():
        cells.append([name, *(f"{value:.2f}" for value in row.values()), f"{average(row):.2f}"])
    logger.info("%s\n%s", title, in_columns(cells))
    contents = {
        "txt": f"{title}\n{in_columns(cells)}\n", "md": f"**{title}**\n\n{in_markdown(cells)}\n",
        "json": json.dumps({"title": title, "rows": rows, "chosen": chosen}, indent=2) + "\n",
    }  # fmt: skip
    for ending, content in contents.items():
        with atomic_file(folder / f"sweep.{ending}", "w") as file:
            file.write(content)


def write_predictions(
    folder: str | Path, bitexts: list[Bitext], found: Mapping[str, Found], seed: int | None = None
) -> None:
    """<folder>/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, in which XTREME hands them out.

    Args:
        seed: of several; see `submission_file`.
    """
    for bitext in bitexts:
        english = [text.strip() for text in bitext.translations]
        order = sorted(range(len(english)), key=english.__getitem__)
        with atomic_file(submission_file(folder, bitext.language, "tsv", seed), "w", newline="\n") as file:
            file.writelines(f"{found[bitext.language].forward[row]}\n" for row in order)
