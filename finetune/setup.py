"""From flags to a `Trainer`: model, weights, optimizer, engine, and the place where a checkpoint was left."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import paddle

from finetune.datasets import EvalFile
from finetune.task import Task
from finetune.trainer import State, Trainer
from model.checkpoint import load_from, load_training_state, read_weights, step_folders
from model.ernie_m import ErnieMConfig
from reader.batching import Batches
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay, noam_decay
from training.precision import LossScaling, Precision
from utils.config import differences
from utils.errors import UserError
from utils.files import atomic_dir
from utils.logging import logger

# A resumed run must agree on these, or it would not be the run that was interrupted.
SHARED_FLAGS = (
    "epoch", "max_steps", "learning_rate", "lr_scheduler", "lr_schedule_style", "decay_style", "weight_decay",
    "layerwise_lr_decay", "warmup_proportion", "max_seq_len", "in_tokens", "shuffle", "num_labels", "dtype",
    "amp", "select_on", "official_compat", "label_pieces", "max_query_length", "doc_stride",
    "split_han", "max_answer_length", "answer_rules",
)  # fmt: skip


def has_state(path: str | None) -> bool:
    """Whether a checkpoint folder can be resumed, not only loaded."""
    return path is not None and (Path(path) / "training_state").is_dir()


def state_of(checkpoint: str, mark: str) -> dict[str, Any]:
    """What a step folder holds for the run that goes on from it.

    Args:
        mark: a key that the states of this program alone have.

    Raises:
        UserError: the state is that of another program, or damaged.
    """
    try:
        saved = load_training_state(Path(checkpoint) / "training_state")
    except UserError as error:
        raise UserError(f"{error}; resume from another step folder") from error
    if mark not in saved:
        raise UserError(
            f"{checkpoint}: the training_state there is of another program, so it cannot be resumed here; to "
            "start from its weights, name it with --init_pretraining_params"
        )
    return saved


def warn_of_earlier_steps(folder: Path) -> None:
    """A new run begins where another one left its checkpoints."""
    if earlier := step_folders(folder):
        logger.warning("%s holds steps of an earlier run, up to %s", folder, earlier[-1][1].name)


def model_config(args: argparse.Namespace, tokenizer: Tokenizer) -> ErnieMConfig:
    """The model's shape, from --ernie_config_path or beside the weights.

    Raises:
        UserError: no config anywhere, or one that does not fit the vocabulary or --max_seq_len.
    """
    source = args.ernie_config_path or args.init_checkpoint or args.init_pretraining_params
    if source is None:
        raise UserError(
            "--ernie_config_path is needed: the shape of the model (configs/base/ernie_config.json)"
        )
    config = (
        ErnieMConfig.from_json(source) if source == args.ernie_config_path else read_weights(source).config
    )
    if config is None:
        raise UserError(f"{source}: no config.json or ernie_config.json there; give --ernie_config_path")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{source}: vocab_size is {config.vocab_size}, but the vocabulary has ids up to "
            f"{tokenizer.vocab_size - 1}; the config and --piece_model_path do not belong together"
        )
    if tokenizer.pad_id != config.pad_token_id:
        raise UserError(f"{source}: pad_token_id is {config.pad_token_id}, but [PAD] is {tokenizer.pad_id}")
    if args.max_seq_len > config.max_position_embeddings - 2:
        raise UserError(
            f"--max_seq_len {args.max_seq_len}: the position table of {source} has room for "
            f"{config.max_position_embeddings - 2} tokens"
        )
    return config


def load_weights(args: argparse.Namespace, model: paddle.nn.Layer) -> str:
    """Fill the model as the flags say; return where the weights came from."""
    if args.init_checkpoint is not None:
        if args.init_pretraining_params is not None:
            logger.warning(
                "--init_checkpoint and --init_pretraining_params are both given: the first one counts"
            )
        if not any(name.startswith("classifier.") for name in read_weights(args.init_checkpoint).weights):
            raise UserError(
                f"{args.init_checkpoint}: not fine-tuned, there is no classifier in it; to train from it, "
                "name it with --init_pretraining_params"
            )
        load_from(model, args.init_checkpoint)
        return args.init_checkpoint
    if args.init_pretraining_params:
        load_from(
            model, args.init_pretraining_params, optional=("pooler.", "classifier."), ignore=("classifier.",)
        )
        return args.init_pretraining_params
    logger.warning(
        "neither --init_pretraining_params nor --init_checkpoint: training starts from random weights"
    )
    return "random weights"


def make_engine(args: argparse.Namespace, model: paddle.nn.Layer, total_steps: int, seed: int) -> Engine:
    """Optimizer, schedule and engine for `total_steps`."""
    warmup_steps = int(total_steps * args.warmup_proportion)
    if args.lr_scheduler == "noam_decay":
        schedule = noam_decay(warmup_steps)
    else:
        schedule = linear_warmup_decay(warmup_steps, total_steps, args.lr_schedule_style)
    optimizer = build_optimizer(
        model, args.learning_rate, schedule, args.weight_decay, args.layerwise_lr_decay,
        decay_style=args.decay_style,
    )  # fmt: skip
    scaling = LossScaling(**{field.name: getattr(args, field.name) for field in fields(LossScaling)})
    precision = Precision(args.amp, loss_scaling=scaling)
    return Engine(model, optimizer, seed, precision=precision, sums=("correct", "count"))


def make_model(
    args: argparse.Namespace, task: Task, config: ErnieMConfig, seed: int
) -> tuple[paddle.nn.Layer, str]:
    """The task's model in --dtype, filled, and where its weights came from. The same on every process."""
    paddle.seed(seed)
    paddle.set_default_dtype(args.dtype)
    model = task.make_model(config)
    model.ernie_m.recompute = args.recompute
    return model, load_weights(args, model)


def make_trainer(
    args: argparse.Namespace,
    task: Task,
    tokenizer: Tokenizer,
    config: ErnieMConfig,
    train_set: Sequence[Any],
    dev_files: Sequence[EvalFile],
    seed: int,
    folder: Path,
) -> Trainer:
    """Everything for one seed, at the first step or where --init_checkpoint was left.

    Raises:
        UserError: the weights do not fit, or the checkpoint belongs to a run with other flags.
    """
    rank, world = distributed.rank(), distributed.world_size()
    global_batch = args.batch_size * args.gradient_accumulation_steps * world
    batches = Batches(
        train_set, task.encode, global_batch, args.batch_size, args.in_tokens, args.shuffle, seed, rank, world
    )
    if args.in_tokens:
        logger.info("counting the tokens of %d examples", len(train_set))
    steps_of_epoch = [batches.count(epoch) for epoch in range(args.epoch)]
    total_steps = min(sum(steps_of_epoch), args.max_steps or sum(steps_of_epoch))
    logger.info(
        "seed %d: %d examples, %d optimiser steps of %d %s (batch %d x accumulation %d x processes %d)",
        seed, len(train_set), total_steps, global_batch, "tokens" if args.in_tokens else "examples",
        args.batch_size, args.gradient_accumulation_steps, world,
    )  # fmt: skip
    model, source = make_model(args, task, config, seed)
    engine = make_engine(args, model, total_steps, seed)
    flags = {name: getattr(args, name) for name in SHARED_FLAGS}
    flags |= {
        "global_batch": global_batch,
        "examples": len(train_set),
        "seed": seed,
        "vocabulary": tokenizer.digest,
    }
    if args.in_tokens and task.encode.multiple > 1:  # it decides how many examples are in a batch
        flags["pad_to_multiple_of"] = task.encode.multiple
    languages = list(dict.fromkeys(file.language for file in dev_files))
    facts = {
        "name": f"ERNIE-M, {task.name}", "task": task.name, "data": args.train_set,
        "languages": languages or None, "initialised_from": source,
        "epochs": None if args.max_steps else args.epoch,
        "selected_by": f"{task.metric}, {args.select_on}, {dev_files[0].pattern}" if dev_files else None,
    }  # fmt: skip
    trainer = Trainer(
        args, task, config, tokenizer, engine, batches, dev_files, steps_of_epoch, total_steps, folder, flags,
        facts, State(seed),
    )  # fmt: skip
    if has_state(args.init_checkpoint):
        resume(trainer, args.init_checkpoint)
    else:
        warn_of_earlier_steps(folder)
    return trainer


def resume(trainer: Trainer, path: str) -> None:
    """Put a trainer whose weights are loaded where the checkpoint was written.

    Raises:
        UserError: the checkpoint is of a run with other flags; the line names them.
    """
    saved = load_training_state(Path(path) / "training_state")
    other = differences(saved["flags"], trainer.flags)
    if other:
        raise UserError(
            f"{path} is of a run with other settings ({'; '.join(other)}); to resume give the same ones, "
            "to start a new run from its weights use --init_pretraining_params"
        )
    trainer.engine.load_state_dict(saved["engine"])
    trainer.engine.last_checkpoint = path
    trainer.state = State.from_dict(saved["run"])
    bring_best(trainer, Path(path).parent / "best")
    logger.info("resumed from %s: step %d of %d", path, trainer.engine.steps, trainer.total_steps)


def bring_best(trainer: Trainer, source: Path) -> None:
    """Make the folder `best` that of the best step so far, if need be from `source`; else select anew.

    A run that was killed may have gone on past its last checkpoint and selected a later step, which the
    resumed run will reach and select again.
    """
    best, target = trainer.state.best, trainer.folder / "best"
    if best is None:
        return
    there = _step_of(source) == best.step
    if distributed.is_main() and there and source.resolve() != target.resolve():
        with atomic_dir(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
    if not distributed.gather(there)[0]:
        logger.warning("%s is not that of step %d, the best so far: selection starts anew", source, best.step)
        trainer.state.best = None


def _step_of(folder: Path) -> int | None:
    return read_weights(folder).info["extra"].get("step") if folder.is_dir() else None
