"""Predictions of the masked-LM head: `fill` for masks in a text, `translate-probe` for BTMLM's pseudo-tokens.

Both run in Paddle and need a checkpoint with the head: the full folder of run_pretrain.py, or for `fill` also
XLM-R. `translate-probe`, and `fill` in a given language, also need the language table.
"""

import re
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from inference.loading import Loaded
from inference.requests import check_length, choice_of, text_of
from inference.tasks import TaskOptions
from model.attention import Layout
from model.heads import PreTrainingModel
from pretrain.config import ObjectiveConfig
from pretrain.loss import hidden_at
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Text
from utils.errors import UserError

MASK = "[MASK]"
_AT_ONCE = 64  # rows of logits, [64, V]


class TokensInput(NamedTuple):
    """Ids, the language to predict in (-1: none), and the ids' own language."""

    ids: list[int]
    language: int
    own: int = -1


class MaskedLmTask:
    """The base of both tasks. UserError: the model has no masked-LM head."""

    task = "fill"

    def __init__(self, model: Loaded, options: TaskOptions):
        if model.head != "fill":
            raise UserError(
                f"{model.folder}: --task {self.task} needs a checkpoint with the masked-LM head, such as the "
                "folder full that run_pretrain.py leaves"
            )
        self.loaded, self.languages = model, model.languages
        self.model: PreTrainingModel = model.model
        # The tokens that carried a language in training.
        self.embedding = model.reading.get("language_embedding", "masks")
        self.vocabulary = Vocabulary.of(model.tokenizer)
        self.max_seq_len = model.limit(options.max_seq_len, model.longest)
        self.top_k = min(options.top_k, len(self.vocabulary.ordinary_ids))

    def likeliest(self, hidden: Tensor) -> list[list[dict]]:
        """The likeliest ordinary tokens and their probabilities for each hidden state of [M, H]."""
        closed = np.zeros(self.model.lm_head.bias.shape[0], np.float32)
        closed[self.vocabulary.special_ids] = -np.inf
        closed[self.vocabulary.size :] = -np.inf  # rows of the table that have no token
        found = []
        for first in range(0, hidden.shape[0], _AT_ONCE):
            logits = self.model.lm_head(hidden[first : first + _AT_ONCE]) + paddle.to_tensor(closed)
            shares, ids = F.softmax(logits.astype("float32"), axis=-1).topk(self.top_k)
            for row_ids, row_shares in zip(ids.numpy(), shares.numpy()):
                tokens = self.loaded.tokenizer.convert_ids_to_tokens(row_ids.tolist())
                pairs = zip(tokens, (round(float(share), 6) for share in row_shares))
                found.append([{"token": token, "probability": share} for token, share in pairs])
        return found


class FillMasks(MaskedLmTask):
    """{"text": "... [MASK] ...", "language"} -> {"masks": [[{"token", "probability"}]]}."""

    def parse(self, request: dict) -> TokensInput:
        text = text_of(request, "text")
        if MASK not in text:
            raise UserError(f"'text' has no {MASK} to fill")
        language = -1
        if request.get("language") is not None:
            if not self.languages:
                raise UserError(f"'language': {self.loaded.folder} has no language table; leave it out")
            language = self.languages.index(choice_of(request, "language", self.languages))
        ids = masked_ids(self.loaded.tokenizer, text)
        if len(ids) > self.max_seq_len:
            raise UserError(f"'text' has {len(ids)} tokens, at most {self.max_seq_len} fit; shorten it")
        return TokensInput(ids, language)

    @paddle.no_grad()
    def answer(self, texts: list[TokensInput]) -> list[dict]:
        mask_id = self.loaded.tokenizer.mask_id
        hidden, counts = [], []
        for text in texts:  # one by one: there are few requests, and each may need many logits
            ids = np.asarray(text.ids, np.int64)
            masks = ids == mask_id
            carry = masks if self.embedding == "masks" else np.ones_like(masks)
            languages = None if text.language < 0 else paddle.to_tensor(np.where(carry, text.language, -1))
            wanted = paddle.to_tensor(np.flatnonzero(masks))
            hidden.append(self.model(paddle.to_tensor(ids), None, languages, Layout([len(ids)]), wanted))
            counts.append(int(masks.sum()))
        found = iter(self.likeliest(paddle.concat(hidden)))
        return [{"masks": [next(found) for _ in range(count)]} for count in counts]


def masked_ids(tokenizer, text: str) -> list[int]:
    """The ids of `[CLS] text [SEP]`, with the mask id for each [MASK] in the text.

    After a mask, a word begins only if there is a space: in "[MASK]s" there is no "▁" before the "s".
    """
    ids = [tokenizer.cls_id]
    for number, part in enumerate(re.split(re.escape(MASK), text)):
        pieces = tokenizer.encode(part)
        if number:
            ids.append(tokenizer.mask_id)
            if pieces and not part[0].isspace():
                (token,) = tokenizer.convert_ids_to_tokens(pieces[:1])
                if token == "▁":
                    pieces = pieces[1:]
                elif token.startswith("▁"):
                    pieces[:1] = tokenizer.convert_tokens_to_ids([token[1:]])
        ids += pieces
    return [*ids, tokenizer.sep_id]


class ProbeTranslation(MaskedLmTask):
    """{"text", "language"} -> {"language", "slots": [[{"token", "probability"}]]}; see `needs_own`.

    The input is that of BTMLM's first stage (docs/objectives.md): the sentence, then as many placeholders in
    the other language as the objective would use. Each placeholder attends to the sentence and itself.

    Raises:
        UserError: the model has no language table.
    """

    task = "translate-probe"

    def __init__(self, model: Loaded, options: TaskOptions):
        super().__init__(model, options)
        if not self.languages:
            raise UserError(
                f"{model.folder}: --task translate-probe needs the language table of a model that "
                "run_pretrain.py trained; it is not there"
            )
        pseudo = {key: value for key, value in model.reading.items() if key.startswith("pseudo_")}
        config = ObjectiveConfig(**pseudo)
        self.objectives = Objectives(config, self.vocabulary, self.max_seq_len, self.embedding)

    @property
    def needs_own(self) -> bool:
        """Whether a request needs "text_language", because every token carried its language in training."""
        return self.embedding == "all"

    def parse(self, request: dict) -> TokensInput:
        language = own = self.languages.index(choice_of(request, "language", self.languages))
        if self.needs_own:
            own = self.languages.index(choice_of(request, "text_language", self.languages))
        ids = self.loaded.tokenizer.encode(text_of(request, "text"))
        if not ids:
            raise UserError("'text' has no token")
        return TokensInput(ids, language, own)

    def check_length(self, text: str) -> None:
        """UserError: the sentence would be cut, so that the placeholders fit."""
        share = self.objectives.config.pseudo_proportion
        check_length(self.loaded.tokenizer, text, "text", int((self.max_seq_len - 2) / (1 + share)))

    @paddle.no_grad()
    def answer(self, sentences: list[TokensInput]) -> list[dict]:
        texts = [Text(np.asarray(sentence.ids, np.int64), sentence.own) for sentence in sentences]
        rngs = [generator(0, 0, number) for number in range(len(texts))]  # none of them is drawn from
        languages = [sentence.language for sentence in sentences]
        stage1 = self.objectives.batch("btmlm", texts, rngs, languages).stage1
        found = self.likeliest(hidden_at(self.model, stage1, stage1.placeholders))
        answers = [{"language": self.languages[language], "slots": []} for language in languages]
        for row, slot in zip(stage1.slot_rows.tolist(), found):
            answers[row]["slots"].append(slot)
        return answers
