"""One model here and in transformers: the outputs of both for one batch, and their comparison."""

import numpy as np
import paddle
import torch
import transformers

from model.checkpoint.formats import tables
from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.heads import PreTrainingModel, SequenceClassifier, SpanClassifier, TokenClassifier
from tests.helpers.batches import padded_batch
from tests.helpers.toy_models import CONFIG, LABELS, make_ours

XLM_R_HEADS = [None, "lm", "classification", "tagging", "question_answering", "choice"]


def batch() -> tuple[np.ndarray, np.ndarray]:
    """ids [3, 9] with pads, and the mask."""
    rng = np.random.default_rng(1)
    ids = rng.integers(4, CONFIG["vocab_size"], size=(3, 9))
    ids[:, 0] = 0  # [CLS]
    ids[:, -1] = 2  # [SEP]
    ids[1, 6:] = 1  # pads
    return ids, (ids != 1).astype("int64")


def make(folder, head: str | None):
    """Write a folder of ours with random weights of this kind."""
    kind = {"lm_head": True, "pooler": False} if head == "lm" else {"head": head}
    return make_ours(folder, **kind)


def of_ours(folder, head: str | None, ids: np.ndarray) -> list[np.ndarray]:
    """The outputs of our model. Kinds for which we have no class are computed here."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    models = {
        "classification": lambda: SequenceClassifier(config, LABELS["classification"]),
        "choice": lambda: SequenceClassifier(config, 1),
        "tagging": lambda: TokenClassifier(config, LABELS["tagging"]),
        "question_answering": lambda: SpanClassifier(config),
        "lm": lambda: PreTrainingModel(config, ["en"]),
    }
    optional = ("pooler.", "language_embeddings.")
    model = models.get(head, models["lm"])()
    skip = () if head in models else ("lm_head.", "linear_")
    load_from(model, checkpoint, optional, skip)
    model.eval()
    inputs = padded_batch(ids)
    with paddle.no_grad():
        if head == "choice":
            return [model(inputs).numpy().reshape(1, -1)]
        if head in models and head != "lm":
            out = model(inputs)
            return [o.numpy() for o in out] if isinstance(out, tuple) else [out.numpy()]
        states = model.ernie_m.encode(inputs).sequence  # [N, H]
        padded = inputs.padded(states)  # [B, T, H]
        if head == "lm":
            return [model.lm_head(padded).numpy()]
        if head == "uie":
            outputs = []
            for part in ("linear_start", "linear_end"):
                weight = checkpoint.tensors[f"{part}.weight"]
                logits = padded.numpy() @ weight + checkpoint.tensors[f"{part}.bias"]  # [B, T, 1]
                outputs.append(1 / (1 + np.exp(-logits[..., 0])))
            return outputs
        pooled = model.ernie_m.pooler(paddle.gather(states, inputs.first_tokens))
        return [padded.numpy(), pooled.numpy()]


def load_torch(library: str, head: str | None, folder):
    """The model of this folder in transformers, with exactly the same weights."""
    model_class = getattr(transformers, tables.CLASSES[library][head].name)
    model, loading = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def of_torch(model, head: str | None, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The outputs of the model of transformers. For "choice" the batch is one question with three choices."""
    arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if head == "choice":
        arguments = {name: tensor[None] for name, tensor in arguments.items()}
    with torch.no_grad():
        out = model.eval()(**arguments)
    if head is None:
        return [out.last_hidden_state.numpy(), out.pooler_output.numpy()]
    if head in ("question_answering", "uie"):
        return [out.start_logits.numpy(), out.end_logits.numpy()]
    return [out.logits.numpy()]


def assert_close(outputs: list[np.ndarray], expected: list[np.ndarray], mask: np.ndarray) -> None:
    """Outputs agree within 1e-4, except at padding."""
    for output, expected_output in zip(outputs, expected, strict=True):
        assert output.shape == expected_output.shape
        if output.shape[:2] == mask.shape:  # one output for each token
            output = output[mask == 1]
            expected_output = expected_output[mask == 1]
        np.testing.assert_allclose(output, expected_output, atol=1e-4)
