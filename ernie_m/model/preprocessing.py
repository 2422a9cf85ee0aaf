"""Preprocessing settings: how a model's inputs and embeddings are made, as in its training. No Paddle here.

The defaults are ERNIE-M's. `ernie_m.model.checkpoint.open` reads a `PreprocessingConfig` from the files of a
folder. The native config.json stores it under "reading": the format number, and the fields that differ from
the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from ernie_m.utils.args import NonNegativeInt, Range, accepts, in_words
from ernie_m.utils.checksums import VERSION, check_format
from ernie_m.utils.errors import UserError, shown

READING = "reading"  # key of the native config.json; other libraries ignore it
_FORMAT = "format"  # key of its format number, for folders in other formats, which have no manifest
COLUMNS = "columns"  # the columns of the training table: flags of `LabelOptions` -> their values
GIVEN = "labels_as_given"  # the type of the labels in Python: numbers, booleans or strings
# The names of the text rules before and after SentencePiece in `ernie_m.reader.tokenization`: the official
# ones of ERNIE-M; none, as in XLM-R; and those of the ErnieMTokenizer of each library.
TextRules = Literal["ernie-m", "none", "paddlenlp", "transformers"]
ERNIE_M_RULES, NO_RULES, *_ = get_args(TextRules)
# "mean": over all tokens, as in sentence-transformers and in XTREME's Tatoeba script; "mean_without_special":
# over all but [CLS] and [SEP]; "cls": the state of [CLS]; "pooler": tanh(dense([CLS])) of the last layer.
Pooling = Literal["mean", "mean_without_special", "cls", "pooler"]
MEAN_OF_TOKENS, MEAN_WITHOUT_SPECIAL, *_ = get_args(Pooling)
# The labeled subwords of a word: the first that is not only "▁"; the first; or all.
LabelPieces = Literal["first", "leading", "all"]

# The kind of a text, which determines its prompt: see `PreprocessingConfig.prompt`.
TextKind = Literal["query", "document", "neither"]
QUERY, DOCUMENT, NEITHER = get_args(TextKind)
_DOCUMENTS = (DOCUMENT, "passage", "corpus")  # names of a document's prompt, in order of precedence
_DEFAULT = "default"  # name of a recorded prompt

_SHARED_BY_TASKS = ("text_rules", "added_tokens", "separators", "split_han", "label_pieces")


def pair_text_kinds(are_translations: bool) -> tuple[TextKind, TextKind]:
    """Return the kinds of a pair's texts: translations, or query and document."""
    return (NEITHER, NEITHER) if are_translations else (QUERY, DOCUMENT)


@dataclass(frozen=True)
class PreprocessingConfig:
    """Preprocessing settings of a model. None: not stored in its files.

    Attributes:
        text_rules: processing of text besides SentencePiece.
        added_tokens: token -> id, of tokens that are not in the SentencePiece model and have one id each.
        max_seq_len: maximum length of an input or window in tokens.
        separators: number of [SEP] between a question and its context. Two texts always have two in between.
        split_han: whether each Han character of a question and its context is a token.
        max_query_length, doc_stride, max_answer_length: options of question answering, in tokens.
        label_pieces: the labeled subwords of a word.
        chunk_scheme: tag scheme; NONE: tags without prefixes.
        official_compat: whether words were tagged as in the official code.
        marks_apart: whether "(here)," is four words in tagging.
        multi_label: whether a text may have several labels or none.
        regression: whether a classifier predicts a number.
        pairs: whether the inputs of a classifier are pairs of texts.
        layer: layer of the embeddings, from 0.
        pooling: pooling of token states into an embedding, or into the input of a classifier.
        normalize: whether embeddings have unit length.
        prompts: name -> prefix of a text.
        default_prompt: name of the prompt of texts that are neither queries nor documents.
        language_embedding, camlm_context, pseudo_proportion, pseudo_positions: pretraining options, as in its
            configuration.
    """

    text_rules: TextRules = ERNIE_M_RULES
    added_tokens: Mapping[str, NonNegativeInt] = field(default_factory=dict)
    max_seq_len: int | None = None
    separators: Annotated[int, Range(at_least=1, at_most=2)] = 1
    split_han: bool = True
    max_query_length: int | None = None
    doc_stride: int | None = None
    max_answer_length: int | None = None
    label_pieces: LabelPieces = "first"
    chunk_scheme: Literal["IO", "IOB", "IOE", "IOBES", "NONE"] | None = None
    official_compat: bool = False
    marks_apart: bool = True
    multi_label: bool = False
    regression: bool = False
    pairs: bool | None = None
    layer: int | None = None
    pooling: Pooling | None = None
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    language_embedding: Literal["masks", "none", "all"] | None = None
    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    pseudo_proportion: float | None = None
    pseudo_positions: Literal["first", "spread"] | None = None

    @classmethod
    def of_xlm_r(cls) -> Self:
        """Return the preprocessing settings of XLM-R.

        Text has no rules besides SentencePiece, a pair is `<s> question </s></s> context </s>`, and the label
        of a word belongs to its first subword.
        """
        return cls(text_rules=NO_RULES, separators=2, split_han=False, label_pieces="leading")

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read the result of `to_json`; missing keys have the default.

        Raises:
            UserError: it is not a JSON object, or the value of a key is invalid.
        """
        if not isinstance(values, dict):
            raise UserError("not a JSON object")
        type_of = {field.name: field.type for field in fields(cls)}
        for name, value in values.items():
            if name not in type_of:
                raise UserError(f"unknown key '{shown(name)}'")
            if not accepts(type_of[name], value):
                raise UserError(f"invalid '{name}' {shown(value)} (expected {in_words(type_of[name])})")
        preprocessing = cls(**values)
        if (
            preprocessing.default_prompt is not None
            and preprocessing.default_prompt not in preprocessing.prompts
        ):
            name = shown(preprocessing.default_prompt)
            raise UserError(f"'default_prompt' {name} missing from 'prompts'")
        return preprocessing

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults."""
        defaults = PreprocessingConfig()
        return {name: value for name, value in vars(self).items() if value != getattr(defaults, name)}

    def for_task(self, prompt: str = "", **recorded: Any) -> "PreprocessingConfig":
        """Return the preprocessing of a model to train further for another task: texts stay as they are.

        How vectors were made is left out, because the training for another task does not keep them.

        Args:
            prompt: what the training puts before every text.
            recorded: fields that the training decides.
        """
        kept = {name: getattr(self, name) for name in _SHARED_BY_TASKS}
        if prompt:
            kept |= {"prompts": {_DEFAULT: prompt}, "default_prompt": _DEFAULT}
        return PreprocessingConfig(**(kept | recorded))

    def with_one_prompt(self, prompt: str) -> "PreprocessingConfig":
        """Return the preprocessing of a model trained with this prompt ("" for none) before every text."""
        if not prompt:
            return replace(self, prompts={}, default_prompt=None)
        prompts = dict.fromkeys((QUERY, DOCUMENT, _DEFAULT), prompt)
        return replace(self, prompts=prompts, default_prompt=_DEFAULT)

    def prompt(self, kind: TextKind, name: str | None = None) -> str:
        """What is put before a text; "": nothing. Whoever encodes a text asks here.

        ============  ======================================================  ==============================
        kind          the text                                                its prompt, "" if there is none
        ============  ======================================================  ==============================
        "query"       what is searched for; the query of a pair               "query"
        "document"    what is searched in; positive and negatives of a pair   "document", "passage", "corpus":
                                                                              the first that there is
        "neither"     any other: of `encode`, of `fit` and its classifier,    the default prompt
                      translations
        any           a prompt is named                                       that one; of the name "": none
        ============  ======================================================  ==============================

        Queries and documents have those that sentence-transformers takes in `encode_query` and
        `encode_document`.

        Raises:
            UserError: there is no prompt of this name.
        """
        if name is not None:
            if name and name not in self.prompts:
                there = ", ".join(self.prompts) or "none"
                raise UserError(f"unknown prompt {name!r} (the model has {there})")
            return self.prompts.get(name, "")
        candidates = {QUERY: (QUERY,), DOCUMENT: _DOCUMENTS, NEITHER: (self.default_prompt,)}[kind]
        prompts = [self.prompts[candidate] for candidate in candidates if candidate in self.prompts]
        return prompts[0] if prompts else ""


def stored_preprocessing(preprocessing: PreprocessingConfig) -> dict[str, Any]:
    """Return what `read_preprocessing` reads: the format's number, and the fields that are not defaults."""
    return {_FORMAT: VERSION, **preprocessing.to_json()}


def read_preprocessing(raw_config: Mapping[str, Any], path: Path | None) -> PreprocessingConfig:
    """What our key of a config.json says; without it, ERNIE-M's own preprocessing.

    Raises:
        UserError: it is corrupt, or of another format.
    """
    values = raw_config.get(READING)
    if isinstance(values, dict):
        values = dict(values)
        check_format(f"{path}: '{READING}'", values.pop(_FORMAT, None), VERSION)
    try:
        return PreprocessingConfig() if values is None else PreprocessingConfig.from_json(values)
    except UserError as error:
        raise UserError(
            f"{path}: '{READING}' is invalid ({error}). Restore or download the file again, or remove "
            "this key"
        ) from error
