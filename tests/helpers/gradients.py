"""The gradients of a model, as arrays."""

import numpy as np
from paddle import Tensor, nn


def take_gradients(model: nn.Layer) -> dict[str, np.ndarray]:
    """The gradients that the parameters of a model have, by name. The model keeps none."""
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.numpy().copy()
            parameter.grad = None
    return gradients


def compute_gradients(model: nn.Layer, value: Tensor) -> dict[str, np.ndarray]:
    """The gradients of a value by the parameters of a model, by name. The model keeps none."""
    value.backward()
    return take_gradients(model)
