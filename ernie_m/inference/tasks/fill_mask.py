"""Mask filling with the masked-LM head, in Paddle.

The model is a checkpoint with the head: the directory full/ of run_pretrain.py, or XLM-R. Predicting tokens
of a given language also requires language embeddings.
"""

from itertools import islice
from typing import ClassVar, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.inference.load import LoadedModel, load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    check_length,
    get_caveats,
    read_text_key,
)
from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device_transfer import upload
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.tasks import FILL_MASK
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary import MASK
from ernie_m.utils.errors import UserError

_AT_ONCE = 64  # rows of logits, [64, V]


class MaskedText(NamedTuple):
    """A tokenized request.

    Attributes:
        ids: the token ids of the text, with special tokens.
        language: the index of the language of the predicted tokens; None: any language.
        unknown: the caveats of the prediction, from `get_caveats`.
    """

    ids: list[int]
    language: int | None
    unknown: dict[str, int]


class FillMaskPredictor:
    """Predictor of the tokens at [MASK]: {"text", "language"} -> {"masks": [[{"token", "probability"}]]}.

    Raises:
        UserError: the model has no masked-LM head.
    """

    fields: ClassVar[Fields] = {"text": REQUIRED_TEXT, "language": OPTIONAL_TEXT}

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        if model.task != FILL_MASK:
            raise UserError(
                f"{model.folder}: fill-mask requires a checkpoint with a masked-LM head, such as the "
                "folder full/ of a run of run_pretrain.py"
            )
        if model.engine_name != "paddle-eager":  # the head runs in Paddle only
            model = load(model.folder, engine="paddle-eager", amp=model.amp)
        self.name = model.name
        self.tokenizer = model.tokenizer
        self.languages = model.languages
        self.model: PreTrainingModel = model.model
        self.autocast = model.autocast
        self.vocabulary = Vocabulary.from_tokenizer(model.tokenizer)
        self.max_seq_len = model.resolve_max_seq_len(options.max_seq_len, model.max_length)
        self.top_k = min(options.top_k, len(self.vocabulary.ordinary_ids))

    def find_top_tokens(self, hidden: Tensor) -> list[list[dict]]:
        """Return the `top_k` most probable tokens, except special tokens, for each mask.

        Args:
            hidden: the hidden states of the masks, [M, H].
        """
        bias = np.zeros(self.model.lm_head.bias.shape[0], np.float32)  # [V]; -inf: never predicted
        bias[self.vocabulary.special_ids] = -np.inf
        bias[self.vocabulary.size :] = -np.inf  # rows without a token
        tokens_of_rows = []
        for first in range(0, hidden.shape[0], _AT_ONCE):
            logits = self.model.lm_head(hidden[first : first + _AT_ONCE]) + paddle.to_tensor(bias)
            probabilities, ids = F.softmax(logits.astype("float32"), axis=-1).topk(self.top_k)
            for ids_of_row, probabilities_of_row in zip(ids.tolist(), probabilities.tolist()):
                names = self.tokenizer.convert_ids_to_tokens(ids_of_row)
                tokens_of_rows.append(
                    [
                        {"token": name, "probability": round(probability, 6)}
                        for name, probability in zip(names, probabilities_of_row)
                    ]
                )
        return tokens_of_rows

    def parse(self, request: dict) -> MaskedText:
        text = read_text_key(request, "text")
        if MASK not in text:
            raise UserError(f"'text' has no {MASK}. Add at least one")
        language = None
        if request.get("language") is not None:
            if not self.languages:
                raise UserError(
                    f"{self.name}: 'language' requires language embeddings, trained by run_pretrain.py "
                    "with language_embedding: masks. Remove 'language'"
                )
            language = self.languages.index(read_text_key(request, "language", choices=self.languages))
        ids = encode_masked_text(self.tokenizer, text)
        check_length(num_tokens=len(ids), max_tokens=self.max_seq_len)
        return MaskedText(ids, language, get_caveats(self.tokenizer, *text.split(MASK)))

    @paddle.no_grad()
    def _compute_states(self, request: MaskedText) -> Tensor:
        """Compute the hidden states of the masks in a text, float32 [masks, H]."""
        ids = np.asarray(request.ids, np.int64)
        is_mask = ids == self.tokenizer.mask_id
        languages = None
        if request.language is not None:
            languages = np.where(is_mask, request.language, NO_LANGUAGE)
        with self.autocast():
            inputs = upload(PackedBatch.from_packed(ids, PackedLayout([len(ids)]), language_ids=languages))
            states = self.model.encode(inputs, positions=paddle.to_tensor(np.flatnonzero(is_mask)))
        return states.astype("float32")

    @paddle.no_grad()
    def predict(self, requests: list[MaskedText]) -> list[dict]:
        # The few texts are encoded one by one. The logits of all masks are computed together.
        states_of_requests = list(get_services().make_workers().map(self._compute_states, requests))
        # The candidates of each mask, of all requests one after the other.
        candidates = iter(self.find_top_tokens(paddle.concat(states_of_requests)))
        return [
            {"masks": list(islice(candidates, len(states))), **request.unknown}
            for request, states in zip(requests, states_of_requests)
        ]


def encode_masked_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of `[CLS] text [SEP]`, with the id of the mask for each [MASK] in the text.

    After a mask, a word begins only after a space: "[MASK]s" has no "▁" before "s", unless the vocabulary
    contains "▁s" but not "s".
    """
    ids = [tokenizer.cls_id]
    for number, part in enumerate(text.split(MASK)):
        tokens = tokenizer.encode(part)
        if number > 0:  # a mask precedes every part but the first
            ids.append(tokenizer.mask_id)
            if tokens and not part[0].isspace():
                (token,) = tokenizer.convert_ids_to_tokens(tokens[:1])
                if token == "▁":
                    tokens = tokens[1:]
                elif token.startswith("▁") and token[1:] in tokenizer.vocab:
                    tokens[:1] = tokenizer.convert_tokens_to_ids([token[1:]])
        ids += tokens
    return [*ids, tokenizer.sep_id]
