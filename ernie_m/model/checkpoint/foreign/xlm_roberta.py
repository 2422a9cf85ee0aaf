"""The formats of XLM-R in transformers and PaddleNLP, and of BERT with XLM-R's vocabulary in transformers.

PaddleNLP's format has the same names and config as that of transformers, but linear weights [in, out].
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint.convert_names import (
    CHOICE,
    CLASSIFIER,
    LM,
    LM_HEAD,
    QA_OUTPUTS,
    ModelClass,
    TensorMapping,
    read_float_tensor,
)
from ernie_m.model.checkpoint.foreign import sentence_transformers
from ernie_m.model.checkpoint.foreign.base import ThirdPartyFormat
from ernie_m.model.checkpoint.format import Checkpoint, Source
from ernie_m.model.checkpoint.native_names import LM_BIAS, POSITIONS, WORDS
from ernie_m.model.checkpoint.weights import PIECE_MODELS, TOKENIZER_JSON, Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import Folder

PAD = 1  # the id of [PAD]
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"


class XlmR(ThirdPartyFormat):
    """The format of XLM-R in transformers.

    Attributes:
        rows_before: number of zero rows that the native format has before the format's position embeddings.
    """

    name = "xlm-r"
    prefix = "roberta."
    any_prefix = r"roberta\.|bert\."
    encoder = {
        "embeddings.layer_norm": "embeddings.LayerNorm",
        "encoder.layers.{i}.self_attn.q_proj": "encoder.layer.{i}.attention.self.query",
        "encoder.layers.{i}.self_attn.k_proj": "encoder.layer.{i}.attention.self.key",
        "encoder.layers.{i}.self_attn.v_proj": "encoder.layer.{i}.attention.self.value",
        "encoder.layers.{i}.self_attn.out_proj": "encoder.layer.{i}.attention.output.dense",
        "encoder.layers.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "encoder.layers.{i}.linear1": "encoder.layer.{i}.intermediate.dense",
        "encoder.layers.{i}.linear2": "encoder.layer.{i}.output.dense",
        "encoder.layers.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
    }
    transposed = True
    classes = {
        None: ModelClass("XLMRobertaModel"),
        # transformers 4 initializes the bias randomly, without a warning, if one of its two names is missing.
        LM: ModelClass(
            "XLMRobertaForMaskedLM", has_pooler=False, head=(*LM_HEAD, ("lm_head", "lm_head.decoder"))
        ),
        # A linear layer with tanh on the first token, the native pooler, and the output layer.
        CLASSIFICATION: ModelClass(
            "XLMRobertaForSequenceClassification",
            has_pooler=False,
            head=(("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
        ),
        TOKEN_CLASSIFICATION: ModelClass(
            "XLMRobertaForTokenClassification", has_pooler=False, head=CLASSIFIER
        ),
        QUESTION_ANSWERING: ModelClass("XLMRobertaForQuestionAnswering", has_pooler=False, head=QA_OUTPUTS),
        CHOICE: ModelClass("XLMRobertaForMultipleChoice", head=CLASSIFIER),
    }
    zeros = {TOKEN_TYPES: WORDS}
    rows_before = 0
    model_types = ("xlm-roberta",)  # BERT has the same names, and other positions
    defaults = {"layer_norm_eps": 1e-12}
    has_own_vocab = False
    library = "transformers"
    tokenizer_format = "xlm-roberta"
    keeps_added_tokens = True
    separators = None
    own_keys = {
        "type_vocab_size": 1,
        "position_embedding_type": "absolute",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "classifier_dropout": None,
        "torch_dtype": "float32",
        "use_cache": True,
    }

    def adapt_mappings(
        self, mappings: dict[str, TensorMapping], file: Weights, file_names: Mapping[str, str]
    ) -> dict[str, str]:
        """Add the token-type embedding to the position embeddings; skip the pooler of a masked-LM model."""
        self.add_token_types(mappings, file, file_names.get(TOKEN_TYPES))
        poolers = [name for name in mappings if name.startswith("pooler.")] if LM_BIAS in mappings else []
        untrained = [mappings.pop(name).names[0] for name in poolers]
        return dict.fromkeys(untrained, "untrained, next to a masked-LM head")

    def add_token_types(
        self, mappings: dict[str, TensorMapping], file: Weights, token_types: str | None
    ) -> None:
        """Add row 0 of the token-type embeddings, which all tokens have, to the position embeddings.

        Args:
            mappings: native name -> mapping; modified in place.
            token_types: name of the token-type embeddings in the file, if any.

        Raises:
            UserError: the two matrices have different hidden sizes.
        """
        mapping = mappings.get(POSITIONS)
        if mapping is None or len(mapping.shape) != 2:
            return
        rows, width = mapping.shape
        types_shape = file.shape(token_types) if token_types else (1, width)
        if len(types_shape) != 2 or types_shape[0] < 1 or types_shape[1] != width:
            raise UserError(
                f"{file.source}: {token_types} has shape {list(types_shape)}, which does not match "
                f"the position embeddings, {[rows, width]}"
            )

        def read() -> np.ndarray:
            array = mapping.read()
            row = read_float_tensor(file, token_types)[0] if token_types else np.zeros(0)
            if row.any():  # adding zeros would turn -0.0 into 0.0
                array = array + row
            return np.concatenate([np.zeros((self.rows_before, width), array.dtype), array])

        names = (*mapping.names, token_types) if token_types else mapping.names
        mappings[POSITIONS] = TensorMapping(names, (self.rows_before + rows, width), read)

    def check(self, config: ErnieMConfig) -> None:
        """Check the pad_token_id: XLM-R's positions start after this id, native positions always at 2.

        Raises:
            UserError: pad_token_id is not 1.
        """
        if config.pad_token_id != PAD:
            raise UserError(
                f"invalid pad_token_id {config.pad_token_id} (expected 1: XLM-R's positions start after it)"
            )

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write config.json and model.safetensors; without a task head, also embedding settings."""
        super().write(folder, checkpoint, weights, task)
        if task not in (None, LM):
            return []
        return sentence_transformers.write(folder, checkpoint.required_config, checkpoint.pipeline_config)


class PaddleXlmR(XlmR):
    """The format of XLM-R in PaddleNLP; read-only."""

    name = "paddlenlp-xlm-r"
    transposed = False
    library = ""

    def matches(self, weights: Weights, raw_config: Mapping[str, Any]) -> bool:
        """Return whether weights and config are in this format, and were written by PaddleNLP."""
        is_own_file = ".pdparams" in Path(weights.source).name
        is_marked = "paddlenlp_version" in raw_config and weights.metadata.get("format") != "pt"
        return (is_own_file or is_marked) and super().matches(weights, raw_config)


class Bert(XlmR):
    """The format of BERT in transformers, for models with XLM-R's vocabulary, such as E5-small; read-only."""

    name = "bert"
    prefix = "bert."
    classes = {
        None: ModelClass("BertModel"),
        LM: ModelClass(
            "BertForMaskedLM",
            has_pooler=False,
            head=(
                ("lm_head.dense", "cls.predictions.transform.dense"),
                ("lm_head.layer_norm", "cls.predictions.transform.LayerNorm"),
                ("lm_head", "cls.predictions"),
                ("lm_head", "cls.predictions.decoder"),  # its other name
            ),
        ),
        CLASSIFICATION: ModelClass("BertForSequenceClassification", head=CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("BertForTokenClassification", has_pooler=False, head=CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("BertForQuestionAnswering", has_pooler=False, head=QA_OUTPUTS),
        CHOICE: ModelClass("BertForMultipleChoice", head=CLASSIFIER),
    }
    rows_before = FIRST_POSITION  # BERT's positions start at 0, native ones at 2, as in XLM-R
    model_types = ("bert",)
    library = ""

    def find(self, folder: Folder) -> Source | None:
        """Return the files of a BERT checkpoint in a folder; None: no such checkpoint.

        Raises:
            UserError: the model does not seem to have XLM-R's vocabulary.
        """
        source = super().find(folder)
        if source is None or folder.find_first(PIECE_MODELS):
            return source
        if not str(source.raw_config.get("tokenizer_class")).startswith("XLMRobertaTokenizer"):
            raise UserError(
                f"{source.path}: unsupported BERT vocabulary. Only BERTs with XLM-R's vocabulary, such as "
                "multilingual E5-small, are supported. If it is one, put "
                f"{PIECE_MODELS[1]} or {TOKENIZER_JSON} next to the weights"
            )
        return source

    def adapt_mappings(
        self, mappings: dict[str, TensorMapping], file: Weights, file_names: Mapping[str, str]
    ) -> dict[str, str]:
        """Add the token-type embedding to the position embeddings."""
        self.add_token_types(mappings, file, file_names.get(TOKEN_TYPES))
        return {}

    def read_config(self, source: Source, weights: Weights) -> ErnieMConfig:
        """Return the model's config with XLM-R's positions and pad_token_id.

        The pad_token_id in BERT's config is 0 regardless of the tokenizer.
        """
        raw_config = {**source.raw_config, "pad_token_id": PAD}
        if isinstance(raw_config.get("max_position_embeddings"), int):
            raw_config["max_position_embeddings"] += FIRST_POSITION
        return super().read_config(replace(source, raw_config=raw_config), weights)
