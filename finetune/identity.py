"""What makes two fine-tuning runs the same: flags that decide what is learned, and digests of the files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.flags import TrainingFlags
from model.checkpoint.read import Checkpoint
from model.config import ErnieMConfig
from reader.tokenization import Tokenizer
from training.run_folder import has_state, read_step
from utils.errors import UserError
from utils.files import sha256_of
from utils.options import deciding


def identity_of(
    flags: TrainingFlags,
    task: str,
    starts: Iterable[Checkpoint | None],
    config: ErnieMConfig,
    tokenizer: Tokenizer,
    **more: Any,
) -> dict[str, Any]:
    """The identity of a run, JSON values.

    Args:
        task: its name.
        starts: the checkpoint that each seed starts from; None: random weights.
        more: further values, such as the digests of data files.
    """
    return {
        "task": task,
        **deciding(flags),  # the flags that decide what is learned
        "random_seed": list(flags.seeds),  # in place of the flag, which is None where the default is taken
        **more,
        "weights": _weights_of(flags, starts),
        "model": config.to_dict(),
        "vocabulary": tokenizer.digest,
    }


def _weights_of(flags: TrainingFlags, starts: Iterable[Checkpoint | None]) -> str:
    """The digests of the weights that the seeds start from, or "random".

    If --init_checkpoint is a step folder, these are the weights that its run started from.

    Raises:
        UserError: --init_checkpoint is a step folder, and --random_seed is not its seed alone.
    """
    if flags.init_checkpoint and has_state(Path(flags.init_checkpoint)):
        saved = read_step(Path(flags.init_checkpoint))
        if flags.seeds != (saved.seed,):
            raise UserError(f"{flags.init_checkpoint} is of --random_seed {saved.seed}; give that one alone")
        return saved.identity["weights"]
    by_path = {start.path: start for start in starts if start is not None}  # seeds may share a folder
    return ", ".join(_digest_of_weights(start) for start in by_path.values()) or "random"


def _digest_of_weights(checkpoint: Checkpoint) -> str:
    """SHA-256 of the tensors, the same in every file format."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        array = checkpoint.tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_of_files(paths: Iterable[str | Path]) -> str | None:
    """SHA-256 of the digests of the files, in the given order; None without files."""
    digests = "".join(sha256_of(path) for path in paths)
    return hashlib.sha256(digests.encode()).hexdigest() if digests else None
