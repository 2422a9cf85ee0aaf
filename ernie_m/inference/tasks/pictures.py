"""What the page draws: the similarity of two sentences' tokens, and the attention masks of pre-training."""

from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    TaskOptions,
    check_length,
    remarks,
    text_of,
)
from ernie_m.inference.tasks.encode import CENTRE, LAYER, EncodeTexts, centres_by_default
from ernie_m.model.tasks import ENCODING
from ernie_m.pretrain.config import ModelConfig, ObjectiveConfig
from ernie_m.pretrain.objective import Text, class_of
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.pretrain.pictures.mask_panels import Panel, draw_panels
from ernie_m.tokenizer.offsets import encode_with_offsets
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.vectors.pooling import unit

LONGEST = 100  # tokens of a text; a larger grid is not readable


def texts_of(request: dict, tokenizer: Tokenizer, longest: int, optional: bool = False) -> list[str]:
    """The texts of "text_a" and "text_b".

    Args:
        optional: whether "text_b" may be absent; then only one text is returned.

    Raises:
        UserError: one is missing, or has no token or more than `longest`.
    """
    texts = []
    for key, may_be_absent in (("text_a", False), ("text_b", optional)):
        text = text_of(request, key, optional=may_be_absent)
        if text:
            _, spans = encode_with_offsets(tokenizer, text)
            check_length(key, count=len(spans), most=min(LONGEST, longest))
            if not any(end > start for start, end in spans):  # a lone "▁" has no character
                raise UserError(f"'{key}' has no token")
            texts.append(text)
    return texts


class CompareRequest(NamedTuple):
    """Two texts, the layer to compare them at, and whether to compare centred vectors."""

    texts: list[str]
    layer: int
    centre: bool


class CompareTokens:
    """{"text_a", "text_b", "layer", "centre"} -> {"tokens_a", "tokens_b", "similarity", "cosine", "layer"}.

    `similarity` has the cosine of each token of the first text with each token of the second one, after the
    mean state of its own text was subtracted from each: the mean carries what all tokens of a text share,
    above all its language. `cosine` is that of the vectors that `encode` makes of the texts; "centred" is
    true if they are centred. Tokens are {"text", "start", "end"}, without special tokens.
    """

    fields: ClassVar[Fields] = {
        "text_a": REQUIRED_TEXT,
        "text_b": REQUIRED_TEXT,
        "layer": LAYER,
        "centre": CENTRE,
    }

    def __init__(self, model: LoadedModel, options: TaskOptions):
        # It encodes without centring, because tokens are never centred by language. Each request says whether
        # the texts' vectors are; `centre` is for one that does not.
        self.encode = EncodeTexts(model, replace(options, centre=False, normalize=False))
        self.centre = centres_by_default(model, options)

    def parse(self, request: dict) -> CompareRequest:
        prompt_length = len(self.encode.model.tokenizer.encode(self.encode.prompt))
        longest = self.encode.max_seq_len - 2 - prompt_length  # without [CLS] and [SEP]
        texts = texts_of(request, self.encode.model.tokenizer, longest)
        centre = self.encode.centre_of(request, self.centre)
        return CompareRequest(texts, self.encode.layer_of(request), centre)

    def answer(self, requests: list[CompareRequest]) -> list[dict]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: CompareRequest) -> dict:
        texts = request.texts
        encode = self.encode.at(request.layer)
        text_a, text_b = texts
        tokens_a, states_a = _token_states(encode, text_a)
        tokens_b, states_b = _token_states(encode, text_b)
        similarity = states_a @ states_b.T  # [tokens of a, tokens of b]
        vector_a, vector_b = encode.unit_vectors(texts, request.centre)  # [H] each
        answer = {
            "tokens_a": tokens_a,
            "tokens_b": tokens_b,
            "similarity": [[round(float(cosine), 4) for cosine in row] for row in similarity],
            "cosine": round(float(vector_a @ vector_b), 6),
            "layer": encode.layer,
        }
        if request.centre:
            answer["centred"] = True
        return answer | remarks(encode.model.tokenizer, *texts)


def _token_states(encode: EncodeTexts, text: str) -> tuple[list[dict], np.ndarray]:
    """The tokens of a text and their states [T, H], centred and of length 1.

    The model reads the text behind its prompt, which is no part of the answer.
    """
    tokenizer = encode.model.tokenizer
    prompt_length = len(encode.prompt)
    ids, spans = encode_with_offsets(tokenizer, encode.prompt + text)
    # Without the tokens that end in the prompt, and without a lone "▁", which has no character.
    places = [place for place, (start, end) in enumerate(spans) if end > prompt_length and end > start]
    row = np.array([[tokenizer.cls_id, *ids, tokenizer.sep_id]], np.int64)
    outputs = encode.model.engine(ENCODING, encode.layer)(row)
    states = outputs["sequence"][0, 1:-1][places]  # [T, H], without [CLS] and [SEP]
    tokens = []
    for place in places:
        start, end = (max(0, offset - prompt_length) for offset in spans[place])
        tokens.append({"text": text[start:end], "start": start, "end": end})
    if len(places) > 1:  # a single state minus its mean would be 0
        states = states - states.mean(axis=0)
    return tokens, unit(states)


class DrawMasks:
    """{"text_a", "text_b", "objective"} -> {"panels": [{"title", "tokens", ...}]}, as `_as_json` writes them.

    `ernie_m.pretrain.pictures.mask_panels` draws them with the tokens of the model. `predicted` has the token
    that the model must predict at each place, or "". `boundary` is the number of tokens before the second
    side. Row i of `seen` has 1 for each token that token i may attend to.
    """

    fields: ClassVar[Fields] = {
        "text_a": REQUIRED_TEXT,
        "text_b": OPTIONAL_TEXT,
        "objective": (Literal[OBJECTIVES], ...),
    }

    def __init__(self, model: LoadedModel, options: TaskOptions):
        self.model = model
        # The files of a model from our pre-training record these options; others get the defaults.
        self.config = ObjectiveConfig(**model.reading.of_objectives())
        self.language_embedding = model.reading.language_embedding or ModelConfig().language_embedding

    def parse(self, request: dict) -> list[Panel]:
        objective = text_of(request, "objective", choices=OBJECTIVES)
        # A pair has four special tokens, so each text has half of the input without two of them.
        longest = self.model.longest // 2 - 2
        reads_text = class_of(objective).reads is Text  # and needs no translation
        texts = texts_of(request, self.model.tokenizer, longest, optional=reads_text)
        # Drawn here, because the objective may refuse the texts.
        return draw_panels(texts, objective, self.model.tokenizer, self.config, self.language_embedding)

    def answer(self, drawn: list[list[Panel]]) -> list[dict]:
        return [{"panels": [_as_json(panel) for panel in panels]} for panels in drawn]


def _as_json(panel: Panel) -> dict:
    return {
        "title": panel.title,
        "tokens": panel.tokens,
        "predicted": panel.predicted,
        "boundary": panel.boundary,
        "seen": np.asarray(panel.mask, int).tolist(),  # 0 and 1
    }
