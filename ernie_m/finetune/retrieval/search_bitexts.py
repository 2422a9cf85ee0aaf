"""Search of bitexts by embeddings in both directions, with one layer or with every layer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ernie_m.finetune.retrieval.encoder import Encode
from ernie_m.finetune.score_tables import AVERAGE, average
from ernie_m.model.pipeline_config import get_pair_text_kinds
from ernie_m.reader.files.aligned_lines import Bitext
from ernie_m.training import distributed
from ernie_m.utils.files import atomic_file, write_json
from ernie_m.utils.logging import Progress, format_columns, logger
from ernie_m.vectors.language_centering import LanguageCentering
from ernie_m.vectors.retrieval_accuracy import (
    Matches,
    compute_accuracy_by_layer,
    count_hits_by_margin,
    search_both_directions,
    select_layer_on_half,
)

CHOSEN = "chosen, odd pairs"  # even pairs select the layer, odd pairs score it
T = TypeVar("T")


class SearchResult(NamedTuple):
    """Retrieval results with the embeddings of one layer.

    Attributes:
        layer: the index of the layer.
        trained: the results of a seed's model: measure -> language -> matches. The measures are "cosine" and
            "margin" and, with language means, "centered" and "centered margin".
        untrained: the results of a randomly initialized model; empty if not evaluated.
    """

    layer: int
    trained: dict[str, dict[str, Matches]]
    untrained: dict[str, dict[str, Matches]]


class LayerSweep(NamedTuple):
    """Retrieval results with the embeddings of every layer.

    Attributes:
        rows: row -> language -> accuracy in percent, the mean of both directions.
        layers: for rows with a selected layer: row -> language -> the index of the layer.
    """

    rows: dict[str, dict[str, float]]
    layers: dict[str, dict[str, int]]


def encode_sides(encode: Encode, bitext: Bitext) -> list[np.ndarray]:
    """Return the embeddings of the sentences of a bitext, and those of their translations."""
    sides = (bitext.sentences, bitext.translations)
    return [encode(texts, kind) for texts, kind in zip(sides, get_pair_text_kinds(bitext.are_translations))]


def search_layer(
    encode: Encode, bitexts: list[Bitext], means: LanguageCentering | None = None
) -> dict[str, dict[str, Matches]]:
    """Search bitexts in both directions with embeddings of one layer: measure -> language -> matches.

    Args:
        means: the language means of this layer; None: no centered embeddings.
    """

    def search_bitext(bitext: Bitext) -> dict[str, Matches]:
        """Search a bitext in both directions: measure -> matches."""
        foreign, english = encode_sides(encode, bitext)  # [N, H] each
        results = {score: search_both_directions(english, foreign, score) for score in ("cosine", "margin")}
        if means is not None:
            english = means.subtract_mean(english, "en")
            foreign = means.subtract_mean(foreign, bitext.language)
            results["centered"] = search_both_directions(english, foreign, "cosine")
            results["centered margin"] = search_both_directions(english, foreign, "margin")
        return results

    return _search_all(bitexts, search_bitext)


def search_layers(
    encode: Encode, bitexts: list[Bitext], means: LanguageCentering | None = None
) -> LayerSweep:
    """Search bitexts in both directions with the embeddings of every layer.

    The rows of the result are "layer 0" to "layer L", and `CHOSEN`, selected by `select_layer_on_half`.

    Args:
        means: the language means of each layer; with them, the result has two rows for centered embeddings,
            with cosine and margin scoring, each with a selected layer.
    """

    def search_bitext(bitext: Bitext) -> dict[str, tuple[int | None, float]]:
        """Search a bitext with every layer: row -> the selected layer, if any, and the accuracy."""
        foreign, english = encode_sides(encode, bitext)  # [L + 1, N, H] each
        of_directions = compute_accuracy_by_layer(english, foreign, bitext.keys)  # [L + 1, 2]
        means_of_layers = enumerate(of_directions.mean(axis=1))
        results = {f"layer {layer}": (None, accuracy) for layer, accuracy in means_of_layers}
        results[CHOSEN] = select_layer_on_half(english, foreign, bitext.keys)
        if means is not None:
            centered = means.subtract_mean(english, "en"), means.subtract_mean(foreign, bitext.language)
            results[f"centered, {CHOSEN}"] = select_layer_on_half(*centered, bitext.keys)
            by_margin = select_layer_on_half(*centered, bitext.keys, count_hits=count_hits_by_margin)
            results[f"centered margin, {CHOSEN}"] = by_margin
        return results

    sweep = LayerSweep(rows={}, layers={})
    for name, by_language in _search_all(bitexts, search_bitext).items():
        for language, (layer, accuracy) in by_language.items():
            sweep.rows.setdefault(name, {})[language] = 100 * float(accuracy)
            if layer is not None:
                sweep.layers.setdefault(name, {})[language] = layer
    return sweep


def _search_all(
    bitexts: list[Bitext], search_bitext: Callable[[Bitext], dict[str, T]]
) -> dict[str, dict[str, T]]:
    """Apply `search_bitext` to all bitexts, and return name -> language -> value.

    The bitexts are divided among the processes, and every process receives all results.

    Args:
        search_bitext: maps a bitext to name -> value.
    """
    own_bitexts = bitexts[distributed.rank() :: distributed.world_size()]
    own_results = {}  # language -> name -> value
    progress = Progress(sum(len(bitext.sentences) for bitext in own_bitexts), "searching", unit="sentences")
    for bitext in own_bitexts:
        own_results[bitext.language] = search_bitext(bitext)
        progress.update(len(bitext.sentences))
    progress.close()
    results = dict(distributed.gather_items(own_results.items()))
    by_name: dict[str, dict[str, T]] = {}
    for bitext in bitexts:  # in this order of languages on every process
        for name, value in results[bitext.language].items():
            by_name.setdefault(name, {})[bitext.language] = value
    return by_name


def write_matches(folder: Path, bitexts: list[Bitext], results: Mapping[str, Matches]) -> None:
    """Write test-<language>.tsv in XTREME's format (Hu et al., 2020): the match of each English sentence.

    A match is the line number, from 0, in the other language. The English sentences are in alphabetical
    order.

    Args:
        results: language -> the matches.
    """
    for bitext in bitexts:
        translation_of = results[bitext.language].forward
        with atomic_file(folder / f"test-{bitext.language}.tsv", "w", newline="\n") as file:
            for number in bitext.sort_alphabetically():
                file.write(f"{translation_of[number]}\n")


def write_sweep(folder: Path, title: str, sweep: LayerSweep) -> None:
    """Log the accuracies and selected layers of all layers, and write them to sweep.json in `folder`."""
    first_row = next(iter(sweep.rows.values()))  # the same for every row
    lines = [["", *first_row, AVERAGE]]
    for name, row in sweep.rows.items():
        percents = [*row.values(), average(row)]
        lines.append([name, *(f"{percent:.2f}" for percent in percents)])
    logger.info(f"{title}\n{format_columns(lines)}")
    layer_lines = [["", *first_row]]
    for name, layer_of_language in sweep.layers.items():
        layer_lines.append([name, *map(str, layer_of_language.values())])
    logger.info(f"layers selected on the even-numbered pairs\n{format_columns(layer_lines)}")
    path = folder / "sweep.json"
    write_json(path, {"title": title, "rows": sweep.rows, "layers": sweep.layers})
    logger.info("wrote %s; odd-numbered pairs score higher, because they have half as many candidates", path)
