"""The commands that `ernie-m train` runs to train an embedding model on custom pairs, and their scores.

`ernie-m prepare pairs` writes the pairs, whose number and length determine the hyperparameters.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.finetune.score_tables import AVERAGE, BOTH_DIRECTIONS
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.files.find_files import split_language_prefix
from ernie_m.utils.errors import UserError, get_command_name
from ernie_m.utils.files import read_json
from ernie_m.utils.logging import format_columns

_BATCH = 64  # pairs per step, or fewer long ones
_STEP_TOKENS = 8192
# Learning rate and maximum number of steps, by the width of the base model: the small encoder of
# configs/pretrain/own.yaml, E5-small, the released weights. Other widths use the nearest entry.
_RATE_AND_STEPS = {128: (1e-3, 9000), 384: (5e-5, 100), 768: (2e-5, 2000)}
# Static embeddings: see the study in docs/results/static.tsv.
_TABLE = "configs/table/ernie_config.json"
_SUBWORDS = 8000
_TABLE_BATCH = 512
_TABLE_RATE = 1e-2
_FEW_PAIRS = 100  # with fewer validation pairs the scores state the weight of one pair
_REPORT = "retrieval.json"


class Command(NamedTuple):
    """A command of `ernie-m` in the plan.

    Attributes:
        purpose: the description for the log.
        words: the name of the command and its flags.
        result: the file that the command writes last.
        minutes: the estimated duration on one core.
    """

    purpose: str
    words: Sequence[object]
    result: Path
    minutes: float = 0.0

    def __str__(self) -> str:
        return shlex.join([get_command_name(), *map(str, self.words)])


def plan_static_model(pairs: Path, folder: Path, counts: Mapping[str, Any]) -> list[Command]:
    """Return the commands that train a vocabulary and a static model on the pairs.

    Args:
        pairs: the directory of the pairs.
        folder: the output directory of the model; the vocabulary is in its subdirectory vocab.
        counts: file name -> path and numbers of pairs, from pairs.json.
    """
    vocab = folder / "vocab"
    words = ["train_vocab", "--output", vocab, "--vocab_size", _SUBWORDS, "--hard_vocab_limit", "false"]
    for name, count in counts.items():
        if count["trained"]:
            label = "query-positive" if split_language_prefix(count["files"])[0] is None else name
            words += ["--parallel", f"{label}<={pairs / 'train' / name}.tsv"]
    trained, _ = sum_counts(counts)
    batch_size = max(2, min(_TABLE_BATCH, trained // 10))
    epochs = max(3.0, 16.0 * (4000 / max(trained, 4000)) ** 0.5)
    flags = {
        **make_training_flags(
            pairs, batch_size, math.ceil(epochs * trained / batch_size), _TABLE_RATE, num_evaluations=2
        ),
        "ernie_config_path": _TABLE,
        "piece_model_path": vocab / "piece.model",
        # More pairs allow a sharper softmax and fewer epochs; see docs/results/static.tsv.
        "scale": round(max(3.0, 3.5 * math.log10(trained) - 5.5), 1),
    }
    purpose = f"static baseline: mean of subword embeddings, trained on {trained:,} pairs"
    return [
        Command("vocabulary", words, vocab / "piece.model"),
        make_search_command(purpose, pairs, folder, flags),
    ]


def sum_counts(counts: Mapping[str, Any]) -> tuple[int, int]:
    """Return the total numbers of training pairs and of held-out pairs.

    Args:
        counts: see `plan_static_model`.
    """
    trained = sum(count["trained"] for count in counts.values())
    return trained, sum(count["held_out"] for count in counts.values())


def make_search_command(
    purpose: str, pairs: Path, folder: Path, flags: Mapping[str, object], minutes: float = 0.0
) -> Command:
    """Return the command that evaluates retrieval on the held-out pairs, after training with --do_train."""
    flags = {"pairs": pairs / "held-out", "untrained": "false", "checkpoints": folder, **flags}
    words = chain.from_iterable((f"--{name}", value) for name, value in flags.items())
    return Command(purpose, ["run_retrieval", *words], folder / _REPORT, minutes)


def make_training_flags(
    pairs: Path, batch_size: int, steps: int, learning_rate: float, num_evaluations: int = 5
) -> dict[str, object]:
    """Return the flags of run_retrieval.py for training on the pairs, with `num_evaluations` evaluations.

    Args:
        learning_rate: the learning rate.
        num_evaluations: the number of evaluations, each with a checkpoint.
    """
    return {
        "do_train": "true",
        "train_set": pairs / "train.tsv",
        "loss": "in_batch_softmax",
        "symmetric": "true",
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_steps": steps,
        "validation_steps": steps // num_evaluations,
        "save_steps": steps // num_evaluations,
        "keep_checkpoints": 1,  # a checkpoint of E5-small has 1.3 GB
    }


def plan_finetuning(
    pairs: Path, output: Path, initial_model: str, pairs_json: Mapping[str, Any]
) -> list[Command]:
    """Return the commands that evaluate a model, fine-tune it on the pairs, and evaluate it again.

    Args:
        pairs: the directory of the pairs.
        initial_model: the directory of the initial model, or its name on the Hugging Face Hub.
        pairs_json: the content of pairs.json: "pairs", the counts of each file, and "tokens_of_a_pair".

    Raises:
        UserError: the model is static.
    """
    config = open_checkpoint(initial_model).config
    if config.is_static:
        raise UserError(f"--model {initial_model}: a static model cannot be trained further. Remove --model")
    # The nearest ratio: 256 is nearer to 384 than to 128.
    nearest = min(_RATE_AND_STEPS, key=lambda width: abs(math.log(width / config.hidden_size)))
    rate, most_steps = _RATE_AND_STEPS[nearest]
    tokens = pairs_json["tokens_of_a_pair"]
    trained, held_out = sum_counts(pairs_json["pairs"])
    batch_size = max(2, min(_BATCH, int(_STEP_TOKENS / tokens), trained // 10))
    steps = max(20, min(most_steps, 13 * trained // batch_size))  # at most 13 epochs
    # Estimated training time of a pair on one core, in minutes. Retrieval takes a third of it.
    minutes = 1e-9 * config.num_hidden_layers * config.hidden_size**2 * tokens / 60
    searched = held_out * minutes / 3
    validated = 6 * min(500, trained // 10) * minutes / 3  # before the first step and after five parts
    model = {"init_pretraining_params": initial_model}
    return [
        make_search_command(
            f"base model: {initial_model} on {held_out:,} held-out pairs",
            pairs,
            output / "before",
            model,
            searched,
        ),
        make_search_command(
            f"fine-tuning: {steps} steps of {batch_size} pairs, learning rate {rate:g}",
            pairs,
            output,
            {**make_training_flags(pairs, batch_size, steps, rate), **model},
            steps * batch_size * minutes + validated + searched,
        ),
    ]


def format_scores(folders: Mapping[str, Path], counts: Mapping[str, Any]) -> str:
    """Format the accuracy@1 on the held-out pairs as a table; if there are few, add what one pair counts.

    Args:
        folders: row name -> the output directory of an evaluation.
        counts: see `plan_static_model`.
    """
    rows = []
    for name, folder in folders.items():
        cells: dict[str, float] = {}
        for table in read_json(folder / _REPORT)["tables"]:
            if table["direction"] == BOTH_DIRECTIONS:
                (row,) = table["seeds"].values()
                # The average of one language is its score.
                cells |= {
                    f"{key} {table['measure']}": value
                    for key, value in row.items()
                    if key != AVERAGE or len(row) > 2
                }
        rows.append([name, *(f"{value:.1f}" for value in cells.values())])
    held_out = {name: count["held_out"] for name, count in counts.items()}
    few = [f"; one pair of {name} is {100 / n:.1f}" for name, n in held_out.items() if 0 < n < _FEW_PAIRS]
    title = f"accuracy@1 on {sum(held_out.values()):,} held-out pairs, in per cent, {BOTH_DIRECTIONS}"
    return f"{title}{''.join(few)}\n{format_columns([['', *cells], *rows])}"
