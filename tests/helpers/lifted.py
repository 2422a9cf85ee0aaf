"""Paddle's group_sharded_parallel on a CPU: its own code, but for what asks for a GPU or copies to one."""

import contextlib
from unittest import mock

import paddle
from paddle.distributed import sharding
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_storage
from paddle.framework import core

from model import word_table
from utils import group_sharding

group_sharded_parallel = sharding.group_sharded_parallel


def without_questions(*args, **kwargs):
    with (
        mock.patch.object(paddle, "get_device", return_value="gpu:0"),
        mock.patch.object(core, "is_compiled_with_cuda", return_value=True),
        # It drops a parameter's memory as soon as there is a copy, which on a CPU would be the same memory.
        mock.patch.object(paddle.Tensor, "cpu", lambda tensor: tensor.detach().clone()),
    ):
        return group_sharded_parallel(*args, **kwargs)


def lift() -> None:
    """For the rest of this process."""
    sharding.group_sharded_parallel = without_questions
    group_sharded_storage.cvt_to_device = lambda tensor, *_: tensor
    group_sharded_storage.device_guard = lambda *_: contextlib.nullcontext()
    group_sharding.on_gpu = lambda: True
    # A CPU adds to the gradients of the word table past Paddle's hooks; here it is to do as a GPU does.
    word_table.training_on_cpu = lambda x: False
