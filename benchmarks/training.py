"""What the benchmarks of training steps share: contenders, timing, and the steps of the peers."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

from benchmarks.side_by_side import FLOAT32, LATEST, OURS, VOCABULARY, Contender, tell, wait_for_turn

BATCH, LENGTH = 16, 128
SIZES = {"layers": 12, "vocab": VOCABULARY, "batch": BATCH, "length": LENGTH, "steps": 5}
WARM_UP = 2  # the first steps touch fresh memory, or compile


def torch_contender(
    label: str, attention: str, tuned: bool = True, newest: bool = False, bfloat16: bool = False,
    asked: bool = False, **options,
) -> Contender:  # fmt: skip
    """XLM-R of transformers. A tuned one has the fused AdamW of torch."""
    return Contender(
        f"{'newest transformers' if newest else 'transformers XLM-R'}, {label}", "torch", tuned,
        {"attention": attention, "fused": tuned, "bfloat16": bfloat16, **options}, LATEST if newest else None,
        "bfloat16" if bfloat16 else FLOAT32, asked,
    )  # fmt: skip


CONTENDERS = {OURS: Contender("ours", OURS)}
TRANSFORMERS = {
    "hf_installed_sdpa": torch_contender("sdpa, as installed", "sdpa", tuned=False),
    "hf_installed_eager": torch_contender("eager, as installed", "eager", tuned=False),
    "hf_best_sdpa": torch_contender("sdpa", "sdpa"),
    "hf_best_eager": torch_contender("eager", "eager"),
    "hf_best_compiled": torch_contender("sdpa, compiled", "sdpa", compile=True),
    "hf_best_latest_sdpa": torch_contender("sdpa", "sdpa", newest=True),
    "hf_best_latest_eager": torch_contender("eager", "eager", newest=True),
    "hf_best_latest_compiled": torch_contender("sdpa, compiled", "sdpa", newest=True, compile=True),
}
GATHERED = {
    "hf_gathered_sdpa": torch_contender("sdpa, gathered", "sdpa", asked=True, gathered=True),
    "hf_gathered_latest_sdpa": torch_contender(
        "sdpa, gathered", "sdpa", newest=True, asked=True, gathered=True
    ),
}
BFLOAT16 = {
    "ours_bfloat16": Contender("ours, bfloat16", OURS, options={"amp": "bf16"}, precision="bfloat16"),
    "hf_bfloat16": torch_contender("sdpa, bfloat16 autocast", "sdpa", bfloat16=True),
    "hf_latest_bfloat16": torch_contender("sdpa, bfloat16 autocast", "sdpa", newest=True, bfloat16=True),
}


def on_batches(order: str) -> dict[str, Contender]:
    """The peers of benchmarks/finetune_real.py, tuned, on its "padded" or "grouped" batches."""
    options, newest = {"order": order}, {"newest": True, "order": order}
    return {
        f"hf_{order}_sdpa": torch_contender(f"sdpa, {order}", "sdpa", **newest),
        f"hf_{order}_eager": torch_contender(f"eager, {order}", "eager", **newest),
        f"hf_{order}_bfloat16": torch_contender(f"sdpa, bfloat16, {order}", "sdpa", bfloat16=True, **newest),
        f"hf_{order}_ernie_m": Contender(
            f"transformers ErnieM, {order}", "torch",
            options={"architecture": "ErnieM", "fused": True, **options},
        ),
        f"paddlenlp_{order}": Contender(f"PaddleNLP ERNIE-M, {order}", "paddlenlp", options=options),
    }  # fmt: skip


PADDED, GROUPED = on_batches("padded"), on_batches("grouped")


def operations_of(model, tokens: int, predicted: int = 0) -> float:
    """Operations of a step of our model: 6 for each weight of its products and token. The word table counts
    for the `predicted` tokens of masked LM."""
    matrices = sum(x.size for x in model.ernie_m.encoder.parameters() if x.ndim == 2)
    return 6.0 * (matrices * tokens + model.ernie_m.embeddings.word_embeddings.weight.size * predicted)


def time_steps(args, batches: Iterator[tuple], step: Callable, operations: float = 0.0) -> None:
    """Time `args.steps` calls of `step(*batch)`, after WARM_UP others, and tell the seconds of each.

    Args:
        step: waits until the device has done all its work.
        operations: of a step, if known.
    """
    seconds = []
    for _, batch in zip(range(WARM_UP + args.steps), batches):
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    tell(seconds[WARM_UP:], operations)


def torch_step(
    args,
    head: str,
    architecture: str = "XLMRoberta",
    attention: str = "eager",
    fused: bool = False,
    compile: bool = False,
    bfloat16: bool = False,
    loss_of: Callable | None = None,
    **config,
) -> Callable:
    """A training step of a model of transformers: (ids, labels) as arrays -> None.

    Args:
        args: has "layers" and "vocab", and "hidden" if it is not 768.
        head: end of the name of a class: "ForMaskedLM".
        loss_of: (model, input_ids, attention_mask, labels) -> loss; by default the loss of the model.
        config: further values of the configuration.
    """
    import torch
    import transformers

    device = torch_device()
    config |= {"attn_implementation": attention, "hidden_size": getattr(args, "hidden", 768)}
    shape = hf_config(args.layers, args.vocab, architecture, **config)
    model = getattr(transformers, architecture + head)(shape).to(device).train()
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

    return step


def paddlenlp_step(args, num_labels: int) -> Callable:
    """A training step of PaddleNLP's ERNIE-M for sequence classification: (ids, labels) as arrays -> None."""
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    hidden = getattr(args, "hidden", 768)
    config = ErnieMConfig(
        vocab_size=args.vocab, num_hidden_layers=args.layers, num_labels=num_labels, hidden_size=hidden,
        num_attention_heads=hidden // 64, intermediate_size=4 * hidden,
    )  # fmt: skip
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(5e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)

    def step(input_ids, labels):
        input_ids = paddle.to_tensor(input_ids)
        mask = (input_ids != 1).astype("int64")
        F.cross_entropy(model(input_ids, attention_mask=mask), paddle.to_tensor(labels)).backward()
        optimizer.step()
        optimizer.clear_grad()
        wait_for_paddle()

    return step


def torch_device() -> str:
    """The device of the peers that use torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def hf_config(layers: int, vocabulary: int, architecture: str = "XLMRoberta", hidden_size: int = 768, **more):
    """A configuration of transformers in the base shape or, with another `hidden_size`, a smaller one."""
    import transformers

    values = {
        "vocab_size": vocabulary, "num_hidden_layers": layers, "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64, "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    }  # fmt: skip
    return getattr(transformers, f"{architecture}Config")(**values | more)


def wait_for_paddle() -> None:
    """Wait until Paddle's GPU has done all its work. On a CPU there is nothing to wait for."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        paddle.device.synchronize()
