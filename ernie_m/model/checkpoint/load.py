"""Loads the weights of a checkpoint into a Paddle model."""

import numpy as np
import paddle

from ernie_m.model.checkpoint.check_weights import check_weights, format_tensor_count
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.utils.logging import logger

STORED_DTYPES = (paddle.float32, paddle.float64)  # dtypes of weights in a checkpoint
_ENCODER_PREFIX = "ernie_m."  # prefix of the encoder's parameters in a task model


def get_parameters(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return a model's parameters by native name; a tied parameter appears once."""
    return {name.removeprefix(_ENCODER_PREFIX): parameter for name, parameter in model.named_parameters()}


def load_weights(
    model: paddle.nn.Layer,
    checkpoint: Checkpoint,
    optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> list[str]:
    """Load the weights of a checkpoint into a model. Nothing is loaded if a name or shape does not match.

    Args:
        model: an encoder, or a model with an encoder as `model.ernie_m`.
        checkpoint: from `open_checkpoint`.
        optional: name prefixes of parameters that the checkpoint may lack. They keep their initial values,
            with a warning.
        ignore: name prefixes of parameters and tensors to skip, such as "classifier." to fine-tune
            pretrained weights.

    Returns:
        The names of the parameters that keep their initial values.

    Raises:
        UserError: a shape differs (with the config key), the number of layers or attention heads differs, or
            names are missing.
    """
    tensors = checkpoint.tensors
    parameters = get_parameters(model)
    to_fill = {name: parameter for name, parameter in parameters.items() if not name.startswith(ignore)}
    shapes = {name: tuple(parameter.shape) for name, parameter in to_fill.items()}
    check_weights(shapes, getattr(model, "ernie_m", model).config, checkpoint, optional)
    absent = [name for name in to_fill if name not in tensors]
    for part in dict.fromkeys(name.split(".")[0] for name in absent):  # "pooler", "classifier", ...
        # Users search for the official name of the pooler.
        label = "pooled_fc" if part == "pooler" else part
        logger.warning("%s: no %s; initializing %s randomly", tensors.source, label, part)
    filled = [name for name in to_fill if name in tensors]
    for name in filled:
        _set_parameter(to_fill[name], check_finite(name, tensors[name], tensors.source))
    unused = [name for name in tensors if name not in to_fill and not name.startswith(ignore)]
    if unused:
        logger.info("%s: %s not used: %s", tensors.source, format_tensor_count(unused), ", ".join(unused))
    return [name for name in parameters if name not in filled]


def _set_parameter(parameter: paddle.Tensor, array: np.ndarray) -> None:
    """Set the value of a parameter to an array, converted to the parameter's dtype."""
    if parameter.dtype in STORED_DTYPES:
        # Directly from NumPy: an intermediate tensor would double the memory of the largest matrix.
        parameter.set_value(np.asarray(array, dtype=str(parameter.dtype).removeprefix("paddle.")))
    else:
        parameter.set_value(paddle.to_tensor(array).astype(parameter.dtype))
