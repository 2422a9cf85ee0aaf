"""The format of XLM-R in fairseq: model.pt with weights and training arguments; read-only."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ernie_m.model.checkpoint.convert_names import (
    LM_HEAD,
    ModelClass,
    TensorMapping,
    make_rename_mapping,
    read_float_tensor,
)
from ernie_m.model.checkpoint.foreign.base import ThirdPartyFormat
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import Folder

# Its flag -> native key, for sizes that no shape shows.
_FLAGS = {
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
# Old files have other names of a norm, and q, k and v of a layer stacked in one tensor.
_NORM = re.compile(r"layernorm_embedding\.(weight|bias)")
_FUSED = re.compile(r"(layers\.[0-9]{1,4}\.self_attn)\.in_proj_(weight|bias)")


class Fairseq(ThirdPartyFormat):
    """The format of XLM-R in fairseq; read-only."""

    name = "fairseq"
    # fairseq renamed its model from decoder to encoder.
    any_prefix = r"(?:en|de)coder\.sentence_encoder\.|(?:en|de)coder\.(?=lm_head\.)"
    encoder = {
        "embeddings.word_embeddings": "embed_tokens",
        "embeddings.position_embeddings": "embed_positions",
        "embeddings.layer_norm": "emb_layer_norm",
        "encoder.layers.{i}.self_attn.q_proj": "layers.{i}.self_attn.q_proj",
        "encoder.layers.{i}.self_attn.k_proj": "layers.{i}.self_attn.k_proj",
        "encoder.layers.{i}.self_attn.v_proj": "layers.{i}.self_attn.v_proj",
        "encoder.layers.{i}.self_attn.out_proj": "layers.{i}.self_attn.out_proj",
        "encoder.layers.{i}.norm1": "layers.{i}.self_attn_layer_norm",
        "encoder.layers.{i}.linear1": "layers.{i}.fc1",
        "encoder.layers.{i}.linear2": "layers.{i}.fc2",
        "encoder.layers.{i}.norm2": "layers.{i}.final_layer_norm",
        "pooler.dense": "",
    }
    transposed = True
    classes = {None: ModelClass(has_pooler=False)}
    beside_any_head = LM_HEAD
    older_queries = ("layers.0.self_attn.in_proj_weight",)
    model_types = (None,)

    def read_raw_config(self, folder: Folder, weights: Weights) -> dict[str, Any]:
        """Return the config keys that the training arguments in model.pt contain."""
        return {key: weights.metadata[flag] for flag, key in _FLAGS.items() if flag in weights.metadata}

    def adapt_mappings(
        self, mappings: dict[str, TensorMapping], file: Weights, file_names: Mapping[str, str]
    ) -> dict[str, str]:
        """Convert the tensors of old fairseq versions: the embedding norm, and stacked q, k and v."""
        for bare, name in file_names.items():
            if match := _NORM.fullmatch(bare):
                mappings.setdefault(f"embeddings.layer_norm.{match[1]}", make_rename_mapping(file, name))
            elif match := _FUSED.fullmatch(bare):
                attention, ending = match.groups()
                for part, letter in enumerate("qkv"):
                    mapping = _make_third_mapping(file, name, part)._replace(transposed=ending == "weight")
                    mappings.setdefault(f"encoder.{attention}.{letter}_proj.{ending}", mapping)
        return {}


def _make_third_mapping(file: Weights, name: str, part: int) -> TensorMapping:
    """Return the mapping of q, k or v, one third of a stacked tensor.

    Args:
        part: 0, 1 or 2.

    Raises:
        UserError: the first axis is not a multiple of 3.
    """
    shape = file.shape(name)
    if not shape or shape[0] % 3:
        raise UserError(f"{file.source}: {name} has shape {list(shape)} (expected stacked q, k and v)")
    return TensorMapping(
        (name,), (shape[0] // 3, *shape[1:]), lambda: np.split(read_float_tensor(file, name), 3)[part]
    )
