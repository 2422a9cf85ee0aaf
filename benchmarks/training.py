"""What the benchmarks of training steps share: contenders, timing, and the step of transformers."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

from benchmarks.side_by_side import LATEST, OURS, VOCABULARY, Contender, tell, wait_for_turn

BATCH, LENGTH = 16, 128
SIZES = {"layers": 12, "vocab": VOCABULARY, "batch": BATCH, "length": LENGTH, "steps": 5}
WARM_UP = 2  # the first steps touch fresh memory, or compile


def _torch(label: str, attention: str, tuned: bool = True, newest: bool = False, **more) -> Contender:
    """XLM-R of transformers. A tuned one has the fused AdamW of torch."""
    asked = more.get("gathered", False)
    precision = "bfloat16" if more.get("bfloat16") else "float32"
    return Contender(
        f"{'newest transformers' if newest else 'transformers XLM-R'}, {label}", "torch", tuned,
        {"attention": attention, **({"fused": True} if tuned else {}), **more}, LATEST if newest else None,
        precision, asked,
    )  # fmt: skip


CONTENDERS = {OURS: Contender("ours", OURS)}
TRANSFORMERS = {
    "hf_installed_sdpa": _torch("sdpa, as installed", "sdpa", tuned=False),
    "hf_installed_eager": _torch("eager, as installed", "eager", tuned=False),
    "hf_best_sdpa": _torch("sdpa", "sdpa"),
    "hf_best_eager": _torch("eager", "eager"),
    "hf_best_compiled": _torch("sdpa, compiled", "sdpa", compile=True),
    "hf_best_latest_sdpa": _torch("sdpa", "sdpa", newest=True),
    "hf_best_latest_eager": _torch("eager", "eager", newest=True),
    "hf_best_latest_compiled": _torch("sdpa, compiled", "sdpa", newest=True, compile=True),
}
GATHERED = {
    "hf_gathered_sdpa": _torch("sdpa, gathered", "sdpa", gathered=True),
    "hf_gathered_latest_sdpa": _torch("sdpa, gathered", "sdpa", newest=True, gathered=True),
}
BFLOAT16 = {
    "ours_bfloat16": Contender("ours, bfloat16", OURS, options={"amp": "bf16"}, precision="bfloat16"),
    "hf_bfloat16": _torch("sdpa, bfloat16 autocast", "sdpa", bfloat16=True),
    "hf_latest_bfloat16": _torch("sdpa, bfloat16 autocast", "sdpa", newest=True, bfloat16=True),
}


def tokens_of_step(args: argparse.Namespace) -> int:
    """The unit of work of `compare`."""
    return args.batch * args.length


def time_steps(steps: int, batches: Iterator[tuple], step: Callable, parameters: int) -> None:
    """Time `step(*batch)` and tell the seconds of each step; a worker ends with this.

    Args:
        steps: number of timed steps, after WARM_UP others.
        step: waits until the device has done all its work.
        parameters: numbers in the model. Weights, gradients and Adam's two moments are kept in float32.
    """
    seconds = []
    for _, batch in zip(range(WARM_UP + steps), batches):
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    tell(seconds[WARM_UP:], kept=parameters * 4 * 4)


def time_xlm_r(
    head: str,
    batches: Iterator[tuple],
    args: argparse.Namespace,
    attention: str,
    fused: bool = False,
    compile: bool = False,
    bfloat16: bool = False,
    loss_of: Callable | None = None,
    **config,
) -> None:
    """Time steps of transformers' XLM-R on batches of (ids, labels).

    Args:
        head: "MaskedLM" or another end of a class name XLMRobertaFor...
        loss_of: (model, input_ids, attention_mask, labels) -> loss; by default the loss of the model.
        config: further values of the configuration.
    """
    import torch
    import transformers

    device = torch_device()
    shape = xlm_r_config(args.layers, args.vocab, attn_implementation=attention, **config)
    model = getattr(transformers, f"XLMRobertaFor{head}")(shape).to(device).train()
    forward = torch.compile(model) if compile else model
    if loss_of is None:

        def loss_of(model, input_ids, attention_mask, labels):
            return model(input_ids, attention_mask=attention_mask, labels=labels).loss

    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(*arrays):
        input_ids, labels = (torch.from_numpy(array).to(device) for array in arrays)
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            loss = loss_of(forward, input_ids, (input_ids != 1).long(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    time_steps(args.steps, batches, step, sum(parameter.numel() for parameter in model.parameters()))


def torch_device() -> str:
    """The device of the peers that use torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def xlm_r_config(layers: int, vocabulary: int, **more):
    """The configuration of XLM-R in the base shape, for transformers."""
    import transformers

    return transformers.XLMRobertaConfig(
        vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, **more,
    )  # fmt: skip


def wait_for_paddle() -> None:
    """Wait until Paddle's GPU has done all its work. On a CPU there is nothing to wait for."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        paddle.device.synchronize()
