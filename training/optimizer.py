"""The optimizer of a model: AdamW with the official exclusions and layer-wise decay.

The official code and PaddleNLP decay weights differently; `decay_style` gives both.
"""

import re
from collections.abc import Iterable

from paddle import nn
from paddle.optimizer.lr import LambdaDecay

from model.word_table import WordEmbeddings
from training.adamw import AdamW
from training.schedules import Schedule

# What weight decay is in proportion to; the names are values of --decay_style.
FULL_RATE = "official"  # to the scheduled rate, the same in all layers
LAYER_RATE = "paddlenlp"  # to the rate of the parameter's own layer


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the parameter with this name: not to layer norms and biases.

    The layer norms of an encoder layer are norm1 and norm2.
    """
    is_in_layer_norm = re.search(r"(layer_norm|norm1|norm2)\.", name) is not None
    return not is_in_layer_norm and not name.endswith("bias")


def learning_rate_ratios(
    names: Iterable[str], num_layers: int, layerwise_lr_decay: float, decay_style: str = FULL_RATE
) -> dict[str, float]:
    """Each parameter's share of the learning rate, by name.

    With d = layerwise_lr_decay, L = num_layers and layers 0 to L - 1, the share is d^(L - i) in layer i,
    d^(L + 1) for the word and position tables, and 1 for heads and pooler. The embeddings' layer norm has 1
    with FULL_RATE and d^(L + 1) with LAYER_RATE.
    """
    if decay_style == LAYER_RATE:
        embeddings = re.compile(r"(^|\.)embeddings\.")  # the layer norm, too
    else:
        embeddings = re.compile(r"(^|\.)(word|position)_embeddings\.")
    ratios = {}
    for name in names:
        layer = _layer_of(name)
        if layer is not None:
            ratios[name] = layerwise_lr_decay ** (num_layers - layer)
        elif embeddings.search(name):
            ratios[name] = layerwise_lr_decay ** (num_layers + 1)
        else:
            ratios[name] = 1.0
    return ratios


def build_optimizer(
    model: nn.Layer,
    peak_lr: float,
    schedule: Schedule | None = None,
    weight_decay: float = 0.01,
    layerwise_lr_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    decay_style: str = FULL_RATE,
) -> AdamW:
    """AdamW for the model's trainable parameters. It does not clip; `training.engine.Engine` does.

    Args:
        peak_lr: the highest learning rate.
        schedule: returns the share of `peak_lr` for a step; None: constant rate. Call
            `optimizer.lr_scheduler.step()` after each update.
        weight_decay: the coefficient. Layer norms and biases do not decay.
        layerwise_lr_decay: d of `learning_rate_ratios`; 1.0: the same rate in all layers.
        betas, eps: of Adam.
        decay_style: FULL_RATE, as the official code, or LAYER_RATE, as PaddleNLP.
    """
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient
    }
    layers = [_layer_of(name) for name in parameters]
    numbers = [layer for layer in layers if layer is not None]  # from 0; none if no layer is trained
    num_layers = max(numbers) + 1 if numbers else 0
    ratios = learning_rate_ratios(parameters, num_layers, layerwise_lr_decay, decay_style)
    for name, parameter in parameters.items():
        parameter.optimize_attr["learning_rate"] = ratios[name]
    # `apply_decay_param_fun` is asked with Paddle's own name of a parameter.
    decayed = {parameter.name for name, parameter in parameters.items() if is_decayed(name)}
    tables = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, WordEmbeddings)]
    return AdamW(
        LambdaDecay(peak_lr, schedule or (lambda step: 1.0)),
        table_gradients={table.weight.name: table.gradient for table in tables},
        row_gradients={table.weight.name: table.row_gradient for table in tables},
        full_rate_decay=decay_style == FULL_RATE,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=eps,
        parameters=list(parameters.values()),
        weight_decay=weight_decay,
        apply_decay_param_fun=lambda name: name in decayed,
    )


def _layer_of(name: str) -> int | None:
    """The number of the encoder layer that has the parameter with this name; None: it is in no layer."""
    match = re.search(r"encoder\.layers\.(\d+)\.", name)
    return None if match is None else int(match[1])
