"""What the page draws: the similarity of two sentences' tokens, and the attention masks of pre-training."""

import numpy as np

from evaluation.search import unit
from inference.loading import LoadedModel
from inference.tasks import TaskOptions, check_length, text_of
from inference.tasks.encode import EncodeTexts
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.panels import Panel, draw_panels
from reader.tokenization import Tokenizer
from utils.errors import UserError

LONGEST = 100  # tokens of a text; a larger grid is not readable


def texts_of(request: dict, tokenizer: Tokenizer, most: int, optional: bool = False) -> list[str]:
    """text_a and text_b, which may be optional. UserError: one is missing or has more than `most` tokens."""
    texts = [text_of(request, "text_a"), text_of(request, "text_b", optional)]
    for key, text in zip(("text_a", "text_b"), texts):
        check_length(key, len(tokenizer.encode(text or "")), min(LONGEST, most))
    return [text for text in texts if text]


class CompareTokens:
    """{"text_a", "text_b", "layer"} -> {"tokens_a", "tokens_b", "similarity", "cosine", "layer"}.

    `similarity` has the cosine of each token of the first text with each token of the second one, after the
    mean state of its own text was subtracted from each: the mean carries what all tokens of a text share,
    above all its language. `cosine` compares the texts' vectors as `search` does. Tokens are {"text",
    "start", "end"}, without special tokens.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        self.encode = EncodeTexts(model, options)

    def parse(self, request: dict) -> tuple[list[str], int]:
        texts = texts_of(request, self.encode.model.tokenizer, self.encode.max_seq_len - 2)
        return texts, self.encode.layer_of(request)

    def answer(self, asked: list[tuple[list[str], int]]) -> list[dict]:
        return [self._answer(self.encode.at(layer), texts) for texts, layer in asked]

    def _answer(self, encode: EncodeTexts, texts: list[str]) -> dict:
        (tokens_a, states_a), (tokens_b, states_b) = (self._states(encode, text) for text in texts)
        vector_a, vector_b = unit(encode.vectors(texts))
        return {
            "tokens_a": tokens_a,
            "tokens_b": tokens_b,
            "similarity": [[round(float(x), 4) for x in row] for row in states_a @ states_b.T],
            "cosine": round(float(vector_a @ vector_b), 6),
            "layer": encode.layer,
        }

    def _states(self, encode: EncodeTexts, text: str) -> tuple[list[dict], np.ndarray]:
        """The tokens of a text and their centred states [T, H] of length 1."""
        tokenizer = encode.model.tokenizer
        ids, spans = tokenizer.encode_with_offsets(text)
        kept = [place for place, (start, end) in enumerate(spans) if end > start]
        if not kept:
            raise UserError(f"'{text[:20]}' has no token")
        row = np.array([[tokenizer.cls_id, *ids, tokenizer.sep_id]], np.int64)
        states = encode.engine(row)["sequence"][0, 1:-1][kept]
        tokens = [{"text": text[s:e], "start": s, "end": e} for s, e in (spans[place] for place in kept)]
        return tokens, unit(states - states.mean(axis=0) if len(kept) > 1 else states)


class DrawMasks:
    """{"text_a", "text_b", "objective"} -> {"panels": [{"title", "tokens", "predicted", "seen"}]}.

    `pretrain.panels` draws them with the tokens of the model. `predicted` has the token that the model must
    predict at each place, or ""; row i of `seen` has 1 for each token that token i may attend to.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        self.model = model
        choices = ("pseudo_proportion", "pseudo_positions")
        recorded = {name: model.reading[name] for name in choices if name in model.reading}
        self.config = ObjectiveConfig(**recorded)
        self.language_embedding = model.reading.get("language_embedding", "masks")

    def parse(self, request: dict) -> tuple[str, list[str]]:
        """The objective, and one text or two."""
        objective = text_of(request, "objective", choices=OBJECTIVES)
        longest, one_is_enough = self.model.longest // 2 - 2, objective in ("mmlm", "btmlm")
        return objective, texts_of(request, self.model.tokenizer, longest, optional=one_is_enough)

    def answer(self, requests: list[tuple[str, list[str]]]) -> list[dict]:
        answers = []
        for objective, texts in requests:
            panels = draw_panels(texts, objective, self.model.tokenizer, self.config, self.language_embedding)
            answers.append({"panels": [_as_json(panel) for panel in panels]})
        return answers


def _as_json(panel: Panel) -> dict:
    mask = np.asarray(panel.mask, int).tolist()
    return {"title": panel.title, "tokens": panel.tokens, "predicted": panel.predicted, "seen": mask}
