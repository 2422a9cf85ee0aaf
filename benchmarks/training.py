"""Training steps side by side: the contenders, their timing, transformers' worker.

Reported are medians over the steps of all rounds, and the highest peak memory beyond weights, gradients and
Adam's two moments.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, compare, since_start, tell, wait_for_gpu
from benchmarks.turns import wait_for_turn

BATCH, LENGTH = 16, 128
WARM_UP = 2  # the first steps touch fresh memory, or compile


def _torch(
    label: str, tuned: bool, attention: str, newest: bool = False, asked: bool = False, **more
) -> Contender:
    name = f"{'newest transformers' if newest else 'transformers XLM-R'}, {label}"
    options = {"attention": attention, "fused": True} if tuned else {"attention": attention}
    precision = "bfloat16" if more.get("bfloat16") else "float32"
    return Contender(name, "torch", tuned, options | more, LATEST if newest else None, precision, asked)


OURS = {
    "ours": Contender("ours", "ours", True),
    "ours_bare": Contender("ours, without scripts/env.sh", "ours", False),
}
TRANSFORMERS = {
    "hf_installed_sdpa": _torch("sdpa, as installed", False, "sdpa"),
    "hf_installed_eager": _torch("eager, as installed", False, "eager"),
    "hf_best_sdpa": _torch("sdpa", True, "sdpa"),
    "hf_best_eager": _torch("eager", True, "eager"),
    "hf_best_compiled": _torch("sdpa, compiled", True, "sdpa", compile=True),
    "hf_best_latest_sdpa": _torch("sdpa", True, "sdpa", newest=True),
    "hf_best_latest_eager": _torch("eager", True, "eager", newest=True),
    "hf_best_latest_compiled": _torch("sdpa, compiled", True, "sdpa", newest=True, compile=True),
}
GATHERED = {
    "hf_gathered_sdpa": _torch("sdpa, gathered", True, "sdpa", asked=True, gathered=True),
    "hf_gathered_latest_sdpa": _torch("sdpa, gathered", True, "sdpa", True, asked=True, gathered=True),
}
BFLOAT16 = {
    "ours_bfloat16": Contender("ours, bfloat16", "ours", True, {"amp": "bf16"}, precision="bfloat16"),
    "hf_bfloat16": _torch("sdpa, bfloat16 autocast", True, "sdpa", bfloat16=True),
    "hf_latest_bfloat16": _torch("sdpa, bfloat16 autocast", True, "sdpa", newest=True, bfloat16=True),
}

# (layers, vocabulary, steps, batch, length, **options of the contender): ends in `time_steps`
TrainingWorker = Callable[..., None]


def main(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, TrainingWorker],
    operations: Callable[[argparse.Namespace], float],
    in_turns: bool = False,
) -> None:
    """The command line of a benchmark of training steps.

    Args:
        operations: of the matrix products of a step.
        in_turns: two contenders at a time fit into memory.
    """

    def with_numbers(worker: TrainingWorker):
        return lambda _, args, **options: worker(
            args.layers, args.vocab, args.steps, args.batch, args.length, **options
        )

    compare(
        description,
        contenders,
        {kind: with_numbers(worker) for kind, worker in workers.items()},
        {"layers": 12, "vocab": VOCABULARY, "batch": BATCH, "length": LENGTH, "steps": 3},
        "tokens/s",
        lambda args: args.batch * args.length,
        operations=operations,
        in_turns=in_turns,
    )


def time_steps(
    steps: int,
    batches: Iterator[tuple],
    step: Callable,
    parameters: int,
    peak_of_products: Callable[[], float] | None = None,
) -> None:
    """The worker's last act: run `step(*batch)` a few times and tell what was found.

    Args:
        steps: that are timed, after WARM_UP others; 0: instead, the seconds from the start of the process to
            the end of the first step.
        parameters: numbers in the model; all are trained, in float32.
        peak_of_products: GFLOP/s, measured before and after the steps.
    """
    kept = parameters * 4 * 4  # weights, gradients, two moments
    if not steps:
        step(*next(batches))
        wait_for_gpu()
        tell(since_start(), kept=kept)
        return
    gflops = [peak_of_products()] if peak_of_products is not None else []
    seconds = []
    for _, batch in zip(range(WARM_UP + steps), batches):
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        wait_for_gpu()
        seconds.append(time.perf_counter() - start)
    if peak_of_products is None:
        tell(seconds[WARM_UP:], kept=kept)
    else:
        tell(seconds[WARM_UP:], kept=kept, gflops=max(*gflops, peak_of_products()))


def time_xlm_r(
    head: str,
    batches: Iterator[tuple],
    layers: int,
    vocabulary: int,
    steps: int,
    attention: str,
    fused: bool = False,
    compile: bool = False,
    bfloat16: bool = False,
    loss_of: Callable | None = None,
    **config,
) -> None:
    """`time_steps` of transformers' XLM-R with the given head, on batches of (ids, labels).

    Args:
        loss_of: (model, input_ids, attention_mask, labels) -> loss; None: the model's own.
    """
    import torch
    import transformers

    device = torch_device()
    shape = xlm_r_config(layers, vocabulary, attn_implementation=attention, **config)
    model = getattr(transformers, f"XLMRobertaFor{head}")(shape).to(device).train()
    forward = torch.compile(model) if compile else model
    if loss_of is None:

        def loss_of(model, input_ids, attention_mask, labels):
            return model(input_ids, attention_mask=attention_mask, labels=labels).loss

    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(*arrays):
        input_ids, labels = (torch.from_numpy(array).to(device) for array in arrays)
        mask = (input_ids != 1).long()
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            loss = loss_of(forward, input_ids, mask, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # which a training loop logs; a GPU's step has ended then

    time_steps(steps, batches, step, sum(parameter.numel() for parameter in model.parameters()))


def torch_device() -> str:
    """Where torch's peers run: where ours does."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def xlm_r_config(layers: int, vocabulary: int, **more):
    """transformers' config of XLM-R in the base shape."""
    import transformers

    return transformers.XLMRobertaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        **more,
    )
