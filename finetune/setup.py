"""From flags to tokenizer, model, weights, optimizer and engine."""

import argparse
from dataclasses import fields
from pathlib import Path

import paddle

from finetune.task import Task
from finetune.trainer import SUMS
from model.checkpoint.folder import load_from, read_weights
from model.ernie_m import ErnieMConfig
from reader.tokenization import Tokenizer
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay, noam_decay
from training.precision import LossScaling, Precision
from utils.errors import UserError
from utils.logging import logger


def make_tokenizer(args: argparse.Namespace) -> Tokenizer:
    """From --piece_model_path and --vocab_path, or else from the files beside the weights."""
    if args.piece_model_path is not None:
        return Tokenizer(args.vocab_path, args.piece_model_path)
    source = args.init_checkpoint or args.init_pretraining_params
    if source and (checkpoint := read_weights(source)).piece_model_path:
        return Tokenizer(checkpoint.vocab_path, checkpoint.piece_model_path)
    raise UserError("--piece_model_path is needed: the sentencepiece model (./configs/piece.model)")


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


def load_weights(args: argparse.Namespace, model: paddle.nn.Layer) -> None:
    """Fill the model as the flags say."""
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
    elif args.init_pretraining_params:
        load_from(
            model, args.init_pretraining_params, optional=("pooler.", "classifier."), ignore=("classifier.",)
        )
    else:
        logger.warning(
            "neither --init_pretraining_params nor --init_checkpoint: training starts from random weights"
        )


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
    return Engine(model, optimizer, seed, precision=precision, sums=SUMS)


def make_model(
    args: argparse.Namespace, task: Task, config: ErnieMConfig, seed: int, step: Path | None = None
) -> paddle.nn.Layer:
    """The task's model in --dtype, the same on every process.

    Args:
        step: a step folder of the run, whose weights come before those that the flags name.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(args.dtype)
    model = task.make_model(config)
    model.ernie_m.recompute = args.recompute
    if step is None:
        load_weights(args, model)
    else:
        load_from(model, step)
    return model
