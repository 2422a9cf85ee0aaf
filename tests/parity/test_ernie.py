"""The encoder computes what its peers do, with the same random weights: 3 layers of base, fewer words."""

import numpy as np
import paddle
import paddle.nn.functional as F
import paddlenlp.transformers as paddlenlp
import pytest
import torch
import transformers

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import SequenceClassifier
from tests.helpers.batches import padded_batch

VOCABULARY = 5000
LABELS = 3
PAD_ID = 1
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# (part of our names, what stands for it in theirs), replaced one after the other.
XLM_R = [
    ("ernie_m.pooler.dense", "classifier.dense"),  # its classifier is a pooler and a linear layer
    ("classifier.weight", "classifier.out_proj.weight"),
    ("classifier.bias", "classifier.out_proj.bias"),
    ("embeddings.layer_norm", "embeddings.LayerNorm"),
    ("encoder.layers.", "encoder.layer."),
    ("self_attn.q_proj", "attention.self.query"),
    ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"),
    ("self_attn.out_proj", "attention.output.dense"),
    ("norm1", "attention.output.LayerNorm"),
    ("linear1", "intermediate.dense"),
    ("linear2", "output.dense"),
    ("norm2", "output.LayerNorm"),
    ("ernie_m.", "roberta."),
]


@pytest.fixture(scope="module")
def batch():
    """Ids of several lengths, padded to 48, and labels."""
    rng = np.random.default_rng(0)
    input_ids = rng.integers(4, VOCABULARY, [6, 48])
    input_ids[:, 0] = 0  # [CLS]
    for row, length in enumerate((48, 3, 20, 47, 33, 2)):
        input_ids[row, length - 1] = 2  # [SEP]
        input_ids[row, length:] = PAD_ID
    return input_ids, rng.integers(0, LABELS, 6)


@pytest.fixture(scope="module")
def our_model():
    """Our model; biases and layer norms are random too, or their mapping would not be tested."""
    paddle.seed(0)
    model = SequenceClassifier(ErnieMConfig(**SHAPE), LABELS)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.set_value(paddle.normal(mean, 0.1, parameter.shape))
    return model


@pytest.fixture(scope="module")
def our_results(our_model, batch):
    """The states of all layers [B, T, H], the pooled ones [B, H], all gradients, and the attentions."""
    input_ids, labels = batch
    inputs = padded_batch(input_ids)
    output = our_model.ernie_m.encode(inputs, output_hidden_states=True, output_attentions=True)
    pooled = our_model.ernie_m.pooler(paddle.gather(output.sequence, inputs.first_tokens))
    F.cross_entropy(our_model.classifier(pooled), paddle.to_tensor(labels)).backward()
    gradients = {name: p.grad.numpy() for name, p in our_model.named_parameters()}
    states = [inputs.to_padded(layer).numpy() for layer in output.hidden_states]
    return states, pooled.numpy(), gradients, [weights.numpy() for weights in output.attentions]


def is_transposed(name: str, array: np.ndarray) -> bool:
    """Whether a tensor is the weight of a linear layer: [out, in] in torch, [in, out] in Paddle."""
    return array.ndim == 2 and "_embeddings." not in name


def to_torch(model, names: list[tuple[str, str]]) -> dict[str, tuple[str, np.ndarray]]:
    """Our name -> the name and the value of the same tensor in torch. `names`: what is replaced in names."""
    mapped = {}
    for name, parameter in model.named_parameters():
        array = parameter.numpy()
        reference_name = name
        for pattern, replacement in names:
            reference_name = reference_name.replace(pattern, replacement)
        mapped[name] = (reference_name, array.T if is_transposed(name, array) else array)
    return mapped


def load_torch(reference: torch.nn.Module, state: dict[str, np.ndarray]) -> None:
    """Fill a model of torch. It may lack its table of position numbers, which is not a parameter."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    missing, unexpected = reference.load_state_dict(tensors, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)


def assert_states_agree(
    states: list[np.ndarray], reference_states: list[np.ndarray], is_real: np.ndarray
) -> None:
    """The states of all layers agree within 1e-4 where there are no pads."""
    assert len(states) == len(reference_states) == SHAPE["num_hidden_layers"] + 1
    for layer, peer_layer in zip(states, reference_states):
        assert np.abs(layer[is_real] - peer_layer[is_real]).max() < 1e-4


def assert_gradients_agree(
    gradients: dict[str, np.ndarray], reference_gradients: dict[str, np.ndarray]
) -> None:
    """The gradients agree within 0.1 % of the largest number of each."""
    assert gradients.keys() == reference_gradients.keys()
    for name, gradient in gradients.items():
        # A bias of the keys shifts all scores of a row alike: its gradient is 0, and noise in any program.
        # The noise is compared with the gradient of the queries' bias.
        scale = np.abs(gradients[name.replace("k_proj.bias", "q_proj.bias")]).max()
        assert scale > 1e-6, name
        assert np.abs(gradient - reference_gradients[name]).max() / scale < 1e-3, name


def test_paddlenlp_computes_the_same(our_model, our_results, batch):
    states, pooled, gradients, _ = our_results
    reference = paddlenlp.ErnieMForSequenceClassification(paddlenlp.ErnieMConfig(**SHAPE, num_labels=LABELS))
    names = {name for name, _ in our_model.named_parameters()}
    assert {name for name, _ in reference.named_parameters()} == names
    reference.set_state_dict(our_model.state_dict())
    input_ids, labels = (paddle.to_tensor(array) for array in batch)
    mask = (input_ids != PAD_ID).astype("int64")
    output = reference.ernie_m(input_ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
    assert_states_agree(states, [h.numpy() for h in output.hidden_states], batch[0] != PAD_ID)
    assert np.abs(output.pooler_output.numpy() - pooled).max() < 1e-4
    F.cross_entropy(reference(input_ids, attention_mask=mask), labels).backward()
    assert_gradients_agree(gradients, {name: p.grad.numpy() for name, p in reference.named_parameters()})


def test_xlm_r_equals_transformers(our_model, our_results, batch):
    states, pooled, gradients, attentions = our_results
    shape = SHAPE | {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": PAD_ID}
    reference = transformers.XLMRobertaForSequenceClassification(
        transformers.XLMRobertaConfig(
            **shape, num_labels=LABELS, classifier_dropout=0.0, attn_implementation="eager"
        )
    )
    mapped = to_torch(our_model, XLM_R)
    state = dict(mapped.values())
    # XLM-R adds its one token type at every position. Our position table has the sum of both tables.
    token_type = np.random.default_rng(1).normal(0, 0.02, [1, 768]).astype("float32")
    state["roberta.embeddings.token_type_embeddings.weight"] = token_type
    state["roberta.embeddings.position_embeddings.weight"] = (
        state["roberta.embeddings.position_embeddings.weight"] - token_type
    )
    load_torch(reference, state)
    input_ids, labels = (torch.from_numpy(array) for array in batch)
    mask = (input_ids != PAD_ID).long()
    output = reference(
        input_ids, attention_mask=mask, labels=labels, output_hidden_states=True, output_attentions=True
    )
    for weights, reference_weights in zip(attentions, output.attentions, strict=True):
        difference = np.abs(weights - reference_weights.detach().numpy())  # [B, heads, T, T]
        assert difference.max(axis=(1, 3))[batch[0] != PAD_ID].max() < 1e-6
    assert_states_agree(states, [h.detach().numpy() for h in output.hidden_states], batch[0] != PAD_ID)
    peer_pooled = torch.tanh(reference.classifier.dense(output.hidden_states[-1][:, 0])).detach().numpy()
    assert np.abs(peer_pooled - pooled).max() < 1e-4
    output.loss.backward()
    assert_gradients_agree(gradients, torch_gradients(reference, mapped))


def torch_gradients(reference, mapped: dict[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The gradients of a model of torch under our names, transposed as ours are.

    `mapped`: from `to_torch`.
    """
    reference_gradients = {
        name: parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    }
    gradients = {}
    for name, (reference_name, _) in mapped.items():
        gradient = reference_gradients[reference_name]
        gradients[name] = gradient.T if is_transposed(name, gradient) else gradient
    return gradients
