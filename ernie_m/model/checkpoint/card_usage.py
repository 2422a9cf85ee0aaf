"""The model cards: how to use a folder in each library that reads it, and the card of a folder of ours."""

from collections.abc import Mapping
from typing import Any

from ernie_m.model.checkpoint.card import model_card
from ernie_m.model.checkpoint.formats.tensor_names import (
    CLASSES,
    HUGGING_FACE,
    OFFICIAL,
    OURS,
    PADDLENLP,
    STATIC,
    XLM_R,
)
from ernie_m.model.conventions import READING, Reading
from ernie_m.model.tasks import (
    CLASSIFICATION,
    ENCODING,
    MASKED_LM,
    QUESTION_ANSWERING,
    RETRIEVAL,
    TAGGING,
    task_named,
)

FOLDER = "path/of/this/folder"

_OURS = """import ernie_m

model = ernie_m.load("{folder}")
{call}"""
_CALLS = {
    CLASSIFICATION: 'model.classify(["A man eats.", ("A man eats.", "Somebody eats.")])  # texts or pairs',
    TAGGING: 'model.tag(["Angela Merkel was born in Hamburg."])',
    QUESTION_ANSWERING: 'model.answer("Where was she born?", "Angela Merkel was born in Hamburg.")',
    MASKED_LM: 'model.fill("The man [MASK] an apple.")',
    ENCODING: 'model.encode(["A man eats.", "Ein Mann isst."])  # float32 [2, H]',
}
_PADDLENLP = """from paddlenlp.transformers import {name}, ErnieMTokenizer

model = {name}.from_pretrained("{folder}")
tokenizer = ErnieMTokenizer.from_pretrained("{folder}")"""
_TRANSFORMERS = """from transformers import {name}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}")
inputs = tokenizer("A man eats.", return_tensors="pt")  # or tokenizer(text, second_text, ...)
outputs = model(**inputs)"""
_TRANSFORMERS_CLASSES = {
    CLASSIFICATION: "AutoModelForSequenceClassification",
    TAGGING: "AutoModelForTokenClassification",
    QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    MASKED_LM: "AutoModelForMaskedLM",
}
_SENTENCE_TRANSFORMERS = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
vectors = model.encode(["A man eats.", "Ein Mann isst."])  # {of_what}"""
_ENCODER = """import torch
from transformers import AutoModel, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)


"""
_POOLED = (
    _ENCODER
    + """def encode(texts):
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).pooler_output.numpy()  # the pooled [CLS] of the top layer


vectors = encode(["A man eats.", "Ein Mann isst."])"""
)
_LAYER = (
    _ENCODER
    + """def encode(texts, layer={layer}):
    options = {{"padding": True, "truncation": True, "return_tensors": "pt"}}
    inputs = tokenizer(texts, return_special_tokens_mask=True, **options)
    special = inputs.pop("special_tokens_mask")
    weights = {weights}  # [N, T, 1]
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]  # [N, T, H]
    return ((hidden * weights).sum(1) / weights.sum(1)).numpy()


vectors = encode(["A man eats.", "Ein Mann isst."])"""
)
# The pooling -> the weights of the tokens.
_WEIGHTS = {
    "mean": "(1 - special)[..., None]",
    "specials": 'inputs["attention_mask"][..., None]',
    "cls": '(inputs["attention_mask"].cumsum(1) == 1)[..., None]',
}
_CENTRE = """import numpy as np
from safetensors.numpy import load_file


def centre(vectors, languages, means):
    return np.stack([vector - means[language] for vector, language in zip(vectors, languages)])


# language -> its mean at each layer, of vectors without the special tokens
layers = load_file("{folder}/language_means.safetensors")
means = {{language: of_language[{layer}] for language, of_language in layers.items()}}
centred = centre(vectors, ["en", "de"], means)"""


def usage(
    format_name: str,
    task: str | None,
    reading: Reading,
    has_means: bool,
    for_sentence_transformers: bool = False,
) -> str:
    """Markdown: how to use a folder of this format.

    Args:
        format_name: one of `ernie_m.model.checkpoint.formats.tensor_names`.
        task: what the model is for; None: an encoder.
        reading: how the model reads and makes its vectors.
        has_means: whether the means of the languages lie beside the weights.
        for_sentence_transformers: whether that library makes the vectors of the training.
    """
    kind = ENCODING if task in (None, RETRIEVAL) else task
    if format_name == OFFICIAL:
        return (
            "The official layout, for the official commands and for those of this project: "
            f"`--init_pretraining_params {FOLDER}/params --ernie_config_path {FOLDER}/ernie_config.json`."
        )
    if format_name == PADDLENLP:
        classes = CLASSES[PADDLENLP]
        return _code(_PADDLENLP, name=classes.get(task, classes[None]).name)
    if format_name == HUGGING_FACE:
        name = _TRANSFORMERS_CLASSES.get(kind, "AutoModel")
        return f"With transformers 4, whose last releases have ErnieM:\n\n{_code(_TRANSFORMERS, name=name)}"
    if format_name == STATIC:
        return _code(_SENTENCE_TRANSFORMERS, of_what=vector_in_words(format_name, reading))
    # The other formats that are written: ours and XLM-R.
    layer = -1 if reading.layer is None else reading.layer
    blocks = []
    if format_name == OURS:
        blocks.append(_code(_OURS, call=_CALLS.get(kind, _CALLS[ENCODING])))
    elif kind in _TRANSFORMERS_CLASSES:
        blocks.append(_code(_TRANSFORMERS, name=_TRANSFORMERS_CLASSES[kind]))
    if format_name == XLM_R and kind in (ENCODING, MASKED_LM):
        if for_sentence_transformers:
            blocks.append(_code(_SENTENCE_TRANSFORMERS, of_what=vector_in_words(format_name, reading)))
            blocks.append("A vector of another layer, as `ernie_m` makes it:")
        pooling = reading.pooling
        if pooling == "pooled":
            blocks.append(_code(_POOLED))
        else:
            blocks.append(_code(_LAYER, layer=layer, weights=_WEIGHTS.get(pooling, _WEIGHTS["mean"])))
    if has_means and format_name == OURS:
        blocks.append("`model.encode(texts, centre=True)` takes the mean of its language from each vector.")
    elif has_means:
        blocks.append(
            "Vectors of a language lie near each other whatever they say. Without the mean of its language a "
            "vector is nearer to its translations. `centre` takes vectors of other models, too. Their means "
            "are `vectors_of_a_language.mean(0)`, of some hundred texts of each language."
        )
        blocks.append(_code(_CENTRE, layer=layer))
    return "\n\n".join(blocks)


def vector_in_words(format_name: str, reading: Reading) -> str:
    """What sentence-transformers makes a vector of."""
    if format_name == STATIC:
        return "the mean of the pieces of a text"
    return (
        "the state of [CLS] at the top layer"
        if reading.pooling == "cls"
        else "the mean of the top layer over all tokens"
    )


def _code(text: str, **values: Any) -> str:
    """A block of Python in Markdown."""
    return f"```python\n{text.format(folder=FOLDER, **values)}\n```"


def card_of_ours(
    facts: Mapping[str, Any], config_json: Mapping[str, Any], parameters: int, has_means: bool
) -> str:
    """The card of a folder in our own form, as `ernie_m.model.checkpoint.card.model_card` writes it.

    Args:
        facts: those of the training; sizes and config are added.
        config_json: the contents of config.json.
        parameters: the number of weights.
        has_means: whether the means of the languages lie beside the weights.
    """
    task = task_named(config_json.get("task") or config_json["architecture"])
    snippets = usage(OURS, task, Reading.from_json(config_json.get(READING) or {}), has_means)
    return model_card({**facts, "config": config_json, "parameters": parameters}, snippets)
