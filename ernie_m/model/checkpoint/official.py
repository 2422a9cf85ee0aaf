"""The official checkpoint format: params/ with a file per variable, and ernie_config.json next to it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.checkpoint.convert_names import CHOICE, ModelClass, TensorMapping
from ernie_m.model.checkpoint.format import Checkpoint, Format, Source
from ernie_m.model.checkpoint.native_names import BIAS, LINEAR, NORM, OUTPUT, TABLE, count_layers
from ernie_m.model.checkpoint.weights import PIECE_MODELS, PIECES, VOCAB, VOCABS, Weights, find_weights_name
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import ERNIE_M_RULES
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import Folder, atomic_dir, write_json

CONFIG = "ernie_config.json"
MARK = "word_embedding"  # the variable that every official directory has
# The keys that the official code reads.
_KEYS = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)


class OfficialFormat(Format):
    """The official checkpoint format."""

    name = "official"
    encoder = {
        "embeddings.word_embeddings": MARK,
        "embeddings.position_embeddings": "pos_embedding",
        "embeddings.layer_norm": "pre_encoder_layer_norm",
        "encoder.layers.{i}.self_attn.q_proj": "encoder_layer_{i}_multi_head_att_query_fc",
        "encoder.layers.{i}.self_attn.k_proj": "encoder_layer_{i}_multi_head_att_key_fc",
        "encoder.layers.{i}.self_attn.v_proj": "encoder_layer_{i}_multi_head_att_value_fc",
        "encoder.layers.{i}.self_attn.out_proj": "encoder_layer_{i}_multi_head_att_output_fc",
        "encoder.layers.{i}.norm1": "encoder_layer_{i}_post_att_layer_norm",
        "encoder.layers.{i}.linear1": "encoder_layer_{i}_ffn_fc_0",
        "encoder.layers.{i}.linear2": "encoder_layer_{i}_ffn_fc_1",
        "encoder.layers.{i}.norm2": "encoder_layer_{i}_post_ffn_layer_norm",
        "pooler.dense": "pooled_fc",
    }
    endings = {
        TABLE: ("", None),
        NORM: ("_scale", "_bias"),
        LINEAR: (".w_0", ".b_0"),
        OUTPUT: ("_w", "_b"),
        BIAS: (None, ".b_0"),
    }
    classes = {
        None: ModelClass(),
        CLASSIFICATION: ModelClass(head=(("classifier", "cls_out"),)),
        TOKEN_CLASSIFICATION: ModelClass(head=(("classifier", "cls_seq_label_out"),)),
        QUESTION_ANSWERING: ModelClass(head=(("classifier", "cls_mrc_out"),)),
    }
    # The masked-LM head was never released: its names are those of related models.
    beside_any_head = (
        ("lm_head.dense", "mask_lm_trans_fc"),
        ("lm_head.layer_norm", "mask_lm_trans_layer_norm"),
        ("lm_head", "mask_lm_out_fc"),
    )
    library = "paddle"
    text_rules = ERNIE_M_RULES
    separators = 1

    def find(self, folder: Folder) -> Source | None:
        """Return the files of an official parameter directory: the folder itself, or its subfolder params/.

        None: no such directory, or the folder has other weights, which have precedence.

        Raises:
            UserError: the directory has heads of several tasks, or a file is not a valid LoDTensor file.
        """
        if find_weights_name(folder):
            return None
        params = folder if MARK in folder else Folder(folder.path / "params")
        if MARK not in params:
            return None
        above = Folder(params.path.resolve().parent)
        locations = [params, above] if params.path.name == "params" else [params]
        # configs/base and configs/large share the tokenizer in configs/.
        shared = Folder(locations[-1].path.resolve().parent)
        has_tokenizer = VOCAB in shared and PIECES in shared
        config_folder = params if CONFIG in params else above
        weights = self._read(params)
        tasks = self.find_tasks(weights, None)
        if len(tasks) > 1:
            raise UserError(
                f"{params.path}: found heads of {len(tasks)} tasks ({', '.join(tasks)}). Keep the files of "
                "one and move the others elsewhere"
            )
        return Source(
            folder=locations[-1],
            weights=weights,
            raw_config=config_folder.read_object(CONFIG),
            config_path=config_folder.find_first([CONFIG]),
            tokenizer_folders=(*locations, shared) if has_tokenizer else tuple(locations),
            tasks=tasks,
            root=folder,
        )

    def _read(self, params: Folder) -> Weights:
        """Open the variables of a parameter directory: read all headers now, and data when it is accessed.

        Raises:
            UserError: a file is truncated, too long or not a LoDTensor file.
        """
        layers = count_layers(params.names, self.query_name)
        rows = [row for task in self.classes for row in self.list_tensors(layers, task)]
        names = dict.fromkeys(row.in_format for row in rows if row.in_format in params)  # unique
        headers = {name: lod_tensors.read_header(params.path / name) for name in names}
        shapes = {name: header.shape for name, header in headers.items()}
        # Fine-tuning leaves Adam's state and counters in the directory.
        others = params.names.difference(names, (CONFIG, *VOCABS, *PIECE_MODELS))
        return Weights(
            params.path, shapes, lambda name: headers[name].read_data(), other_names=sorted(others)
        )

    def adapt_mappings(
        self, mappings: dict[str, TensorMapping], file: Weights, file_names: Mapping[str, str]
    ) -> dict[str, str]:
        """Skip files of the directory that are not variables of the model, with the reason."""
        taken = {mapping.names[0] for mapping in mappings.values()}
        others = [name for name in (*file, *file.other_names) if name not in taken]
        return dict.fromkeys(others, "not a variable of the model")

    def select_model_class(self, task: str | None, tensors: Iterable[str]) -> str | None:
        """Return the key of `classes` for a task; a multiple-choice head has the name of a classifier."""
        return super().select_model_class(CLASSIFICATION if task == CHOICE else task, tensors)

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write params/ and ernie_config.json, replacing existing ones."""
        write_official(folder, weights, checkpoint.required_config)
        return []


def write_official(folder: Path, weights: Weights, config: ErnieMConfig) -> None:
    """Write params/ with weights in float32, and ernie_config.json, replacing existing ones.

    Args:
        weights: tensors under official names.

    Raises:
        UserError: the official code does not support a value of the config, or the disk is full.
    """
    check_fixed_sizes(config, "the official format")
    with atomic_dir(folder / "params") as params:
        for name in weights:
            lod_tensors.write(params / name, np.asarray(weights[name], np.float32))
    write_config(folder / CONFIG, config.to_dict())


def write_config(path: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Write ernie_config.json with the keys that the official code reads."""
    write_json(path, {key: config[key] for key in _KEYS})


def check_fixed_sizes(config: ErnieMConfig, library: str) -> None:
    """Check config values that are fixed in a library instead of being stored.

    Args:
        library: name of the library, for the message.

    Raises:
        UserError: a value differs from the library's.
    """
    for key, value in {"intermediate_size": 4 * config.hidden_size, "layer_norm_eps": 1e-5}.items():
        if getattr(config, key) != value:
            raise UserError(f"invalid {key} {getattr(config, key)} (expected {value} for {library})")
