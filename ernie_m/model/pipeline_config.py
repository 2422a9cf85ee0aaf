"""Pipeline settings: how text becomes model input, and hidden states embeddings. Does not import Paddle.

The defaults are ERNIE-M's. `ernie_m.model.checkpoint.open` reads a `PipelineConfig` from the files of a
folder. The native config.json stores it under "pipeline": the format number, and the fields that differ from
the defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from ernie_m.reader.files.official_tags import Script
from ernie_m.reader.tokenizer_rules import PIPELINE, PIPELINE_FORMAT, get_pipeline_values
from ernie_m.utils.checksums import check_format_version
from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.value_types import NonNegativeInt, Range, describe_type, is_valid

_FORMAT = "format"  # key of the format number
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

# The kind of a text, which determines its prompt: see `EmbeddingConfig.get_prompt`.
TextKind = Literal["query", "document", "neither"]
QUERY, DOCUMENT, NEITHER = get_args(TextKind)
_DOCUMENTS = (DOCUMENT, "passage", "corpus")  # names of a document's prompt, in order of precedence
_DEFAULT = "default"  # name of a recorded prompt

_SHARED_BY_TASKS = ("text_rules", "added_tokens", "separators", "split_han", "label_pieces")


def get_pair_text_kinds(are_translations: bool) -> tuple[TextKind, TextKind]:
    """Return the kinds of a pair's texts: translations, or query and document."""
    return (NEITHER, NEITHER) if are_translations else (QUERY, DOCUMENT)


@dataclass(frozen=True)
class TokenizationConfig:
    """Settings of tokenization: how texts become token ids.

    Attributes:
        text_rules: processing of text besides SentencePiece.
        added_tokens: token -> id, of tokens that are not in the SentencePiece model and have one id each.
        max_seq_len: maximum length of an input or window in tokens.
        separators: number of [SEP] tokens between a question and its context; always two in other pairs.
        split_han: whether each Han character of a question and its context is a token.
    """

    text_rules: TextRules = ERNIE_M_RULES
    added_tokens: Mapping[str, NonNegativeInt] = field(default_factory=dict)
    max_seq_len: int | None = None
    separators: Annotated[int, Range(at_least=1, at_most=2)] = 1
    split_han: bool = True


@dataclass(frozen=True)
class QuestionAnsweringConfig:
    """Lengths of windows and answers in extractive question answering, in tokens."""

    max_query_length: int | None = None
    doc_stride: int | None = None
    max_answer_length: int | None = None


@dataclass(frozen=True)
class TaggingConfig:
    """Settings of token classification: the words and their labels.

    Attributes:
        label_pieces: the labeled subwords of a word.
        chunk_scheme: tag scheme; NONE: tags without prefixes.
        official_compat: whether words were tagged as in the official code.
        marks_apart: whether punctuation marks are words, so that "(here)," is four words.
        character_scripts: scripts whose characters are words.
    """

    label_pieces: LabelPieces = "first"
    chunk_scheme: Literal["IO", "IOB", "IOE", "IOBES", "NONE"] | None = None
    official_compat: bool = False
    marks_apart: bool = True
    character_scripts: list[Script] = field(default_factory=list)


@dataclass(frozen=True)
class ClassificationConfig:
    """Settings of a classifier: its inputs and outputs.

    Attributes:
        multi_label: whether a text may have several labels or none.
        regression: whether the only output is the score; otherwise it is a logit, with a sigmoid as score.
        pairs: whether the inputs are pairs of texts.
    """

    multi_label: bool = False
    regression: bool = False
    pairs: bool | None = None


@dataclass(frozen=True)
class EmbeddingConfig:
    """Settings of embeddings: how hidden states become embeddings, and the prompts of texts.

    Attributes:
        layer: layer of the embeddings, from 0.
        pooling: pooling of token states into an embedding, or into the input of a classifier.
        normalize: whether embeddings have unit length.
        prompts: name -> prefix of a text.
        default_prompt: name of the prompt of texts that are neither queries nor documents.
    """

    layer: int | None = None
    pooling: Pooling | None = None
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def replace_prompts(self, prompt: str) -> Self:
        """Return the settings with one prompt for all kinds of texts; "": without prompts."""
        if not prompt:
            return replace(self, prompts={}, default_prompt=None)
        prompts = dict.fromkeys((QUERY, DOCUMENT, _DEFAULT), prompt)
        return replace(self, prompts=prompts, default_prompt=_DEFAULT)

    def get_prompt(self, kind: TextKind, name: str | None = None) -> str:
        """Return the prompt of a text, the prefix added before tokenization; "": no prompt.

        ============  =====================================================  ===============================
        kind          text                                                   prompt, if the model has it
        ============  =====================================================  ===============================
        "query"       search queries; the query of a pair                    "query"
        "document"    texts to search; positives and negatives of a pair     first of "document", "passage",
                                                                             "corpus"
        "neither"     other texts: `encode`, `fit`, classifiers,             the default prompt
                      translations
        ============  =====================================================  ===============================

        These are the prompts of `encode_query` and `encode_document` in sentence-transformers.

        Args:
            name: name of the prompt to use instead of that of `kind`; "": no prompt.

        Raises:
            UserError: the model has no prompt of this name.
        """
        if name is not None:
            if name and name not in self.prompts:
                there = ", ".join(self.prompts) or "none"
                raise UserError(f"unknown prompt {name!r} (the model has {there})")
            return self.prompts.get(name, "")
        candidates = {QUERY: (QUERY,), DOCUMENT: _DOCUMENTS, NEITHER: (self.default_prompt,)}[kind]
        prompts = [self.prompts[candidate] for candidate in candidates if candidate in self.prompts]
        return prompts[0] if prompts else ""


@dataclass(frozen=True)
class MaskingConfig:
    """Options of pre-training, as in its configuration."""

    language_embedding: Literal["masks", "none", "all"] | None = None
    camlm_context: Literal["unmasked", "with_masks"] = "unmasked"
    pseudo_proportion: float | None = None
    pseudo_positions: Literal["first", "spread"] | None = None


@dataclass(frozen=True)
class PipelineConfig(
    MaskingConfig,
    EmbeddingConfig,
    ClassificationConfig,
    TaggingConfig,
    QuestionAnsweringConfig,
    TokenizationConfig,
):
    """Pipeline settings of a model, as in its training. None: not stored in the model's files.

    They are stored as one flat JSON object, with the fields of `TokenizationConfig` first.
    """

    @classmethod
    def for_xlm_r(cls) -> Self:
        """Return the pipeline settings of XLM-R.

        Text is only normalized by SentencePiece, a pair is `<s> question </s></s> context </s>`, and a word's
        label applies to its first subword.
        """
        return cls(text_rules=NO_RULES, separators=2, split_han=False, label_pieces="leading")

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Make the settings from the JSON object of `to_json`; missing keys get their defaults.

        Raises:
            UserError: `values` is not a JSON object, a key is unknown, or a value is invalid.
        """
        if not isinstance(values, dict):
            raise UserError("not a JSON object")
        type_of = {field.name: field.type for field in fields(cls)}
        for name, value in values.items():
            if name not in type_of:
                raise UserError(f"unknown key '{format_value(name)}'")
            if not is_valid(type_of[name], value):
                raise UserError(
                    f"invalid '{name}' {format_value(value)} (expected {describe_type(type_of[name])})"
                )
        pipeline_config = cls(**values)
        if (
            pipeline_config.default_prompt is not None
            and pipeline_config.default_prompt not in pipeline_config.prompts
        ):
            name = format_value(pipeline_config.default_prompt)
            raise UserError(f"'default_prompt' {name} missing from 'prompts'")
        return pipeline_config

    def to_json(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, as a JSON object."""
        defaults = PipelineConfig()
        return {name: value for name, value in vars(self).items() if value != getattr(defaults, name)}

    def adapt_for_task(self, prompt: str = "", **recorded: Any) -> "PipelineConfig":
        """Return the settings of a model that is fine-tuned from this one for another task.

        Tokenization settings are kept. Embedding settings, such as pooling, are dropped, because fine-tuning
        changes the embeddings.

        Args:
            prompt: prefix of every text in fine-tuning.
            recorded: settings of the fine-tuning, by field.
        """
        kept = {name: getattr(self, name) for name in _SHARED_BY_TASKS}
        if prompt:
            kept |= {"prompts": {_DEFAULT: prompt}, "default_prompt": _DEFAULT}
        return PipelineConfig(**(kept | recorded))


def get_stored_pipeline_config(pipeline_config: PipelineConfig) -> dict[str, Any]:
    """Return the pipeline settings as stored in config.json, for `read_pipeline_config`."""
    return {_FORMAT: PIPELINE_FORMAT, **pipeline_config.to_json()}


def read_pipeline_config(raw_config: Mapping[str, Any], path: Path | None) -> PipelineConfig:
    """Read the pipeline settings stored in a config.json; if there are none, return ERNIE-M's.

    Args:
        raw_config: contents of config.json.
        path: path of config.json, for messages.

    Raises:
        UserError: the settings are corrupt, or stored in another version of the format.
    """
    values = get_pipeline_values(raw_config, path)
    if isinstance(values, dict):
        values = dict(values)
        check_format_version(f"{path}: '{PIPELINE}'", values.pop(_FORMAT, None), PIPELINE_FORMAT)
    try:
        return PipelineConfig() if values is None else PipelineConfig.from_json(values)
    except UserError as error:
        raise UserError(
            f"{path}: '{PIPELINE}' is invalid ({error}). Restore or download the file again, or "
            "remove this key"
        ) from error
