"""Numbers in bfloat16, and how far a product in them is from the exact one."""

import numpy as np
import pytest


def skip_module_without_onednn() -> None:
    """Skip the test module that calls this if oneDNN does not multiply in bfloat16 here."""
    one = np.ones([32, 32], np.float32)
    try:
        from ernie_m.model.cpu import onednn

        bits = onednn.to_bfloat16(one)
        onednn.multiply(bits, bits, one)
    except (OSError, AttributeError, RuntimeError, ModuleNotFoundError) as error:
        pytest.skip(f"no products in bfloat16 here: {error}", allow_module_level=True)


def widen(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers as float32, of which they are the upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The norm of the difference, divided by the norm of y."""
    return np.linalg.norm(x - y) / np.linalg.norm(y)
