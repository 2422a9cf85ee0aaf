"""A BERT of transformers with XLM-R's vocabulary, such as multilingual E5-small; only read."""

from collections.abc import Mapping
from dataclasses import replace

from ernie_m.model.checkpoint.files import PIECE_MODELS, TOKENIZER_JSON
from ernie_m.model.checkpoint.format import Source
from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.model.checkpoint.tensor_names import CHOICE, CLASSIFIER, LM, QA_OUTPUTS, ModelClass
from ernie_m.model.checkpoint.translation import Recipe
from ernie_m.model.checkpoint.xlm_r import PAD, TOKEN_TYPES, XlmR
from ernie_m.model.config import FIRST_POSITION, ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.errors import UserError
from ernie_m.utils.folder import Folder


class Bert(XlmR):
    """A BERT with XLM-R's vocabulary; its other files are XLM-R's."""

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
                ("lm_head", "cls.predictions.decoder"),  # its second name
            ),
        ),
        CLASSIFICATION: ModelClass("BertForSequenceClassification", head=CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("BertForTokenClassification", has_pooler=False, head=CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("BertForQuestionAnswering", has_pooler=False, head=QA_OUTPUTS),
        CHOICE: ModelClass("BertForMultipleChoice", head=CLASSIFIER),
    }
    rows_before = FIRST_POSITION  # BERT counts positions from 0, and we from 2, as XLM-R does
    model_types = ("bert",)
    library = ""

    def find(self, folder: Folder) -> Source | None:
        """The model in a folder.

        Raises:
            UserError: nothing says that it has the vocabulary of XLM-R.
        """
        source = super().find(folder)
        if source is None or folder.first(PIECE_MODELS):
            return source
        if not str(source.raw_config.get("tokenizer_class")).startswith("XLMRobertaTokenizer"):
            raise UserError(
                f"{source.path}: a BERT with a vocabulary of its own; of BERT's form only models with "
                "XLM-R's vocabulary can be read, such as multilingual E5-small, and those have "
                f"{PIECE_MODELS[1]} or {TOKENIZER_JSON} beside the weights"
            )
        return source

    def adapt(self, recipes: dict[str, Recipe], file: Weights, in_file: Mapping[str, str]) -> dict[str, str]:
        """Add the token types alone: a pooler was trained with the head of next sentence prediction."""
        self.add_token_types(recipes, file, in_file.get(TOKEN_TYPES))
        return {}

    def config(self, source: Source, weights: Weights) -> ErnieMConfig:
        """The shape with XLM-R's positions and its [PAD]; that of BERT is 0 whatever the tokenizer says."""
        raw_config = {**source.raw_config, "pad_token_id": PAD}
        if isinstance(raw_config.get("max_position_embeddings"), int):
            raw_config["max_position_embeddings"] += FIRST_POSITION
        return super().config(replace(source, raw_config=raw_config), weights)
