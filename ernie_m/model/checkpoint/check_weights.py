"""Validation of a checkpoint's tensors against a model. Does not import Paddle."""

from collections.abc import Mapping

from ernie_m.model.checkpoint import native_names
from ernie_m.model.checkpoint.format import Checkpoint
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.utils.errors import UserError

# Prefixes of tensor names outside the encoder.
HEADS = ("classifier.", "lm_head.", "language_embeddings.")


def check_weights(
    shapes: Mapping[str, tuple[int, ...]],
    config: ErnieMConfig,
    checkpoint: Checkpoint,
    optional: tuple[str, ...] = (),
) -> None:
    """Check that a checkpoint has all tensors that a model loads, in the expected shapes.

    Args:
        shapes: native name -> shape of each tensor that the model loads.
        config: the model's config.
        optional: prefixes of names that the checkpoint may lack.

    Raises:
        UserError: a shape differs (with the config key), the number of layers or attention heads differs, or
            names are missing.
    """
    tensors = checkpoint.tensors
    _check_attention_heads(config, checkpoint, shapes)
    _check_shapes(shapes, tensors)
    layers_of_model = native_names.count_layers(shapes)  # 0 if the model takes no layers
    layers_of_weights = native_names.count_layers(tensors)
    if layers_of_model and layers_of_weights and layers_of_model != layers_of_weights:
        raise UserError(
            f"{tensors.source}: invalid num_hidden_layers (config: "
            f"{layers_of_model}, weights: {layers_of_weights})"
        )
    missing = [name for name in shapes if name not in tensors and not name.startswith(optional)]
    if missing:
        raise UserError(f"{tensors.source}: {format_tensor_count(missing)} missing: {', '.join(missing)}")


def list_unused_parts(checkpoint: Checkpoint | None, reads_pooler: bool) -> tuple[str, ...]:
    """Return the name prefixes of weights that are neither loaded nor saved: those of an untrained pooler.

    Args:
        checkpoint: the initial checkpoint; None: random weights.
        reads_pooler: whether the model uses, and so trains, the pooler.
    """
    return () if reads_pooler or checkpoint is None or checkpoint.has_pooler else ("pooler.",)


def _check_attention_heads(
    config: ErnieMConfig, checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check the number of attention heads, which tensor shapes do not determine.

    Raises:
        UserError: the model's config and the checkpoint's config differ.
    """
    fills_encoder = any(name.startswith("encoder.") for name in shapes)
    if checkpoint.config is None or not fills_encoder:  # nothing to compare
        return
    heads_of_model = config.num_attention_heads
    heads_of_weights = checkpoint.config.num_attention_heads
    if heads_of_weights != heads_of_model:
        raise UserError(
            f"{checkpoint.config_path or checkpoint.path}: num_attention_heads {heads_of_weights} "
            f"does not match the model's {heads_of_model}. Use the config of these weights"
        )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Weights) -> None:
    """Check the shapes of the tensors that the model loads.

    Args:
        shapes: name -> shape in the model.

    Raises:
        UserError: a shape differs; the message names the config keys that differ.
    """
    wrong = [name for name in shapes if name in tensors and tensors.shape(name) != shapes[name]]
    if not wrong:
        return
    # Config key -> the difference. The first tensor with a key decides.
    differences: dict[str, str] = {}
    for name in wrong:
        for key, in_model, in_weights in zip(native_names.find_axes(name), shapes[name], tensors.shape(name)):
            if in_model != in_weights:
                text = f"{key} is {in_model} in the config and {in_weights} in the weights"
                differences.setdefault(key, text)
    first = wrong[0]
    message = (
        f"{tensors.source}: {first} has shape {list(tensors.shape(first))}, the "
        f"model has {list(shapes[first])}"
    )
    if differences:
        message += f": {'; '.join(differences.values())}"
    raise UserError(message)


def format_tensor_count(names: list[str]) -> str:
    """Format the number of tensors for a message, such as "2 tensors"."""
    return f"{len(names)} tensor" if len(names) == 1 else f"{len(names)} tensors"
