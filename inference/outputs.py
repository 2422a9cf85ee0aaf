"""The outputs of models, whatever runs them, and the files of an exported folder. No paddle here."""

import numpy as np

from model.task_names import ENCODING, OUTPUTS, QUESTION_ANSWERING

# engine -> the file of an exported folder that it runs
FILES = {"paddle": "inference.json", "onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}


def is_per_token(name: str, values: np.ndarray) -> bool:
    """Whether an output has a value for each token [B, T, ...], not one for each row [B, ...]."""
    return values.ndim == 3 or name in OUTPUTS[QUESTION_ANSWERING]


def outputs_of(task: str, layer: int, num_layers: int) -> tuple[str, ...]:
    """The outputs of a model that ends at `layer`: the pooled first token is that of the top layer."""
    return OUTPUTS[task][:1] if task == ENCODING and layer < num_layers else OUTPUTS[task]
