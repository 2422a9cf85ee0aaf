"""One model here and in transformers: the outputs of both for one batch, and their comparison."""

import numpy as np
import paddle
import torch
import transformers

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write_foreign import TARGETS
from ernie_m.model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from ernie_m.model.lm_head import PreTrainingModel
from tests.helpers.batches import padded_batch
from tests.toys import CONFIG, OUTPUTS, make_ours

XLM_R_HEADS = [None, "lm", "classification", "token-classification", "question-answering", "choice"]


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Random ids [3, 9], in the second row with pads, and the attention mask [3, 9]."""
    ids = np.random.default_rng(1).integers(4, CONFIG["vocab_size"], size=(3, 9))
    ids[:, 0] = 0  # [CLS]
    ids[:, -1] = 2  # [SEP]
    ids[1, 6:] = 1  # pads
    return ids, (ids != 1).astype("int64")


def make(folder, head: str | None):
    """Write a folder of ours with random weights, and return the weights.

    `head`: a head of a format's `classes`; "lm": a masked-LM head; None: an encoder.
    """
    if head == "lm":
        return make_ours(folder, lm_head=True, pooler=False)
    return make_ours(folder, head=head)


def run_ours(folder, head: str | None, ids: np.ndarray) -> list[np.ndarray]:
    """The outputs of our model in `folder`. An encoder has no class, and is computed here."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    models = {
        "classification": lambda: SequenceClassifier(config, OUTPUTS["classification"]),
        "choice": lambda: SequenceClassifier(config, 1),
        "token-classification": lambda: TokenClassifier(config, OUTPUTS["token-classification"]),
        "question-answering": lambda: SpanClassifier(config),
        "lm": lambda: PreTrainingModel(config, ["en"]),
    }
    optional = ("pooler.", "language_embeddings.")  # what the folder may lack
    if head in models:
        model = models[head]()
        load_weights(model, checkpoint, optional)
    else:  # the encoder alone, for which any model will do
        model = models["lm"]()
        load_weights(model, checkpoint, optional, ignore=("lm_head.",))
    model.eval()
    inputs = padded_batch(ids)
    with paddle.no_grad():
        if head == "choice":
            return [model(inputs).numpy().reshape(1, -1)]  # one question, whose choices are the rows
        if head in models and head != "lm":
            outputs = model(inputs)
            if not isinstance(outputs, tuple):  # a tuple has the logits of start and end
                outputs = (outputs,)
            return [output.numpy() for output in outputs]
        states = model.ernie_m.encode(inputs).sequence  # [N, H]
        padded = inputs.to_padded(states)  # [B, T, H]
        if head == "lm":
            return [model.lm_head(padded).numpy()]
        pooled = model.ernie_m.pooler(paddle.gather(states, inputs.first_tokens))
        return [padded.numpy(), pooled.numpy()]


def load_torch(target: str, head: str | None, folder):
    """The model of a folder in transformers, which must find every tensor and leave none.

    `target`: a key of `TARGETS`.
    """
    model_class = getattr(transformers, TARGETS[target].classes[head].name)
    model, loading = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def run_torch(model, head: str | None, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The outputs of the model of transformers. For "choice" the batch is one question with three choices."""
    arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if head == "choice":
        arguments = {name: tensor[None] for name, tensor in arguments.items()}  # [1, 3, T]
    with torch.no_grad():
        output = model.eval()(**arguments)
    if head is None:
        return [output.last_hidden_state.numpy(), output.pooler_output.numpy()]
    if head == "question-answering":
        return [output.start_logits.numpy(), output.end_logits.numpy()]
    return [output.logits.numpy()]


def assert_close(
    outputs: list[np.ndarray], expected: list[np.ndarray], mask: np.ndarray, atol: float = 1e-4
) -> None:
    """Outputs agree within `atol`, except at padding."""
    for output, expected_output in zip(outputs, expected, strict=True):
        assert output.shape == expected_output.shape
        if output.shape[:2] == mask.shape:  # one output for each token
            output = output[mask == 1]
            expected_output = expected_output[mask == 1]
        np.testing.assert_allclose(output, expected_output, atol=atol)
