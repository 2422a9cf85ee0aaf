"""What the benchmarks of training steps share: contenders, timing, and the steps of ours and of the peers."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext

from benchmarks.side_by_side import LATEST, OURS, VOCABULARY, Contender, wait_for_turn

BATCH, LENGTH = 16, 128
SIZES = {"layers": 12, "vocab": VOCABULARY, "batch": BATCH, "length": LENGTH, "steps": 5}
WARM_UP = 2  # the first steps touch fresh memory


SDPA = {"attention": "sdpa"}
CONTENDERS = {
    OURS: Contender("ours", OURS),
    "hf_installed_sdpa": Contender(
        "transformers XLM-R, sdpa, as installed", "torch", False, SDPA | {"fused": False}
    ),
    "hf_best_sdpa": Contender("transformers XLM-R, sdpa", "torch", options=SDPA),
    "hf_best_eager": Contender("transformers XLM-R, eager", "torch"),
    "hf_best_latest_sdpa": Contender("newest transformers, sdpa", "torch", True, SDPA, LATEST),
    "hf_best_latest_eager": Contender("newest transformers, eager", "torch", environment=LATEST),
}


def time_steps(step: Callable[..., None], batches: Iterable[tuple]) -> list[float]:
    """The seconds of each `step(*batch)`, without the first WARM_UP.

    Args:
        step: waits until the device has done all its work.
    """
    seconds = []
    for batch in batches:
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def operations_of(args, tokens: int, predicted: int = 0) -> float:
    """Additions and multiplications that a training step in the base width needs: 6 for each token and weight
    of its products. The word table counts for the `predicted` tokens of masked LM."""
    width = getattr(args, "hidden", 768)
    return 6.0 * (12 * args.layers * width**2 * tokens + args.vocab * width * predicted)


def our_step(model, loss_of: Callable, amp: str = "none") -> Callable[..., None]:
    """A training step of ours. `loss_of(*batch)` is the loss of one batch."""
    from training.engine import Engine
    from training.optimizer import build_optimizer
    from training.precision import Precision

    optimizer = build_optimizer(model, 5e-5, weight_decay=0.01)
    engine = Engine(model, optimizer, clip_norm=1.0, precision=Precision(amp))

    def step(*batch):
        engine.step([batch], lambda batch: (loss_of(*batch), {}))
        wait_for_paddle()

    return step


def torch_step(
    args,
    head: str,
    architecture: str = "XLMRoberta",
    attention: str = "eager",
    fused: bool = True,
    bfloat16: bool = False,
    loss_of: Callable | None = None,
    **config,
) -> Callable[..., None]:
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
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(*arrays):
        input_ids, labels = (torch.from_numpy(array).to(device) for array in arrays)
        mask = (input_ids != 1).long()
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            if loss_of is None:
                loss = model(input_ids, attention_mask=mask, labels=labels).loss
            else:
                loss = loss_of(model, input_ids, mask, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def paddlenlp_step(args, num_labels: int) -> Callable[..., None]:
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
