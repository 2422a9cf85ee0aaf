"""The formats of ErnieM in PaddleNLP and in transformers 4: config.json, and nearly native tensor names.

PaddleNLP writes model_state.pdparams or model.safetensors; transformers model.safetensors or
pytorch_model.bin.
"""

from pathlib import Path

from ernie_m.model.checkpoint.convert_names import CHOICE, CLASSIFIER, QA_OUTPUTS, ModelClass
from ernie_m.model.checkpoint.foreign import restricted_pickle
from ernie_m.model.checkpoint.foreign.base import ThirdPartyFormat
from ernie_m.model.checkpoint.format import Checkpoint
from ernie_m.model.checkpoint.native import MODEL_TYPE
from ernie_m.model.checkpoint.official import check_fixed_sizes
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION


class _ErnieMFormat(ThirdPartyFormat):
    """Base class of the formats of ErnieM in PaddleNLP and in transformers."""

    prefix = "ernie_m."
    any_prefix = r"ernie_m\."
    model_types = (MODEL_TYPE, "", None)
    is_ernie_m = True
    tokenizer_format = "paddlenlp"


class PaddleNLP(_ErnieMFormat):
    """The format of ErnieM in PaddleNLP, which ignores the key intermediate_size and always saves 3072."""

    name = "paddlenlp"
    classes = {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", head=CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("ErnieMForTokenClassification", head=CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", head=CLASSIFIER),
        CHOICE: ModelClass("ErnieMForMultipleChoice", head=CLASSIFIER),
    }
    ignored = "intermediate_size"
    library = "paddlenlp"
    text_rules = "paddlenlp"
    own_keys = {"type_vocab_size": 16, "dtype": "float32"}
    further_keys = ()

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write config.json and model_state.pdparams, which old versions of PaddleNLP require."""
        check_fixed_sizes(checkpoint.required_config, "PaddleNLP")
        self.write_config(folder, checkpoint, task)
        restricted_pickle.write_pdparams(folder / "model_state.pdparams", weights)
        return []


class HuggingFace(_ErnieMFormat):
    """The format of ErnieM in transformers 4."""

    name = "huggingface"
    encoder = {  # doubled for q, k and v only
        "encoder.layers.{i}.self_attn.q_proj": "encoder.layers.{i}.self_attn.self_attn.q_proj",
        "encoder.layers.{i}.self_attn.k_proj": "encoder.layers.{i}.self_attn.self_attn.k_proj",
        "encoder.layers.{i}.self_attn.v_proj": "encoder.layers.{i}.self_attn.self_attn.v_proj",
    }
    transposed = True
    classes = {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", head=CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("ErnieMForTokenClassification", has_pooler=False, head=CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", has_pooler=False, head=QA_OUTPUTS),
        CHOICE: ModelClass("ErnieMForMultipleChoice", head=CLASSIFIER),
    }
    library = "transformers"
    text_rules = "transformers"
    own_keys = {"classifier_dropout": None, "act_dropout": 0.0, "torch_dtype": "float32"}
