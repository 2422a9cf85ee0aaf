"""What is held out, and what is not trained on because its text is held out elsewhere.

A document or pair is held out by the hash of its bytes. Equal texts may have other bytes, and a sentence may
stand in several pairs of languages and in text. So each line of the training text is compared with all
held-out text. `ernie_m.tokenizer.equal_texts` says which texts are equal.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ernie_m.pretrain.build_corpus.duplicates import is_duplicate, read_hashes
from ernie_m.pretrain.build_corpus.work_folder import SCAN, WORK, StreamWork
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger


def texts_of_unit(work: StreamWork, number: int, scanned: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known of the lines of a unit before they are cut into ids, once duplicates were found.

    Args:
        number: the number of the unit in the stream.
        scanned: its file of the scan.

    Returns:
        Whether a line is no duplicate, and whether it is held out, bool [lines]; the keys of its texts,
        uint64 [lines, sides].
    """
    hashes, keys = read_hashes(scanned, sides=len(work.stream.languages))
    is_new = ~is_duplicate(work, number, len(keys))
    return is_new, hashes[:, work.held_out_side] < np.uint64(work.held_out_below), keys


def hold_out(works: Sequence[StreamWork]) -> list[StreamWork]:
    """Write the keys of all held-out texts. Say where all lines of a stream stay.

    They stay where more than half of those that are trained on have held-out text.
    """
    held_out = []  # the keys of each unit, of both sides of pairs
    for work in works:
        for number, scanned in enumerate(work.unit_paths(SCAN)):
            is_new, is_held_out, keys = texts_of_unit(work, number, scanned)
            held_out.append(keys[is_new & is_held_out].ravel())
    held_out_keys = np.unique(np.concatenate(held_out))
    with atomic_file(_file(works[0])) as file:
        np.save(file, held_out_keys)
    return [replace(work, keeps_all=_keeps_all(work, held_out_keys)) for work in works]


def shares_held_out_text(work: StreamWork, keys: np.ndarray) -> np.ndarray:
    """Whether a text of a line is held out somewhere, as `hold_out` wrote. bool [lines].

    Args:
        keys: of the texts, uint64 [lines, sides].
    """
    return np.isin(keys, np.load(_file(work))).any(axis=1)


def _keeps_all(work: StreamWork, held_out_keys: np.ndarray) -> bool:
    counts = np.zeros(2, np.int64)  # lines that are trained on, and those of them with held-out text
    for number, scanned in enumerate(work.unit_paths(SCAN)):
        is_new, is_held_out, keys = texts_of_unit(work, number, scanned)
        is_shared = np.isin(keys, held_out_keys).any(axis=1)[is_new & ~is_held_out]
        counts += len(is_shared), is_shared.sum()
    trained, shared = counts.tolist()
    if shared > trained / 2:
        logger.warning(
            "%s: %s of %s lines have a text that is held out elsewhere. They are more than half, so they are "
            "trained on, and scores on held-out text say little",
            "-".join(work.stream.languages),
            f"{shared:,}",
            f"{trained:,}",
        )
    return shared > trained / 2


def _file(work: StreamWork) -> Path:
    return work.output / WORK / "held_out.npy"
