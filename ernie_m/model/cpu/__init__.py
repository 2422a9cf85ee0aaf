"""What a CPU can do better than Paddle's own kernels: the same mathematics, in blocks of rows on all threads.

docs/cpu.md says why. Use the layers with `backward()`: for a custom `PyLayer`, Paddle refuses `paddle.grad`
with respect to only some of the inputs. The network takes them from `ernie_m.model.device`, as `device.cpu`.
"""

from ernie_m.model.cpu import mkl, onednn, workers
from ernie_m.model.cpu.attention import attend
from ernie_m.model.cpu.bfloat16 import LinearInBfloat16
from ernie_m.model.cpu.layers import (
    DropoutOnCpu,
    DropoutStream,
    GeluOnCpu,
    LayerNormOnCpu,
    LinearOnCpu,
    with_same_dropout,
)
from ernie_m.model.cpu.masked_lm_loss import CrossEntropyOnCpu, LossOnCpu
from ernie_m.model.cpu.packed import PackedLinear
from ernie_m.model.cpu.packed import feed_forward as packed_feed_forward
from ernie_m.model.cpu.packed import linear_layers as packed_linear_layers
from ernie_m.model.cpu.replicas import SHARE_TOKENS, Replicas
from ernie_m.model.cpu.sums import sums_of_sequences

__all__ = [
    "SHARE_TOKENS",
    "CrossEntropyOnCpu",
    "DropoutOnCpu",
    "DropoutStream",
    "GeluOnCpu",
    "LayerNormOnCpu",
    "LinearInBfloat16",
    "LinearOnCpu",
    "LossOnCpu",
    "PackedLinear",
    "Replicas",
    "attend",
    "mkl",
    "onednn",
    "packed_feed_forward",
    "packed_linear_layers",
    "sums_of_sequences",
    "with_same_dropout",
    "workers",
]
