"""A training step of ours and one of transformers, with AdamW and clipping."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

RATE = 5e-5
DECAY = 0.01
CLIP_NORM = 1.0


def our_step(
    model: Any,
    loss_of: Callable[[Any, Any], Any],
    amp: str,
    in_shares: Callable[[Any], list] = lambda batch: [batch],
) -> Callable[[Any], None]:
    """A function of a batch that does a step.

    Args:
        loss_of: the part of a model and a share in the loss of its batch.
        in_shares: the shares of a batch.
        amp: "none" or "bf16".
    """
    from ernie_m.training.engine import Engine
    from ernie_m.training.optimizer import build_optimizer
    from ernie_m.training.precision import Precision

    optimizer = build_optimizer(model, peak_lr=RATE, weight_decay=DECAY)
    precision = Precision(amp)
    engine = Engine(model.train(), optimizer, clip_norm=CLIP_NORM, precision=precision)

    def step(batch: Any) -> None:
        engine.step(in_shares(batch), lambda model, part: (loss_of(model, part), {}))  # no sums to log

    return step


def torch_step(model: Any, loss_of: Callable[[Any], Any], bfloat16: bool) -> Callable[[Any], None]:
    """The same with torch. `bfloat16`: whether products are in bfloat16 (autocast)."""
    import torch

    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def step(batch: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step
