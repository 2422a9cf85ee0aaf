"""Weights into a model, by name and shape, with one clear line when they do not fit."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import paddle

from model.checkpoint.formats import tables as names
from model.checkpoint.formats.weights import Weights
from model.checkpoint.training_state import as_numpy
from utils.errors import UserError

_ENCODER = "ernie_m."  # the prefix of the encoder's parameters within a task model
log = logging.getLogger(__name__)


class LoadReport(NamedTuple):
    """Canonical names: filled from the weights; left as initialised; in the weights but not used."""

    loaded: list[str]
    fresh: list[str]
    unused: list[str]


def parameters_of(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """The parameters of an encoder or task model under canonical names. A tied parameter appears once."""
    return {name.removeprefix(_ENCODER): parameter for name, parameter in model.named_parameters()}


def model_weights(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """A model's parameters as arrays under canonical names: float64 as it is, all else as float32.

    On a CPU the arrays share the parameters' memory: use them before the next training step.
    """
    return {name: _single_or_double(parameter) for name, parameter in parameters_of(model).items()}


def load_into(
    model: paddle.nn.Layer,
    weights: Mapping[str, np.ndarray],
    optional: tuple[str, ...] = ("pooler.",),
    ignore: tuple[str, ...] = (),
) -> LoadReport:
    """Fill a model by name. All names and shapes are checked before the first parameter is touched.

    Args:
        model: an encoder, or a model with one as `.ernie_m`.
        weights: canonical name -> array.
        optional: prefixes of names that may be absent; they stay as initialised and the log says so. With
            "classifier." a task starts from pre-trained weights; without it the head must be there.
        ignore: prefixes of names that are passed over on both sides.

    Raises:
        UserError: a shape that differs (with the config key to look at), more layers than the model has,
            or missing names, listed.
    """
    weights = Weights.of(weights)
    parameters = parameters_of(model)
    wanted = {name: p for name, p in parameters.items() if not name.startswith(ignore)}
    _check_shapes({name: tuple(p.shape) for name, p in wanted.items()}, weights)
    _check_layers(wanted, weights, ignore)
    absent = [name for name in wanted if name not in weights]
    missing = [name for name in absent if not name.startswith(optional)]
    if missing:
        raise UserError(f"{weights.source}: {_count(missing)} missing: {', '.join(missing)}")

    for group in dict.fromkeys(name.split(".")[0] for name in absent):
        label = (
            "pooled_fc" if group == "pooler" else group
        )  # pooled_fc: the official name, which people search for
        log.warning("%s is not in %s, %s starts fresh", label, weights.source, group)
    loaded = [name for name in wanted if name in weights]
    for name in loaded:
        _fill(wanted[name], weights[name])
    done = set(loaded)
    unused = [name for name in weights if name not in done]
    if unused:
        log.info("%s: %s not used: %s", weights.source, _count(unused), ", ".join(unused))
    return LoadReport(loaded, [name for name in parameters if name not in done], unused)


def _check_shapes(wanted: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    wrong = [name for name in wanted if name in weights and weights.shape(name) != wanted[name]]
    if not wrong:
        return
    # key -> (what the model was built with, what the weights say); the first tensor that shows a key decides
    keys: dict[str, tuple[int, int]] = {}
    for name in wrong:
        for key, ours, theirs in zip(names.axes_of(name), wanted[name], weights.shape(name), strict=False):
            if ours != theirs:
                keys.setdefault(key, (ours, theirs))
    blame = "; ".join(
        f"{key} is {ours} in the config and {theirs} in the weights" for key, (ours, theirs) in keys.items()
    )
    first = wrong[0]
    others = f" (and {_count(wrong[1:])} more)" if len(wrong) > 1 else ""
    raise UserError(
        f"{weights.source}: {first} has shape {list(weights.shape(first))}, "
        f"the model has {list(wanted[first])}{others}" + (f": {blame}" if blame else "")
    )


def _check_layers(wanted: Mapping[str, paddle.Tensor], weights: Weights, ignore: tuple[str, ...]) -> None:
    ours = names.count_layers(wanted)
    theirs = names.count_layers(name for name in weights if not name.startswith(ignore))
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{weights.source}: num_hidden_layers is {ours} in the config, the weights have {theirs} layers"
            f" ({'missing' if ours > theirs else 'left over'}: encoder.layers.{min(ours, theirs)}.* and on)"
        )


def _fill(parameter: paddle.Tensor, array: np.ndarray) -> None:
    if parameter.dtype in (paddle.float32, paddle.float64):
        # Straight from numpy: by way of a tensor the largest table would stand in memory once more.
        parameter.set_value(np.asarray(array, dtype=str(parameter.dtype).removeprefix("paddle.")))
    else:
        parameter.set_value(paddle.to_tensor(array).astype(parameter.dtype))


def _count(listed: list[str]) -> str:
    return f"{len(listed)} tensor{'' if len(listed) == 1 else 's'}"


def _single_or_double(parameter: paddle.Tensor) -> np.ndarray:
    if parameter.dtype not in (paddle.float32, paddle.float64):
        parameter = parameter.detach().astype("float32")
    return as_numpy(parameter)
