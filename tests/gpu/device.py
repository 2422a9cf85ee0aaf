"""What the tests in this folder run on."""

from typing import NamedTuple

import paddle

from model import device
from tests.gpu.bounds import BOUNDS

# Half types -> the mixed precision that computes in them. Models are usually trained in the first.
AMPS = {"bfloat16": "bf16", "float16": "fp16"}


class Device(NamedTuple):
    """A card, this CPU, or a CPU that stands in for a card.

    Attributes:
        is_card: whether it is a card, or stands in for one.
        half_types: those of AMPS in which it computes.
    """

    is_card: bool = False
    half_types: tuple[str, ...] = ()

    @property
    def is_real_card(self) -> bool:
        """Whether it is a card."""
        return self.is_card and paddle.is_compiled_with_cuda()

    @property
    def dtypes(self) -> list[str]:
        """What it computes in."""
        return ["float64", "float32", *self.half_types]

    @property
    def amps(self) -> list[str]:
        """Its mixed precisions."""
        return [AMPS[dtype] for dtype in self.half_types] or ["none"]

    @property
    def exact_dtype(self) -> str:
        """The type with which training is compared: float64 has no fast kernels on a card."""
        return "float32" if self.is_card else "float64"

    @property
    def has_flash_mask(self) -> bool:
        """Whether attention in half precision is computed by FlashMask."""
        return device.uses_flash_mask(half=True)

    def bound(self, dtype: str) -> float:
        """The largest difference from float64 that is allowed in this type."""
        if dtype == "float32" and self.is_card and device.has_tf32():
            return BOUNDS["tf32"]
        return BOUNDS[dtype]


CPU = Device()
A100 = Device(is_card=True, half_types=("bfloat16", "float16"))
V100 = Device(is_card=True, half_types=("float16",))
