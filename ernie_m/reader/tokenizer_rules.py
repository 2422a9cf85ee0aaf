"""The rules that make pieces of a text, by name, and those that cut pieces further.

`ernie_m.reader.tokenization` applies them. The ErnieMTokenizer of PaddleNLP and transformers cuts
sentencepiece's pieces further: their fine-tuned models were trained with these tokens, which are not those of
the official code.
"""

from collections.abc import Sequence

_SPACE = "▁"
_MARKS = frozenset(",;:.?!~，；：。？！《》【】")  # each is a token, as each Han character of the basic block


def cut_pieces(pieces: Sequence[str], keeps_spaces: bool) -> list[list[str]]:
    """The tokens that take the place of each piece of a text.

    Args:
        pieces: those that sentencepiece cuts the text into.
        keeps_spaces: whether a "▁" alone stays between two pieces of which the second does not begin with
            one, as in transformers; in PaddleNLP it never does.
    """
    tokens = []
    for number, piece in enumerate(pieces):
        if piece == _SPACE:
            following = pieces[number + 1] if number + 1 < len(pieces) else _SPACE
            stays = keeps_spaces and number > 0 and not following.startswith(_SPACE)
            tokens.append([_SPACE] if stays else [])
        else:
            tokens.append(_cut(piece))
    return tokens


def _cut(piece: str) -> list[str]:
    """Cut a piece at Han characters, at marks, and between digits and others. A "▁" goes with what follows.

    Before a Han character or a mark it is left out.
    """
    tokens = []
    start = 0  # where the next token begins
    for index, character in enumerate(piece):
        if character == _SPACE:
            continue
        is_token = "\u4e00" <= character <= "\u9fff" or character in _MARKS
        is_border = index > 0 and character.isdigit() != piece[index - 1].isdigit()
        if not (is_token or is_border):
            continue
        if index > start and piece[start:index] != _SPACE:  # what was before: a token, or a lone "▁"
            tokens.append(piece[start:index])
        start = index
        if is_token:
            tokens.append(character)
            start = index + 1
    if start < len(piece):
        tokens.append(piece[start:])
    return tokens


ERNIE_M = "ernie-m"  # the official rules
NONE = "none"
TEXT_RULES = (ERNIE_M, NONE, "paddlenlp", "transformers")
LIBRARY_RULES = TEXT_RULES[2:]
QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}  # rule 1 of `ernie_m.reader.tokenization`
