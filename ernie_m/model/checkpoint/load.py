"""Fill a model from an open checkpoint."""

from collections.abc import Mapping

import numpy as np
import paddle

from ernie_m.model.checkpoint import tensor_names
from ernie_m.model.checkpoint.lazy_weights import Weights, finite
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

STORED_DTYPES = (paddle.float32, paddle.float64)  # the types that weights have in a checkpoint
# What the names of tensors begin with that are not of an encoder.
HEADS = ("classifier.", "lm_head.", "language_embeddings.")
_ENCODER_PREFIX = "ernie_m."  # begins the names of the encoder's parameters in a task model


def parameters_of(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Our name -> parameter. A tied parameter appears once."""
    return {name.removeprefix(_ENCODER_PREFIX): parameter for name, parameter in model.named_parameters()}


def load_from(
    model: paddle.nn.Layer,
    checkpoint: Checkpoint,
    optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> list[str]:
    """Fill a model by name. All names and shapes are checked before the first parameter is changed.

    Args:
        model: an encoder, or a model with one as `.ernie_m`.
        checkpoint: from `open_checkpoint`.
        optional: prefixes of names that may be absent; these stay as initialised and the log says so.
        ignore: prefixes of names that are ignored on both sides. With "classifier." a task starts from
            pre-trained weights; without it the head must be there.

    Returns:
        The names of the parameters that stay as initialised.

    Raises:
        UserError: a shape that differs (with the config key to look at), another number of layers or of
            attention heads than the model has, or missing names, listed.
    """
    tensors = checkpoint.tensors
    parameters = parameters_of(model)
    to_fill = {name: parameter for name, parameter in parameters.items() if not name.startswith(ignore)}
    _check_attention_heads(model, checkpoint, to_fill)
    _check_shapes({name: tuple(parameter.shape) for name, parameter in to_fill.items()}, tensors)
    layers_of_model = tensor_names.count_layers(to_fill)  # 0 if the layers are ignored
    layers_of_weights = tensor_names.count_layers(name for name in tensors if not name.startswith(ignore))
    if layers_of_model and layers_of_weights and layers_of_model != layers_of_weights:
        raise UserError(
            f"{tensors.source}: num_hidden_layers is {layers_of_model} in the config, the weights have "
            f"{layers_of_weights} layers"
        )
    absent = [name for name in to_fill if name not in tensors]
    missing = [name for name in absent if not name.startswith(optional)]
    if missing:
        raise UserError(f"{tensors.source}: {_count(missing)} missing: {', '.join(missing)}")

    for part in dict.fromkeys(name.split(".")[0] for name in absent):  # "pooler", "classifier", ...
        # Users search for the official name of the pooler.
        label = "pooled_fc" if part == "pooler" else part
        logger.warning("%s is not in %s, %s starts fresh", label, tensors.source, part)
    filled = [name for name in to_fill if name in tensors]
    for name in filled:
        _set(to_fill[name], finite(name, tensors[name], tensors.source))
    unused = [name for name in tensors if name not in to_fill and not name.startswith(ignore)]
    if unused:
        logger.info("%s: %s not used: %s", tensors.source, _count(unused), ", ".join(unused))
    return [name for name in parameters if name not in filled]


def unread(start: Checkpoint | None, reads_pooler: bool) -> tuple[str, ...]:
    """Prefixes of the names of weights that are neither read nor written: a pooler that would stay random.

    Args:
        start: what a training starts from; None: random weights.
        reads_pooler: whether the training needs the pooler, and trains it.
    """
    return () if reads_pooler or start is None or start.has_pooler else ("pooler.",)


def _set(parameter: paddle.Tensor, array: np.ndarray) -> None:
    """Give a parameter its values, converted to its dtype."""
    if parameter.dtype in STORED_DTYPES:
        # Directly from numpy: a tensor in between would hold the largest table in memory a second time.
        parameter.set_value(np.asarray(array, dtype=str(parameter.dtype).removeprefix("paddle.")))
    else:
        parameter.set_value(paddle.to_tensor(array).astype(parameter.dtype))


def _check_attention_heads(
    model: paddle.nn.Layer, checkpoint: Checkpoint, to_fill: Mapping[str, paddle.Tensor]
) -> None:
    """Compare the number of attention heads, which no shape shows.

    Raises:
        UserError: the model has another number than the checkpoint's config.
    """
    fills_encoder = any(name.startswith("encoder.") for name in to_fill)
    if checkpoint.config is None or not fills_encoder:  # there is nothing to compare
        return
    heads_of_model = getattr(model, "ernie_m", model).config.num_attention_heads
    heads_of_weights = checkpoint.config.num_attention_heads
    if heads_of_weights != heads_of_model:
        raise UserError(
            f"{checkpoint.config_path or checkpoint.path}: num_attention_heads is {heads_of_weights}, "
            f"the model was built with {heads_of_model}; use the config that belongs to the weights"
        )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Weights) -> None:
    """Compare shapes of the model with those of the weights.

    Args:
        shapes: name -> shape in the model.

    Raises:
        UserError: a shape differs; the message gives the config keys behind it.
    """
    wrong = [name for name in shapes if name in tensors and tensors.shape(name) != shapes[name]]
    if not wrong:
        return
    # Config key -> how it differs. The first tensor that shows a key decides.
    differences: dict[str, str] = {}
    for name in wrong:
        for key, in_model, in_weights in zip(tensor_names.axes_of(name), shapes[name], tensors.shape(name)):
            if in_model != in_weights:
                text = f"{key} is {in_model} in the config and {in_weights} in the weights"
                differences.setdefault(key, text)
    first = wrong[0]
    message = (
        f"{tensors.source}: {first} has shape {list(tensors.shape(first))}, the model has "
        f"{list(shapes[first])}"
    )
    if differences:
        message += f": {'; '.join(differences.values())}"
    raise UserError(message)


def _count(names: list[str]) -> str:
    """The number of some tensors, for a message."""
    return f"{len(names)} tensor" if len(names) == 1 else f"{len(names)} tensors"
