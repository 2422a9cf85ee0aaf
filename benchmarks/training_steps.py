"""A training step of ours and one of transformers, and how steps are timed."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from benchmarks.side_by_side import wait_for_turn

WARM_UP = 2  # the first steps touch fresh memory
PAD = 1  # the id of the pad token
HEAD_SIZE = 64  # of attention, in base and large


def time_steps(step: Callable[..., None], batches: Iterable[tuple]) -> list[float]:
    """The seconds of each `step(*batch)`, but not of the first WARM_UP."""
    seconds = []
    for batch in batches:
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def our_step(model: Any, loss_of: Callable, amp: str = "none") -> Callable[..., None]:
    """A training step of ours.

    Args:
        loss_of: a function of the step's arguments that returns the loss.
        amp: "none" or "bf16"; on a CPU this is the bfloat16 of --cpu_bf16.
    """
    from training.engine import Engine
    from training.optimizer import build_optimizer
    from training.precision import Precision

    optimizer = build_optimizer(model, peak_lr=5e-5, weight_decay=0.01)
    engine = Engine(model, optimizer, clip_norm=1.0, precision=Precision(amp, cpu_bf16=amp == "bf16"))

    def loss_and_sums(batch: tuple) -> tuple[Any, dict]:
        return loss_of(*batch), {}  # no sums to log

    def step(*batch: Any) -> None:
        engine.step([batch], loss_and_sums)

    return step


def loss_of_transformers(model: Any, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
    """The loss that a model of transformers computes itself."""
    return model(input_ids, attention_mask=attention_mask, labels=labels).loss


def torch_step(
    args: Any,
    head: str,
    attention: str = "sdpa",
    bfloat16: bool = False,
    loss_of: Callable = loss_of_transformers,
    **more: Any,
) -> Callable[..., None]:
    """A training step of transformers' XLM-R, a function of ids and labels as arrays.

    Args:
        args: the flags of the benchmark, which have the model's shape.
        head: the end of the name of a class, such as "ForMaskedLM".
        attention: the implementation, "sdpa" or "eager".
        bfloat16: whether products are in bfloat16 (autocast).
        loss_of: the loss, from the model, ids, attention mask and labels.
        more: further values of the configuration.
    """
    import torch
    import transformers

    configuration = hf_config(args.layers, args.vocab, args.hidden, attn_implementation=attention, **more)
    model = getattr(transformers, f"XLMRoberta{head}")(configuration).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=True)

    def step(*arrays: Any) -> None:
        input_ids, labels = [torch.from_numpy(array) for array in arrays]
        mask = (input_ids != PAD).long()
        precision = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        with precision:
            loss = loss_of(model, input_ids, mask, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def hf_config(layers: int, vocabulary: int, hidden_size: int = 768, **more: Any) -> Any:
    """A configuration of XLM-R in transformers. `more`: values to add or to replace."""
    import transformers

    values = {
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // HEAD_SIZE,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": PAD,
    }
    return transformers.XLMRobertaConfig(**(values | more))
