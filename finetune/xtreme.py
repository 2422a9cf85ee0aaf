"""Where predictions stand that XTREME (Hu et al., 2020) takes: <task>/test-<language>.<tsv or json>."""

import os
from pathlib import Path


def submission_file(folder: str | os.PathLike, language: str, ending: str, seed: int | None = None) -> Path:
    """The file of a language.

    Args:
        folder: that of the task in a submission: output/xtreme/xnli.
        language: code of two letters.
        ending: "tsv", or "json" for answers to questions.
        seed: of several, so that each seed has a submission of its own: output/xtreme/seed_2/xnli.
    """
    folder = Path(folder)
    if seed is not None:
        folder = folder.parent / f"seed_{seed}" / folder.name
    return folder / f"test-{language}.{ending}"
