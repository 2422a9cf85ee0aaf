"""Names of the tokenizer rules, their key in config.json, and the rules that split subwords further.

Used by `ernie_m.reader.tokenization`. The ErnieMTokenizer of PaddleNLP and transformers splits
SentencePiece's subwords further. Models fine-tuned with these libraries were trained with these tokens, which
differ from the official code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ernie_m.utils.checksums import UnsupportedFormatError

PIPELINE = "pipeline"  # key of the native config.json; other libraries ignore it
PIPELINE_FORMAT = 3  # its format number, for folders in other formats, which have no manifest
_SPACE = "▁"
_MARKS = frozenset(",;:.?!~，；：。？！《》【】")  # each is a token, as are basic Han characters


def get_pipeline_values(raw_config: Mapping[str, Any], path: Path | None) -> Any:
    """Return the value of "pipeline" in a config.json: the tokenizer rules, and other settings of the model.

    Args:
        raw_config: contents of config.json.
        path: path of config.json, for the message.

    Returns:
        A JSON value, of which `ernie_m.model.pipeline_config` checks the format number; None: missing.

    Raises:
        UnsupportedFormatError: the settings of an older revision are under "reading".
    """
    if "reading" in raw_config:
        raise UnsupportedFormatError(
            f"{path}: unsupported key 'reading' of another revision. If its 'format' is 2, rename it to "
            f"'{PIPELINE}', set 'format' to {PIPELINE_FORMAT} and delete manifest.json. Otherwise recreate it"
        )
    return raw_config.get(PIPELINE)


def split_subwords(subwords: Sequence[str], keeps_spaces: bool) -> list[list[str]]:
    """Split each subword of a text into tokens, like the ErnieMTokenizer of PaddleNLP and transformers.

    Args:
        subwords: the subwords of the text from SentencePiece.
        keeps_spaces: whether to keep a lone "▁" before a subword that does not begin with "▁", as in
            transformers; PaddleNLP drops it.
    """
    tokens = []
    for number, subword in enumerate(subwords):
        if subword == _SPACE:
            following = subwords[number + 1] if number + 1 < len(subwords) else _SPACE
            stays = keeps_spaces and number > 0 and not following.startswith(_SPACE)
            tokens.append([_SPACE] if stays else [])
        else:
            tokens.append(_split_subword(subword))
    return tokens


def _split_subword(subword: str) -> list[str]:
    """Split a subword at Han characters and punctuation (`_MARKS`), and between digits and other characters.

    "▁" is joined with the next token, and dropped before a Han character or punctuation.
    """
    tokens = []
    start = 0  # the start of the next token
    for index, character in enumerate(subword):
        if character == _SPACE:
            continue
        is_token = "\u4e00" <= character <= "\u9fff" or character in _MARKS
        is_border = index > 0 and character.isdigit() != subword[index - 1].isdigit()
        if not (is_token or is_border):
            continue
        if index > start and subword[start:index] != _SPACE:  # the text before it, unless a lone "▁"
            tokens.append(subword[start:index])
        start = index
        if is_token:
            tokens.append(character)
            start = index + 1
    if start < len(subword):
        tokens.append(subword[start:])
    return tokens


ERNIE_M = "ernie-m"  # the official rules
NONE = "none"
TEXT_RULES = (ERNIE_M, NONE, "paddlenlp", "transformers")
LIBRARY_RULES = TEXT_RULES[2:]
QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}  # rule 1 of `ernie_m.reader.tokenization`
