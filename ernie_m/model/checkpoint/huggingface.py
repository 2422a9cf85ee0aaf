"""ErnieM in transformers 4: model.safetensors or pytorch_model.bin, and config.json."""

from ernie_m.model.checkpoint.library import Library
from ernie_m.model.checkpoint.ours import MODEL_TYPE
from ernie_m.model.checkpoint.tensor_names import (
    CHOICE,
    CLASSIFIER,
    QA_OUTPUTS,
    ModelClass,
)
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION


class HuggingFace(Library):
    """ErnieM in transformers 4."""

    name = "huggingface"
    prefix = "ernie_m."
    any_prefix = r"ernie_m\."
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
    model_types = (MODEL_TYPE, "", None)
    is_ernie_m = True
    library = "transformers"
    tokenizer_form = "paddlenlp"
    text_rules = "transformers"
    own_keys = {"classifier_dropout": None, "act_dropout": 0.0, "torch_dtype": "float32"}
